"""Figures for papers: matrices of pictures and curves, at column width, the same bytes for the same content."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dgn.report.panels import COLOURS

WIDTHS = {"column": 3.4, "page": 7.0}
"""Inches: of one column, and of a page of two."""


WIDEST = 2.2
"""Inches of a picture, at most: a matrix of few columns is narrower than its page."""

SMALLEST = 5.0
"""Points: letters shrink to this size where a word is wider than its picture; a wider one is broken."""


@dataclass
class Matrix:
    """Pictures in rows and columns; where one is missing the place stays empty.

    Attributes:
        rows, columns: their names; a column's stands above it, where it has one.
        pictures, captions: by (row, column); captions stand below.
        names: what a picture shows, by (row, column), above it: where a column has no name of its own.
        key: of the colours, with the values at its left end, middle and right end.
    """

    rows: list[str]
    columns: list[str]
    pictures: dict[tuple[int, int], Image.Image] = field(default_factory=dict)
    captions: dict[tuple[int, int], str] = field(default_factory=dict)
    names: dict[tuple[int, int], str] = field(default_factory=dict)
    key: tuple[Image.Image, tuple[str, str, str]] | None = None

    def transposed(self) -> Matrix:
        """Rows as columns."""
        pictures, captions, names = (
            {(b, a): value for (a, b), value in part.items()} for part in (self.pictures, self.captions, self.names)
        )
        return Matrix(self.columns, self.rows, pictures, captions, names, self.key)  # type: ignore[arg-type]


@dataclass
class Lines:
    """Curves of one panel: of each name x, y and (where there is one) the band from low to high."""

    title: str
    x: str
    y: str
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    bands: dict[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)


def draw_matrix(matrix: Matrix, *, width: float = 7.0, title: str = "", points: float = 7.0) -> Any:
    """A matplotlib figure; no text is cut, none is wider than its place.

    Args:
        matrix: what to show.
        width: inches of the figure, at most.
        title: above it.
        points: size of the letters.
    """
    from matplotlib.figure import Figure as Canvas

    size, labels = _fit(matrix.rows, 0.2 * width, points)
    left = 0.1 + max((_inches(line, size) for lines in labels for line in lines), default=0.0)
    tile = min(WIDEST, (width - left) / max(1, len(matrix.columns)))
    width = max(min(width, WIDTHS["column"]), left + tile * max(1, len(matrix.columns)))
    small, captions = _fit(list(matrix.captions.values()), tile - 0.04, points - 1)
    over, texts = _fit([*matrix.columns, *matrix.names.values()], tile - 0.04, points)
    heads, names = texts[: len(matrix.columns)], dict(zip(matrix.names, texts[len(matrix.columns) :], strict=True))
    below = dict(zip(matrix.captions, captions, strict=True))
    titles = _wrap(title, width - 0.1, points + 1, "bold")
    line = (points + 1) * LEADING
    above = 0.06 + line * len(titles) if titles else 0.0
    head = _tall(heads, over)
    tops, y = [], above + head
    for row in range(len(matrix.rows)):
        y += _tall([lines for (r, _), lines in names.items() if r == row], over) if names else 0.0
        tops.append(y)
        y += max(tile, len(labels[row]) * size * LEADING)
        y += _tall([lines for (r, _), lines in below.items() if r == row], small)
    height = y + (0.34 if matrix.key else 0.02)
    canvas = Canvas(figsize=(width, height))

    def write(text: str | list[str], x: float, y: float, points: float, **more: Any) -> None:
        text = text if isinstance(text, str) else "\n".join(text)
        canvas.text(x / width, 1 - y / height, text, fontsize=points, parse_math=False, **more)

    write(titles, 0.05, 0.05, points + 1, va="top", weight="bold")
    for column, lines in enumerate(heads):
        write(lines, left + (column + 0.5) * tile, above + head - 0.03, over, ha="center", va="bottom")
    for top, lines in zip(tops, labels, strict=True):
        write(lines, 0.04, top + tile / 2, size, ha="left", va="center")
    for (row, column), picture in matrix.pictures.items():
        x, top = left + column * tile, tops[row]
        axis = canvas.add_axes(
            ((x + 0.02) / width, 1 - (top + tile) / height, (tile - 0.04) / width, tile / height)
        )  # fmt: skip
        axis.imshow(picture, interpolation="none" if min(picture.size) >= 64 else "nearest")
        axis.set_axis_off()
        middle = x + tile / 2
        write(names.get((row, column), []), middle, top - 0.01, over, ha="center", va="bottom")
        write(
            below.get((row, column), []), middle, top + tile + 0.02, small, ha="center", va="top", color="#555555"
        )  # fmt: skip
    if matrix.key:
        picture, ends = matrix.key
        span = min(2.0, width - left - 0.2)
        axis = canvas.add_axes((left / width, 0.2 / height, span / width, 0.08 / height))
        axis.imshow(picture, aspect="auto", interpolation="nearest")
        axis.set_axis_off()
        for share, text, side in zip((0.0, 0.5, 1.0), ends, ("left", "center", "right"), strict=True):
            write(text, left + share * span, height - 0.17, small, ha=side, va="top")
    return canvas


def draw_lines(panels: Sequence[Lines], *, width: float = 7.0, title: str = "", points: float = 7.0) -> Any:
    """A matplotlib figure with one panel each, side by side; every name has one colour and one dash in all of them."""
    from matplotlib.figure import Figure as Canvas

    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    across = max(1, min(3, len(panels), int(width / 1.6)))
    down = -(-len(panels) // across)
    room = width / across
    canvas = Canvas(figsize=(width, 0.45 + down * min(2.2, 0.75 * room)), layout="constrained")
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
        head = "\n".join(_wrap(panel.title, room - 0.45, points))
        axis.set_title(head, fontsize=points, loc="left", parse_math=False)
        axis.set_xlabel(panel.x, fontsize=points)
        axis.set_ylabel(panel.y, fontsize=points)
        axis.tick_params(labelsize=points - 1)
        axis.spines[["top", "right"]].set_visible(False)
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if len(handles) > 1:
        entry = 0.45 + max(_inches(name, points) for name in handles)
        canvas.legend(
            handles.values(), handles.keys(), fontsize=points, loc="outside lower center", frameon=False,
            ncols=max(1, min(4, int(width / entry))),
        )  # fmt: skip
    if title:
        lines = "\n".join(_wrap(title, width - 0.1, points + 1, "bold"))
        canvas.suptitle(lines, fontsize=points + 1, weight="bold", x=0.01, ha="left", parse_math=False)
    return canvas


def render(canvas: Any, form: str, dpi: int = 200) -> bytes:
    """The figure as ``"png"`` or ``"pdf"``; the same content gives the same bytes."""
    from matplotlib import rc_context

    meta: Mapping[str, Any] = {"Software": None} if form == "png" else {"CreationDate": None, "Producer": None}
    file = io.BytesIO()
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "dgn"}):
        canvas.savefig(file, format=form, dpi=dpi, metadata=meta)
    return file.getvalue()


LEADING = 1.25 / 72
"""Inches from line to line, a point of the letters' size."""


def _tall(texts: Sequence[list[str]], points: float) -> float:
    """Inches that the longest of some wrapped texts takes up, with a margin."""
    return 0.05 + LEADING * points * max((len(lines) for lines in texts), default=0)


def _inches(text: str, points: float, weight: str = "normal") -> float:
    """Width of a line of text, as matplotlib's own letters make it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=points, weight=weight), False)  # type: ignore[no-untyped-call]
    return float(width) / 72 * 1.03  # letters are set on whole pixels


def _fit(texts: Sequence[str], width: float, points: float) -> tuple[float, list[list[str]]]:
    """The size, ``points`` or less, at which every word is within ``width`` inches, and the texts in lines of it."""
    widest = max((_inches(word, points) for text in texts for word in text.split()), default=0.0)
    size = max(min(points, SMALLEST), min(points, points * width / max(widest, 1e-9)))
    return size, [_wrap(text, width, size) for text in texts]


def _wrap(text: str, width: float, points: float, weight: str = "normal") -> list[str]:
    """Lines within ``width`` inches, broken at blanks; a word that is wider alone is broken inside."""
    lines: list[str] = []
    for word in text.split():
        if lines and _inches(f"{lines[-1]} {word}", points, weight) <= width:
            lines[-1] += f" {word}"
            continue
        while len(word) > 1 and _inches(word, points, weight) > width:
            cut = max(1, max((n for n in range(1, len(word)) if _inches(word[:n], points, weight) <= width), default=1))
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
    return lines
