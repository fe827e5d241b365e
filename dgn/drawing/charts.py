"""Panels of curves, and what all charts have in common: colours, axes, a key; the same content gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dgn.drawing.letters import inches, wrap

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe & Ito 2008: told apart with any kind of colour vision."""


@dataclass
class Lines:
    """Curves of one panel: of each name x, y and (where there is one) the band from low to high."""

    title: str
    x: str
    y: str
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    bands: dict[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)


def panes(
    count: int, across: int, width: float, heights: Sequence[float], *, more: float = 0.0, points: float = 7.0
) -> tuple[Any, list[Any]]:
    """A matplotlib figure with ``count`` axes, ``across`` of them side by side.

    Args:
        count, across: axes in all, and in a row.
        width: inches of the figure.
        heights: inches of each row.
        more: inches besides, for a key and a title.
        points: size of the numbers.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, more + sum(heights)), layout="constrained")
    axes = list(canvas.subplots(len(heights), across, squeeze=False, height_ratios=heights).flat)
    for axis in axes:
        axis.tick_params(which="both", labelsize=points)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[count:]:
        axis.set_visible(False)
    return canvas, axes[:count]


def draw_key(canvas: Any, place: str, most: int, points: float = 7.0) -> None:
    """What is labelled in any of a figure's axes, once, in one row of up to ``most`` after another."""
    pairs = (zip(*axis.get_legend_handles_labels(), strict=True) for axis in canvas.axes)
    handles = {label: handle for pair in pairs for handle, label in pair}
    columns = max(1, min(4, most, len(handles)))
    canvas.legend(handles.values(), handles.keys(), loc=place, ncols=columns, fontsize=points, frameon=False)


def draw_lines(panels: Sequence[Lines], *, width: float = 7.0, title: str = "", points: float = 7.0) -> Any:
    """A matplotlib figure with one panel each, side by side; every name has one colour and one dash in all of them."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    across = max(1, min(3, len(panels), int(width / 1.6)))
    room = width / across
    heights = [min(2.2, 0.75 * room)] * -(-len(panels) // across)
    canvas, axes = panes(len(panels), across, width, heights, more=0.45, points=points - 1)
    for panel, axis in zip(panels, axes, strict=True):
        for name, (x, y) in panel.curves.items():
            number = names.index(name)
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(x, y, label=name, color=colour, ls=("-", "--", ":", "-.")[number % 4], lw=1.3)
            if name in panel.bands:
                axis.fill_between(x, *panel.bands[name], color=colour, alpha=0.15, lw=0)
        head = "\n".join(wrap(panel.title, room - 0.45, points))
        axis.set_title(head, fontsize=points, loc="left", parse_math=False)
        axis.set_xlabel(panel.x, fontsize=points)
        axis.set_ylabel(panel.y, fontsize=points)
    if len(names) > 1:
        widest = 0.45 + max(inches(name, points) for name in names)
        draw_key(canvas, "outside lower center", int(width / widest), points)
    if title:
        lines = "\n".join(wrap(title, width - 0.1, points + 1, "bold"))
        canvas.suptitle(lines, fontsize=points + 1, weight="bold", x=0.01, ha="left", parse_math=False)
    return canvas


def render(canvas: Any, form: str, dpi: int = 200) -> bytes:
    """A matplotlib figure as ``"png"`` or ``"pdf"`` that names neither time nor program; a PDF holds whole pictures."""
    from matplotlib import rc_context

    pdf = form == "pdf"
    for image in (image for axis in canvas.axes for image in axis.images if pdf):
        if image.get_interpolation() != "nearest":
            image.set_interpolation("none")
    meta: Mapping[str, Any] = {"CreationDate": None, "Producer": None} if pdf else {"Software": None}
    file = io.BytesIO()
    with rc_context({"pdf.fonttype": 42, "image.composite_image": False}):
        canvas.savefig(file, format=form, dpi=dpi, metadata=meta)
    return file.getvalue()
