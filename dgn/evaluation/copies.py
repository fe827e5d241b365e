"""Does a prior copy? Each image beside the training image that is nearest to it, measured against real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgn.analysis.squares import Squares, as_floats
from dgn.errors import DgnError
from dgn.evaluation.figures import Figure
from dgn.evaluation.judges import Judge
from dgn.evaluation.metrics import cosine_distance, mean_interval
from dgn.evaluation.reference import Made
from dgn.guest import guest
from dgn.network.means import BATCH

COPY = 0.01
"""Nearer to a training image than all but this share of real images that were not trained on: a copy."""


@dataclass
class Nearest:
    """Of each image: the training image that is nearest, ``[N]``, and its distance, ``[N]`` (infinite: none)."""

    index: Tensor
    distance: Tensor

    def quantiles(self, real: Nearest) -> Tensor:
        """Share of the real images that are nearer to a training image than this one is, ``[N]``."""
        return (real.distance[None] < self.distance[:, None]).double().mean(1)


@guest
@torch.no_grad()
def nearest_images(
    judge: Judge, images: Sequence[Tensor], training: Squares, note: Callable[[int], object] | None = None
) -> tuple[list[Nearest], list[str]]:
    """Of each image the nearest training image, by the cosine distance of the judge's features; one pass over the data.
    And the names of training images that could not be read.

    Args:
        judge: in whose features.
        images: several sets ``[N, C, H, W]`` in [0, 1].
        training: seen at the judge's own input size.
        note: hears of each batch.

    Raises:
        DgnError: no training image can be read.
    """
    features = [judge.see(one).features for one in images]
    found = [Nearest(torch.full((len(one),), -1), torch.full((len(one),), torch.inf).double()) for one in images]
    broken: list[str] = []
    for pixels, indices, lost in training.batches(BATCH):
        broken += lost
        if len(indices):
            seen = judge.see(as_floats(pixels)).features
            for one, mine in zip(found, features, strict=True):
                distance, place = cosine_distance(mine, seen).min(1)
                closer = distance < one.distance
                one.distance[closer], one.index[closer] = distance[closer], indices[place[closer]]
        if note:
            note(len(indices) + len(lost))
    if len(broken) == len(training):
        raise DgnError(f"none of the {len(training)} training images can be read, the first: {broken[0]!r}")
    return found, broken


def measure_copies(made: Made, judge: str, found: Nearest, real: Nearest) -> list[Figure]:
    """The mean quantile of a method's distances to training images, and the share of its images that are copies."""
    groups, quantiles = [unit.name for unit in made.units], found.quantiles(real)
    return [
        Figure(made.method, metric, judge, *mean_interval(values, groups), len(groups))
        for metric, values in (("copies", (quantiles < COPY).double()), ("training", quantiles))
    ]
