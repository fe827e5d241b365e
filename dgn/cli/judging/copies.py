"""``dgn evaluate data.training=FOLDER``: the nearest training image beside each synthesis, and how many are copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dgn.analysis.squares import Squares
from dgn.drawing.matrix import Cell, grid
from dgn.evaluation.copies import Nearest, measure_copies, nearest_images
from dgn.evaluation.figures import Figure
from dgn.evaluation.judges import Judge
from dgn.evaluation.reference import Made
from dgn.files.listing import counted
from dgn.images.fit import resized
from dgn.images.pictures import to_image
from dgn.runs.run import Run

LEAST = 100
"""Photographs of which the nearest 1 % can be told."""


COLUMNS = ("method", "unit", "seed", "nearest", "distance", "quantile")
"""Of ``copies.csv``."""


@dataclass
class Copies:
    """Figures of each method, and lines to warn of."""

    figures: list[Figure]
    warnings: list[str]


def compare_with_training(
    folder: Run, training: Squares, judge: Judge, made: Sequence[Made], real: Tensor, progress: bool
) -> Copies:
    """Look for the nearest training image of each image; writes ``copies.csv``, and ``copies.png`` of the first method.

    Args:
        folder: of the run.
        training: the images that the prior was trained on, as the judge sees them.
        judge: in whose features images are near.
        made: the methods.
        real: photographs that were not trained on, ``[N, C, H, W]`` in [0, 1]; shown as small as each method's images.
        progress: whether a bar is drawn.
    """
    sizes = [(one.images.shape[2], one.images.shape[3]) for one in made]
    yardsticks = {size: resized(real, size, "crop") for size in sizes}
    with tqdm(total=len(training), desc="training images", unit="image", disable=not progress) as bar:
        near, broken = nearest_images(
            judge, [*yardsticks.values(), *(one.images for one in made)], training, note=bar.update
        )
    warnings = counted(broken, "training images could not be read")
    if len(real) < LEAST:
        warnings.append(f"of {len(real)} photographs no 1 % can be told: give {LEAST} or more as data.photos")
    yardstick = dict(zip(yardsticks, near, strict=False))
    rows: list[dict[str, object]] = []
    figures: list[Figure] = []
    for one, size, own in zip(made, sizes, near[len(yardsticks) :], strict=True):
        quantiles = own.quantiles(yardstick[size])
        for unit, seed, index, *numbers in zip(
            one.units, one.seeds, own.index.tolist(), own.distance, quantiles, strict=True
        ):
            values = (one.method, unit.name, seed, training.name(index), *(f"{number:.6g}" for number in numbers))
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        figures += measure_copies(one, judge.name, own, yardstick[size])
        if one is made[0]:
            folder.write_picture("copies.png", _beside(one, own, quantiles, training))
    folder.write_table(rows, COLUMNS, "copies.csv")
    return Copies(figures, warnings)


def _beside(one: Made, found: Nearest, quantiles: Tensor, data: Squares) -> Image.Image:
    cells = []
    for row, (unit, seed) in enumerate(zip(one.units, one.seeds, strict=True)):
        if seed == one.seeds[0]:
            nearest = data.tensors([int(found.index[row])])[0]
            cells += [
                Cell(unit.name, one.method, to_image(one.images[row]), ""),
                Cell(unit.name, "nearest", to_image(nearest), f"{float(quantiles[row]):.0%} of real ones are nearer"),
            ]
    return grid(cells, "Each image above the training image nearest to it", tile=128, columns=10)
