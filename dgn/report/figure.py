"""Figures for papers: matrices of pictures and curves, at column width, the same bytes for the same content."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dgn.report.panels import COLOURS

WIDTHS = {"column": 3.4, "page": 7.0}
"""Inches: of one column, and of a page of two."""


@dataclass
class Matrix:
    """Pictures in rows and columns, each with a caption; where one is missing the place stays empty."""

    rows: list[str]
    columns: list[str]
    pictures: dict[tuple[int, int], Image.Image] = field(default_factory=dict)
    captions: dict[tuple[int, int], str] = field(default_factory=dict)

    def transposed(self) -> Matrix:
        """Rows as columns."""
        return Matrix(
            self.columns, self.rows, {(b, a): picture for (a, b), picture in self.pictures.items()},
            {(b, a): caption for (a, b), caption in self.captions.items()},
        )  # fmt: skip


@dataclass
class Lines:
    """Curves of one panel: of each name x, y and (where there is one) the band from low to high."""

    title: str
    x: str
    y: str
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    bands: dict[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)


def draw_matrix(matrix: Matrix, *, width: float = 7.0, title: str = "", points: float = 7.0) -> Any:
    """A matplotlib figure.

    Args:
        matrix: what to show.
        width: inches of the figure.
        title: above it.
        points: size of the letters.
    """
    from matplotlib.figure import Figure as Canvas

    left = (
        0.1 + 0.085 * max((len(line) for row in matrix.rows for line in _wrap(row, 18)), default=0) * points / 7 * 0.72
    )
    tile = (width - left) / max(1, len(matrix.columns))
    foot = 0.16 if matrix.captions else 0.04
    letters = max(6, int(tile / (points * 0.0072)))
    heads = [_wrap(name, letters) for name in matrix.columns]
    head = 0.06 + 0.13 * max((len(lines) for lines in heads), default=0)
    above = 0.24 if title else 0.0
    height = above + head + len(matrix.rows) * (tile + foot)
    canvas = Canvas(figsize=(width, height))
    if title:
        canvas.text(0.01, 1 - 0.09 / height, title, fontsize=points + 1, va="center", weight="bold")
    for column, lines in enumerate(heads):
        x = (left + (column + 0.5) * tile) / width
        canvas.text(x, 1 - (above + head - 0.03) / height, "\n".join(lines), fontsize=points, ha="center", va="bottom")
    for row, name in enumerate(matrix.rows):
        top = above + head + row * (tile + foot)
        y = 1 - (top + tile / 2) / height
        canvas.text(0.04 / width, y, "\n".join(_wrap(name, 18)), fontsize=points, ha="left", va="center")
        for column in range(len(matrix.columns)):
            picture = matrix.pictures.get((row, column))
            if picture is None:
                continue
            place = ((left + column * tile + 0.02) / width, 1 - (top + tile) / height)
            axis = canvas.add_axes((*place, (tile - 0.04) / width, tile / height))
            axis.imshow(picture, interpolation="none" if min(picture.size) >= 64 else "nearest")
            axis.set_axis_off()
            caption = matrix.captions.get((row, column), "")
            if caption:
                canvas.text(
                    (left + (column + 0.5) * tile) / width, 1 - (top + tile + 0.07) / height, caption[: letters + 4],
                    fontsize=points - 1, ha="center", va="center", color="#555555",
                )  # fmt: skip
    return canvas


def draw_lines(panels: Sequence[Lines], *, width: float = 7.0, title: str = "", points: float = 7.0) -> Any:
    """A matplotlib figure with one panel each, side by side; every name has one colour and one dash in all of them."""
    from matplotlib.figure import Figure as Canvas

    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    canvas = Canvas(figsize=(width, 0.45 + down * min(2.2, 0.75 * width / across)), layout="constrained")
    axes = canvas.subplots(down, across, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for panel, axis in zip(panels, axes.flat, strict=False):
        for name, (x, y) in panel.curves.items():
            number = names.index(name)
            style = {"color": COLOURS[number % len(COLOURS)], "ls": ("-", "--", ":", "-.")[number % 4], "lw": 1.3}
            axis.plot(x, y, label=name, **style)
            if name in panel.bands:
                axis.fill_between(x, *panel.bands[name], color=style["color"], alpha=0.15, lw=0)
        axis.set_title(panel.title, fontsize=points, loc="left")
        axis.set_xlabel(panel.x, fontsize=points)
        axis.set_ylabel(panel.y, fontsize=points)
        axis.tick_params(labelsize=points - 1)
        axis.spines[["top", "right"]].set_visible(False)
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if len(handles) > 1:
        canvas.legend(
            handles.values(), handles.keys(), fontsize=points, loc="outside lower center", ncols=4, frameon=False
        )
    if title:
        canvas.suptitle(title, fontsize=points + 1, weight="bold", x=0.01, ha="left")
    return canvas


def render(canvas: Any, form: str, dpi: int = 200) -> bytes:
    """The figure as ``"png"`` or ``"pdf"``; the same content gives the same bytes."""
    from matplotlib import rc_context

    meta: Mapping[str, Any] = {"Software": None} if form == "png" else {"CreationDate": None, "Producer": None}
    file = io.BytesIO()
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "dgn"}):
        canvas.savefig(file, format=form, dpi=dpi, metadata=meta)
    return file.getvalue()


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width) or [text]
