"""Judges: classifiers that took no part in a synthesis, with the layer in whose feature space they compare images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgn.errors import DgnError
from dgn.guest import guest
from dgn.network.layers import feature_layer
from dgn.network.layout.survey import OUTPUT
from dgn.network.means import layer_means
from dgn.network.network import Network
from dgn.network.sources import load_network


@dataclass
class Verdict:
    """What a judge sees in images: ``logits`` ``[N, classes]`` and ``features`` ``[N, D]``, float32 on the CPU."""

    logits: Tensor
    features: Tensor

    def ranks(self, classes: list[int]) -> Tensor:
        """The rank (1: first choice) of each image's class, int64 ``[N]``; 0 where the class is negative (none).

        Of equal logits, and of those that are not a number, the class comes last.
        """
        wanted = torch.tensor(classes)
        own = self.logits.gather(1, wanted.clamp(min=0)[:, None])
        return torch.where(wanted >= 0, (~(self.logits < own)).sum(1), 0)


@dataclass
class Judge:
    """A network that judges, and the layer whose (spatially averaged) output is its feature space."""

    network: Network
    layer: str

    @property
    def name(self) -> str:
        """Of its network; of a file, without folder and suffix."""
        return self.network.name

    def names(self, network: Network) -> bool:
        """Whether its outputs can be the classes of the network under study: there are as many."""
        return self.network.layers[OUTPUT] == network.layers.get(OUTPUT)

    @guest
    def see(self, images: Tensor, note: Callable[[int], object] | None = None) -> Verdict:
        """Logits and features of images ``[N, C, H, W]`` in [0, 1], any size, grey or in colour; ``note`` hears of each
        batch."""
        means = layer_means(self.network, images, [self.layer, OUTPUT], note)
        return Verdict(means[OUTPUT], means[self.layer])


@guest
def load_judge(name: str, *, device: torch.device | str = "cpu", trust: bool = False) -> Judge:
    """A judge by its network's name or the path of a ``torch.export`` program; see :func:`dgn.load_network`."""
    network = load_network(name, device=device, trust=trust)
    shape = network.layers.get(OUTPUT)
    if shape is None or len(shape) != 1:
        raise DgnError(f"judge {name!r} is no classifier: its output has the shape {shape}")
    return Judge(network, feature_layer(network))
