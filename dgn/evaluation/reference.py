"""What is measured and against what: images of a method, and real images as the network and the judges see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dgn.evaluation.judges import Judge, Verdict
from dgn.evaluation.real import RealImages
from dgn.guest import guest
from dgn.images.fit import canvas_size, resized, to_channels
from dgn.images.given import as_images
from dgn.network.means import BATCH
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.units.read import Reader
from dgn.units.unit import Unit, layers_of

COMMON_SIZE = 128
"""Pixels of the short side of the real examples, and at which MS-SSIM compares images; judges see each image at their
own size."""


@dataclass
class Made:
    """Images of one method: ``[N, C, H, W]`` in [0, 1], with the unit and seed of each, and what they cost."""

    method: str
    images: Tensor
    units: list[Unit]
    seeds: list[int]
    seconds: list[float] = field(default_factory=list)
    """Of each image: its share of its batch's time; empty where it is not known."""
    memory: float = 0.0
    real_index: list[int] = field(default_factory=list)
    """For images that are themselves among the real ones: their place there."""
    values: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    """By metric and judge, an image's own value, ``[N]`` (NaN: it has none); filled by :func:`measure`."""


@dataclass
class Reference:
    """Real images as the network and the judges see them; made once, shared by all methods."""

    real: RealImages
    activations: dict[str, Tensor]
    verdicts: dict[str, Verdict]

    def of_classes(self, classes: Sequence[int]) -> Tensor:
        """Places of the real images of these classes."""
        wanted = set(classes)
        return torch.tensor([i for i, label in enumerate(self.real.classes) if label in wanted], dtype=torch.long)


@guest
@torch.no_grad()
def activations_of_all(
    network: Network, images: Tensor, units: Sequence[Unit], note: Callable[[int], object] | None = None
) -> dict[str, Tensor]:
    """Every unit's activation of each image, ``[N]`` a unit, in one pass over the images."""
    layers = layers_of(units)
    images = to_channels(as_images(images, "the images").float(), network.channels)
    parts: dict[str, list[Tensor]] = {unit.name: [] for unit in units}
    for piece in images.split(steadiness(network, layers).batch(BATCH)):
        read = network.features(piece.to(network.device), layers)
        for unit in units:
            parts[unit.name].append(Reader(network, [unit] * len(piece))(read).cpu())
        if note:
            note(len(piece))
    return {name: torch.cat(values) for name, values in parts.items()}


def look_at(
    real: RealImages,
    network: Network,
    judges: Sequence[Judge],
    units: Sequence[Unit],
    note: Callable[[int], object] | None = None,
) -> Reference:
    """Real images, seen by the network and the judges; ``note`` hears of each batch of each."""
    activations = activations_of_all(network, real.as_seen, units, note=note)
    return Reference(real, activations, {judge.name: judge.see(real.images, note=note) for judge in judges})


def best_examples(reference: Reference, units: Sequence[Unit], count: int) -> Made:
    """The real images that excite each unit most, best first: the method every synthesis is measured against."""
    places = [reference.activations[unit.name].topk(min(count, len(reference.real.images))).indices for unit in units]
    flat = torch.cat(places)
    images = common(reference.real.images[flat])
    rows = [(unit, seed) for unit, place in zip(units, places, strict=True) for seed in range(len(place))]
    return Made("real", images, [u for u, _ in rows], [s for _, s in rows], real_index=flat.tolist())


def common(images: Tensor) -> Tensor:
    """Images at :data:`COMMON_SIZE`, in their own proportions."""
    return resized(images, canvas_size(COMMON_SIZE, (images.shape[2], images.shape[3])))
