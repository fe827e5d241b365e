"""The activation atlas: what a layer makes of many images, laid out in a plane and averaged over the cells of a grid.

Carter et al. 2019, "Activation Atlas" (Distill, doi 10.23915/distill.00015). Images are synthesised elsewhere: every
cell is a unit, the direction of its mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dgn.analysis.plane import METHODS, find_method, gathered, lay_out, taken, whitened
from dgn.analysis.squares import Squares, as_floats
from dgn.arguments import check_counts, check_workers
from dgn.drawing.matrix import raster
from dgn.drawing.mosaic import Mosaic, Tile, draw_mosaic
from dgn.errors import DgnError, one_of
from dgn.files.listing import counted
from dgn.guest import guest
from dgn.images.pictures import to_image
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.units.unit import Unit
from dgn.units.units import class_unit, direction

POSITIONS = {"random": "one place of each image, not at an edge", "mean": "the mean over all places"}
FEWEST_IMAGES = 10
"""A plane can't be laid out for fewer."""

MOST_CELLS, A_CELL = 20, 2
"""Cells a side where none are asked for: at most, and such that the images are so many times ``fewest`` a cell."""

NAMED = 3
"""Classes that are told of each cell."""


@dataclass(frozen=True)
class AtlasCell:
    """One cell.

    Attributes:
        row, column: in the grid, from its upper left corner.
        members: rows of :attr:`Atlas.vectors` that lie in it; ``count`` of them.
        mean: ``[C]`` of these.
        unit: the direction towards it.
        chosen: classes that the network chooses for its images, with their numbers, the most frequent first.
        outputs: classes with the highest mean output over its images, with that mean, highest first.
    """

    row: int
    column: int
    members: list[int] = field(repr=False)
    mean: Tensor = field(repr=False)
    unit: Unit = field(repr=False)
    chosen: list[tuple[str, int]]
    outputs: list[tuple[str, float]]

    @property
    def count(self) -> int:
        return len(self.members)

    def facts(self) -> dict[str, Any]:
        """What a table says of it."""
        return {
            "cell_row": self.row, "cell_column": self.column, "count": self.count,
            "chosen": "; ".join(f"{name} {count}" for name, count in self.chosen),
            "mean_outputs": "; ".join(f"{name} {mean:.2f}" for name, mean in self.outputs),
        }  # fmt: skip


@dataclass(frozen=True)
class Atlas:
    """A layer's activations in a plane.

    Attributes:
        layer, method, grid: whose they are; how they are laid out: ``umap``, ``tsne`` or ``pca``; cells a side.
        cells: those that are not empty, row by row.
        vectors: ``[N, C]``, float32, one activation an image.
        plane: ``[N, 2]``, float32, from 0 to 1: to the right, and downwards.
        indices: of the images, in the data set.
        notes: lines for what could not be read.
    """

    layer: str
    method: str
    grid: int
    cells: list[AtlasCell]
    vectors: Tensor = field(repr=False)
    plane: Tensor = field(repr=False)
    indices: list[int] = field(repr=False)
    notes: list[str]

    @property
    def units(self) -> list[Unit]:
        """The cells as units."""
        return [cell.unit for cell in self.cells]

    @property
    def words(self) -> str:
        """What it shows, in a line."""
        kept = sum(cell.count for cell in self.cells)
        return f"{self.layer}: {kept} of {len(self.plane)} images in {len(self.cells)} cells, by {METHODS[self.method]}"

    def mosaic(self, syntheses: Mapping[str, Tensor]) -> Mosaic:
        """Images ``[cells, C, H, W]`` in [0, 1], as :func:`dgn.synthesize` of :attr:`units` gives them, in the places
        of their cells, the side of each by the root of its count; of several, by their names, one atlas beside another.
        """
        usual = float(np.quantile([cell.count for cell in self.cells], 0.75))
        panels: dict[str, list[Tile]] = {}
        for name, images in syntheses.items():
            panels[name] = tiles = []
            for cell, image in zip(self.cells, images, strict=True):
                facts, side = cell.facts(), min(1.0, max(0.8, (cell.count / usual) ** 0.5))
                lines = [
                    f"{what.replace('_', ' ')}: {facts[what]}" for what in ("chosen", "mean_outputs") if facts[what]
                ]
                tiles.append(Tile(cell.column, cell.row, side, to_image(image), f"{cell.count} images", lines))
        return Mosaic(panels)

    def picture(self, images: Tensor) -> Image.Image:
        """The atlas of these images; see :meth:`mosaic`."""
        return raster(draw_mosaic(self.mosaic({"": images}), title=self.words), 200)


@guest
def atlas(
    network: Network,
    layer: str,
    data: str | Path | Sequence[Any] | Dataset[Any] | Squares,
    *,
    position: str = "random",
    method: str = "auto",
    grid: int | None = None,
    fewest: int = 5,
    whiten: bool = True,
    cosine: float = 2.0,
    seed: int = 0,
    batch: int = 32,
    workers: int = 0,
    note: Callable[[int, int], object] | None = None,
) -> Atlas:
    """What a layer makes of many images, in a plane, each cell of a grid a unit: ``dgn.synthesize(network, it.units)``.

    Args:
        network, layer: where; any layer that units can be read from.
        data, batch, workers, note: see :func:`dgn.find_examples`.
        position: of a layer with places, what is taken of each image: ``"random"``, one place, not at an edge, as in
            the paper; ``"mean"``, the mean over all places.
        method: ``"umap"`` (with umap-learn), ``"tsne"``, ``"pca"``; ``"auto"``: UMAP if it is installed, else t-SNE.
            Activations are compared by the cosine between them.
        grid: cells a side; None: by the number of images, at most 20.
        fewest: cells with fewer activations stay empty, and so do those whose mean is zero.
        whiten: a cell's direction is its mean times the inverse of the second moments of all activations (shrunken as
            Ledoit and Wolf 2004), as in the paper: what tells it from the others. False: the mean.
        cosine: power of the cosine in the cells' units; see :func:`dgn.direction`.
        seed: of the places, and of the layout.

    Raises:
        DgnError: unknown layer, a layer of one feature, too few images that can be read or all of them alike, or a grid
            of which no cell has so many activations.
    """
    one_of("position", position, POSITIONS)
    seed %= 2**32
    method = find_method(method)
    check_workers(workers)
    check_counts(grid=grid, fewest=fewest, batch=batch)
    layout = network.layout(layer)
    if layout.count < 2:
        raise DgnError(f"layer {layer!r} has 1 feature: an atlas needs 2 or more")
    direction(network, layer, torch.ones(layout.count), cosine=cosine)  # checks it before the images are seen
    squares = data if isinstance(data, Squares) else Squares(data, network.sight)
    draws = np.random.default_rng(seed).random(len(squares)) if position == "random" else None
    asked = [layer, *([OUTPUT] if network.scores != "none" and not network.layout(OUTPUT).positions else [])]
    fast, indices, broken = network.fast(asked), list[int](), list[str]()
    vectors, outputs = list[Tensor](), list[Tensor]()
    for pixels, at, unread in squares.batches(steadiness(network, asked).batch(batch), workers=workers):
        broken += unread
        if len(at):
            with torch.no_grad():
                maps = fast.maps(as_floats(pixels.to(network.device)), asked)
            indices += at.tolist()
            vectors.append(taken(maps[layer].float(), layout, None if draws is None else draws[at.numpy()]).cpu())
            outputs += [maps[OUTPUT].float().cpu()] if OUTPUT in asked else []
        if note:
            note(len(indices) + len(broken), len(squares))
    if len(indices) < FEWEST_IMAGES:
        raise DgnError(f"an atlas is made of {FEWEST_IMAGES} images or more, {len(indices)} can be read")
    x = torch.cat(vectors)
    if not bool(x.isfinite().all()) or not bool((x != x[0]).any()):
        raise DgnError(f"layer {layer!r} gives numbers that are not finite, or the same for all images")
    plane = lay_out(x, method, seed)
    grid = grid or max(1, min(MOST_CELLS, round((len(x) / (A_CELL * fewest)) ** 0.5)))
    found = {place: members for place, members in gathered(plane, grid).items() if len(members) >= fewest}
    means = {place: x[members].mean(0) for place, members in found.items()}
    means = {place: mean for place, mean in means.items() if bool(mean.any())}
    if not means:
        say = "give a smaller grid" if grid > 1 else "give a smaller fewest, or more images"
        raise DgnError(f"no cell of the {grid} x {grid} has {fewest} of the {len(x)} activations: {say}")
    towards = torch.stack([*means.values()])
    towards = torch.nn.functional.normalize(whitened(x, towards) if whiten else towards, dim=1)
    scores = torch.cat(outputs) if outputs else None
    cells = []
    for (place, mean), vector in zip(means.items(), towards, strict=True):
        unit = direction(network, layer, vector, cosine=cosine, name=f"{layer}:cell {place[0]},{place[1]}")
        classes = ([], []) if scores is None else _classes(network, scores[found[place]])
        cells.append(AtlasCell(*place, found[place], mean, unit, *classes))
    notes = counted(squares.unread, "folders or tar files could not be looked into")
    notes += counted(broken, "images could not be read") + steadiness(network, asked).notes(network)
    return Atlas(layer, method, grid, cells, x, plane, indices, notes)


def _classes(network: Network, outputs: Tensor) -> tuple[list[tuple[str, int]], list[tuple[str, float]]]:
    """The classes that are chosen most often by outputs ``[N, K]``, and those with the highest mean, best first."""
    often = Counter(sorted(outputs.argmax(1).tolist())).most_common(NAMED)  # of equals the lower index first
    means, best = outputs.mean(0).sort(descending=True, stable=True)
    high = list(zip(best.tolist(), means.tolist(), strict=True))[:NAMED]
    name = lambda index: class_unit(index, network).name  # noqa: E731
    return [(name(index), count) for index, count in often], [(name(index), mean) for index, mean in high]
