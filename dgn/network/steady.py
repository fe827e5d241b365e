"""Whether a network gives the same image the same numbers: alone and beside another, now and a moment later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dgn.network.network import Network

AGREES, NARROW = 2e-3, 0.05
"""Largest difference, as a share of a layer's largest number, that is rounding: of float32 and more, and of less."""


@dataclass(frozen=True)
class Steadiness:
    """Whether numbers can be relied on.

    Attributes:
        alone: whether a row is what it would be without the other images of its batch.
        certain: whether the same image gives the same numbers again.
    """

    alone: bool = True
    certain: bool = True

    def batch(self, batch: int) -> int:
        """Images that may be seen together: one by one where a row depends on the others."""
        return batch if self.alone else 1

    def notes(self, network: Network) -> list[str]:
        """A line for each thing that a reader of the numbers has to know."""
        lines = []
        if not self.certain:
            lines.append(
                f"network {network.name!r} gives the same image other numbers each time (dropout that is always on?): "
                "activations are those of one look"
            )
        if not self.alone:
            lines.append(
                f"network {network.name!r} gives an image other numbers beside other images (BatchNorm without "
                "statistics?): images are seen one at a time"
            )
        return lines


_answers: WeakKeyDictionary[object, dict[tuple[str, ...], Steadiness]] = WeakKeyDictionary()
"""By module and layers: found out once."""


def steadiness(network: Network, layers: Sequence[str]) -> Steadiness:
    """Ask the network for these layers: one image twice, and once beside another. No random state is advanced."""
    answers, key = _answers.setdefault(network.module, {}), tuple(layers)
    if key not in answers:
        answers[key] = _ask(network, layers)
    return answers[key]


@torch.no_grad()
def _ask(network: Network, layers: Sequence[str]) -> Steadiness:
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(1, network.channels, *network.input_size, generator=generator)
    pair = torch.cat([noise, 0.2 * noise.flip(3)]).to(network.device)
    network = network.apart()
    devices = [network.device] if network.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        first, again = (network.features(pair[:1], layers) for _ in range(2))
        try:
            beside = network.features(pair, layers)
        except RuntimeError:  # it takes one image at a time: whoever asks for more is told so there
            beside = first
        rows = len(pair) if beside is not first else 1
    certain = all(_near(again[layer], first[layer]) for layer in layers)

    def own(layer: str, read: dict[str, Tensor], samples: int) -> Tensor:
        return network.seen(layer).samples_first(read[layer], samples)[:1]

    alone = not certain or all(_near(own(layer, beside, rows), own(layer, first, 1)) for layer in layers)
    return Steadiness(alone, certain)


def _near(output: Tensor, expected: Tensor) -> bool:
    if output.shape != expected.shape:
        return True  # no row a sample: said elsewhere
    share = AGREES if torch.finfo(expected.dtype).bits >= 32 else NARROW
    output, expected = output.float(), expected.float()
    finite = output.isfinite() & expected.isfinite()
    if not bool(finite.any()):
        return True
    return float((output - expected)[finite].abs().max()) <= share * float(expected[finite].abs().max())
