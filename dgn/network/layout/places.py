"""Which axes of layers are places of the image: asked of the network by changing one part of an image at a time.

The parts are those of a 3 x 3 grid. Each entry of an axis answers to some parts more than to others, and these have a
centre in the image. From entry to entry of an axis of places this centre moves down or across the image; along an axis
of features it stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dgn.network.calling import Call, watching
from dgn.network.layout.layout import Grid
from dgn.network.layout.survey import Seen, pick, watched

SIDE = 3
"""Parts along the height and the width."""

MOST_OTHERS = 64
"""Tokens beside a grid, at most: class tokens and registers."""

FEATURE = 0.7
"""The score up to which an axis is one of features; from 1 on it is one of places; see :class:`Places`."""

FAR, STEADY = 0.35, 5.0
"""Of an axis of places: how far the centres move from its first third to its last (the image is 2 wide), or how many
standard errors Fisher's z of their correlation with the index is from 0."""

FOLLOWS = 0.6
"""The correlation with rows, and with columns, from which tokens follow a grid."""


def probe_images(channels: int, size: tuple[int, int]) -> Tensor:
    """An image of noise, twice, and the same with each part replaced by other noise: ``[2 + SIDE ** 2, C, H, W]``."""
    stream = torch.Generator().manual_seed(0)
    base, other = torch.rand(2, channels, *size, generator=stream)
    images = base.mul(0.4).add(0.3).repeat(2 + SIDE**2, 1, 1, 1)
    rows, columns = (torch.arange(pixels) * SIDE // pixels for pixels in size)
    for part in range(SIDE**2):
        inside = (rows == part // SIDE)[:, None] & (columns == part % SIDE)[None]
        images[2 + part] = torch.where(inside, other, base.mul(0.4).add(0.3))
    return images


@torch.no_grad()
def answers(
    modules: Mapping[str, nn.Module], layers: Mapping[str, Seen], show: Callable[[Tensor], Any], images: Tensor
) -> dict[str, list[Tensor]]:
    """How much each entry along each axis of each layer changes with each part, ``[SIDE ** 2, size]`` an axis.

    Empty of a layer whose samples don't stand one after the other: equal images gave it different values. ``show``
    gives the network the images of :func:`probe_images`.
    """
    by_axis: dict[str, list[Tensor]] = {}

    def note(call: Call, value: Any) -> None:
        for layer, seen in layers.items():
            if seen.call == call and len(seen.shape) > 1:
                by_axis[layer] = _by_axis(pick(value, seen.path), seen, len(images))

    outputs, inputs = watched(modules, layers.values())
    with watching(outputs, note, by_axis, inputs):
        note(Call(), show(images))
    return by_axis


def _by_axis(output: Tensor, seen: Seen, samples: int) -> list[Tensor]:
    output = seen.samples_first(output, samples).float()
    change = (output[1:] - output[:1]).abs().nan_to_num(0.0, 0.0, 0.0)
    if seen.windows > 1 and float(change[0].mean()) > 0.1 * float(change[1:].mean()):
        return []
    change = change[1:]
    axes = range(1, change.dim())
    return [change.mean([other for other in axes if other != axis]) for axis in axes]


class Places:
    """What the answers say of one layer's axes.

    Args:
        axes: the answers along each axis, ``[SIDE ** 2, size]``.
        maps: height and width of maps that the layer may follow.
        aspect: height of the network's input by its width.

    Attributes:
        scores: of each axis, how far and how steadily the centres of its entries move over the image: 1 and more along
            places, about 0 along features.
        grids: of each axis, the grid that its entries follow best, as tokens do; None.
    """

    def __init__(self, axes: Iterable[Tensor], maps: Iterable[tuple[int, int]], aspect: float) -> None:
        maps = list(dict.fromkeys(maps))
        self.scores: list[float] = []
        self.grids: list[Grid | None] = []
        for answer in axes:
            y, x = _centres(answer)
            self.scores.append(max(_moves(y), _moves(x)))
            best, chosen = FOLLOWS, None
            for grid in _candidates(len(y), maps, aspect):
                score = _follows(y, x, grid)
                if score > best + 0.02:  # of equals, the first
                    best, chosen = score, grid
            self.grids.append(chosen)

    def features(self) -> int | None:
        """The one axis that is none of places, where all others are; else None."""
        still = [axis for axis, score in enumerate(self.scores) if score <= FEATURE]
        moving = [axis for axis, score in enumerate(self.scores) if score >= 1]
        return still[0] if len(still) == 1 and len(moving) == len(self.scores) - 1 else None

    def denies(self, axis: int) -> bool:
        """Whether the axis is one of places, and another is not."""
        others = [score for other, score in enumerate(self.scores) if other != axis]
        return self.scores[axis] >= 1 and min(others) <= FEATURE


def _centres(answer: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the image, from -1 to 1, the parts lie that each entry answers to: along the height and the width."""
    share = answer / answer.mean(1, keepdim=True).clamp(min=1e-12)
    share = share / share.sum(0).clamp(min=1e-12)
    at = torch.linspace(-1, 1, SIDE)
    grid = share.cpu().view(SIDE, SIDE, -1)
    return (grid.sum(1) * at[:, None]).sum(0), (grid.sum(0) * at[:, None]).sum(0)


def _moves(centres: Tensor) -> float:
    """How far and how steadily centres move along an axis; see :data:`FAR`."""
    count = len(centres)
    if count < 2:
        return 0.0
    third = max(1, count // 3)
    far = float(centres[-third:].mean() - centres[:third].mean()) / FAR
    if count < 6:
        return far
    steady = math.atanh(min(0.9999, max(-0.9999, _correlation(centres, torch.arange(count).float()))))
    return max(far, steady * math.sqrt(count - 3) / STEADY)


def _follows(y: Tensor, x: Tensor, grid: Grid) -> float:
    """How well the centres of entries follow the rows and columns of a grid."""
    inside = slice(grid.first, grid.first + grid.cells)
    cells = torch.arange(grid.cells)
    axes = ((y, cells // grid.width, grid.height), (x, cells % grid.width, grid.width))
    return min((_correlation(centres[inside], index.float()) for centres, index, size in axes if size > 1), default=0.0)


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))


def _candidates(count: int, maps: Iterable[tuple[int, int]], aspect: float) -> Iterable[Grid]:
    """Grids that so many tokens can hold: of maps before them, else of the input's shape; the others first or last."""
    fitting = [(height, width) for height, width in maps if 1 < height * width <= count <= height * width + MOST_OTHERS]
    if not fitting:
        for others in range(min(9, count)):
            height = round(math.sqrt((count - others) * aspect))
            if height >= 1 and (count - others) % height == 0:
                width = (count - others) // height
                if 0.8 < height / (width * aspect) < 1.25 and height * width > 1:
                    fitting.append((height, width))
    for height, width in fitting:
        yield Grid(height, width, count - height * width)
        if count > height * width:
            yield Grid(height, width)
