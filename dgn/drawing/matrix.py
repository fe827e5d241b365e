"""Labelled pictures in rows and columns: of a run, of a result in a notebook, of a figure for a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dgn.drawing.letters import LEADING, fit, inches, tall, wrap

WIDTHS = {"column": 3.4, "page": 7.0}
"""Inches: of one column, and of a page of two."""

WIDEST, GAP = 2.2, 0.04
"""Inches of a picture's place, at most (a matrix of few columns is narrower than its page), and between two."""

MOST_UNITS, MOST_CELLS = 64, 512
"""Columns and pictures of a grid."""

DPI, LONGEST = 100, 60_000
"""Pixels an inch of a grid, and of its longer side: matplotlib draws none above 65,535."""

FAINT = "#555555"

Place = tuple[int, int]
"""A row and a column."""


@dataclass(frozen=True)
class Cell:
    """One picture of a grid (or its file, opened when it is drawn), and what stands above, left of and below it."""

    unit: str
    row: str
    image: Image.Image | Path
    caption: str


@dataclass
class Matrix:
    """Pictures in rows and columns; where one is missing the place stays empty.

    Attributes:
        rows, columns: their names; a column's stands above it, where it has one.
        pictures, captions: by (row, column), pictures also as files; captions stand below.
        names: what a picture shows, by (row, column), above it: where a column has no name of its own.
        key: of the colours, with the values at its left end, middle and right end.
        last: a line below everything.
    """

    rows: list[str]
    columns: list[str]
    pictures: dict[Place, Image.Image | Path] = field(default_factory=dict)
    captions: dict[Place, str] = field(default_factory=dict)
    names: dict[Place, str] = field(default_factory=dict)
    key: tuple[Image.Image, tuple[str, str, str]] | None = None
    last: str = ""

    def transposed(self) -> Matrix:
        """Rows as columns."""
        pictures, captions, names = (
            {(b, a): value for (a, b), value in part.items()} for part in (self.pictures, self.captions, self.names)
        )
        return Matrix(self.columns, self.rows, pictures, captions, names, self.key)  # type: ignore[arg-type]


def grid(cells: Sequence[Cell], title: str, *, tile: int = 176, columns: int = 8) -> Image.Image:
    """One column a unit, one row a prior and seed; after ``columns`` units those that follow stand below.

    Units and rows are in the order of their first appearance. At most :data:`MOST_UNITS` units are shown, and fewer
    where that were more than :data:`MOST_CELLS` pictures; a last line counts the others.

    Args:
        cells: in any order.
        title: above everything.
        tile: pixels of a picture's side.
        columns: units side by side.
    """
    units, rows = list(dict.fromkeys(cell.unit for cell in cells)), list(dict.fromkeys(cell.row for cell in cells))
    shown = units[: min(MOST_UNITS, max(8, MOST_CELLS // max(1, len(rows))))]
    matrix = Matrix(rows * -(-len(shown) // columns), [""] * min(columns, len(shown)))
    for cell in (cell for cell in cells if cell.unit in shown):
        block, column = divmod(shown.index(cell.unit), columns)
        first = block * len(rows)
        place = first + rows.index(cell.row), column
        matrix.names[first, column], matrix.pictures[place], matrix.captions[place] = (
            cell.unit, cell.image, cell.caption,
        )  # fmt: skip
    if len(shown) < len(units):
        matrix.last = f"and {len(units) - len(shown)} more units"
    return screen(matrix, title, tile)


def screen(matrix: Matrix, title: str, tile: int) -> Image.Image:
    """A matrix as it is looked at on a screen, with pictures of ``tile`` pixels."""
    return raster(draw_matrix(matrix, width=math.inf, widest=tile / DPI, title=title, points=10.0), DPI)


def raster(canvas: Any, dpi: float) -> Image.Image:
    """A matplotlib figure as a picture of so many pixels an inch, fewer where it would be too long."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas.set_dpi(min(dpi, LONGEST / max(canvas.get_size_inches())))
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    return Image.fromarray(np.asarray(agg.buffer_rgba())[..., :3].copy())


def draw_matrix(
    matrix: Matrix, *, width: float = 7.0, widest: float = WIDEST, title: str = "", points: float = 7.0
) -> Any:
    """A matplotlib figure; no text is cut, none is wider than its place.

    Args:
        matrix: what to show.
        width: inches of the figure, at most.
        widest: inches of a picture's place, at most.
        title: above it.
        points: size of the letters.
    """
    from matplotlib.figure import Figure as Canvas

    across = max(1, len(matrix.columns))
    size, labels = fit(matrix.rows, 0.2 * width, points)
    left = 0.1 + max((inches(line, size) for lines in labels for line in lines), default=0.0)
    tile = min(widest, (width - left) / across)
    width = max(min(width, WIDTHS["column"]), left + tile * across)
    small, captions = fit(list(matrix.captions.values()), tile - GAP, points - 1)
    over, texts = fit([*matrix.columns, *matrix.names.values()], tile - GAP, points)
    heads, names = texts[: len(matrix.columns)], dict(zip(matrix.names, texts[len(matrix.columns) :], strict=True))
    below = dict(zip(matrix.captions, captions, strict=True))
    titles = wrap(title, width - 0.1, points + 1, "bold")
    above = 0.06 + (points + 1) * LEADING * len(titles) if titles else 0.0
    head = tall(heads, over)
    tops, y = [], above + head
    for row in range(len(matrix.rows)):
        y += tall([lines for (r, _), lines in names.items() if r == row], over) if names else 0.0
        tops.append(y)
        y += max(tile, len(labels[row]) * size * LEADING)
        y += tall([lines for (r, _), lines in below.items() if r == row], small)
    height = y + (0.34 if matrix.key else 0.22 if matrix.last else 0.02)
    canvas = Canvas(figsize=(width, height))
    paper = canvas.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    paper.set_axis_off()

    def show(picture: Image.Image, x: float, y: float, wide: float, high: float) -> None:
        rule = "antialiased" if min(picture.size) >= 64 else "nearest"
        paper.imshow(picture, extent=(x, x + wide, y + high, y), aspect="auto", interpolation=rule)

    def write(lines: Sequence[str], x: float, y: float, points: float, **more: Any) -> None:
        if any(lines):
            paper.text(x, y, "\n".join(lines), fontsize=points, parse_math=False, **more)

    def middle(column: int) -> float:
        return left + (column + 0.5) * tile

    write(titles, 0.05, 0.05, points + 1, va="top", weight="bold")
    for column, lines in enumerate(heads):
        write(lines, middle(column), above + head - 0.03, over, ha="center", va="bottom")
    for top, lines in zip(tops, labels, strict=True):
        write(lines, 0.04, top + tile / 2, size, va="center")
    for (row, column), given in matrix.pictures.items():
        picture = (Image.open(given) if isinstance(given, Path) else given).convert("RGB")
        wide, high = ((tile - GAP) * side / max(picture.size) for side in picture.size)
        show(picture, middle(column) - wide / 2, tops[row] + (tile - high) / 2, wide, high)
    for (row, column), lines in names.items():
        write(lines, middle(column), tops[row] - 0.01, over, ha="center", va="bottom")
    for (row, column), lines in below.items():
        write(lines, middle(column), tops[row] + tile + 0.02, small, ha="center", va="top", color=FAINT)
    write([matrix.last], 0.05, height - 0.05, points - 1, va="bottom", color=FAINT)
    if matrix.key:
        picture, ends = matrix.key
        span = min(2.0, width - left - 0.2)
        show(picture, left, height - 0.28, span, 0.08)
        for share, text, side in zip((0.0, 0.5, 1.0), ends, ("left", "center", "right"), strict=True):
            write([text], left + share * span, height - 0.17, small, ha=side, va="top")
    return canvas
