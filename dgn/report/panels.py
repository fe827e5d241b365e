"""A figure with one panel a metric: every method a bar with its interval."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe & Ito 2008: told apart with any kind of colour vision."""


def panels(figures: Sequence[Any], metrics: Mapping[str, Any], form: str) -> bytes:
    """The table as small bar charts, as bytes of a ``"png"`` or ``"pdf"``; the same figures give the same bytes.

    Args:
        figures: with ``method, metric, judge, value, low, high``.
        metrics: title and direction of each metric, in the order of the panels.
        form: file format.
    """
    from matplotlib.figure import Figure as Canvas

    keys = [
        (metric, judge)
        for metric in metrics
        for judge in sorted({figure.judge for figure in figures if figure.metric == metric})
    ]
    methods = list(dict.fromkeys(figure.method for figure in figures))
    colour = {method: COLOURS[index % len(COLOURS)] for index, method in enumerate(methods)}
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    shown = [[figure for figure in figures if (figure.metric, figure.judge) == key] for key in keys]
    heights = [max(len(panel) for panel in shown[row * columns : (row + 1) * columns]) for row in range(rows)]
    canvas = Canvas(
        figsize=(4.0 * columns, 0.3 + sum(0.75 + 0.24 * height for height in heights)), layout="constrained"
    )
    axes = canvas.subplots(rows, columns, squeeze=False, height_ratios=[0.75 + 0.24 * height for height in heights])
    for place, axis in enumerate(axes.flat):
        if place >= len(keys):
            axis.set_visible(False)
            continue
        metric, judge = keys[place]
        scale = 100.0 if metrics[metric].percent else 1.0
        for y, figure in enumerate(shown[place]):
            value, low, high = (number * scale for number in (figure.value, figure.low, figure.high))
            axis.barh(y, value, color=colour[figure.method], height=0.7)
            if high > low:
                axis.errorbar(
                    value, y, xerr=[[max(0.0, value - low)], [max(0.0, high - value)]], color="#333333", capsize=2, lw=1
                )
        axis.set_yticks(range(len(shown[place])), [figure.method for figure in shown[place]], fontsize=7)
        axis.set_ylim(heights[place // columns] - 0.4, -0.6)
        better = metrics[metric].better
        hint = {"": "", "real": ", nearest to real is best"}.get(better, f", {better} is better")
        title = metrics[metric].title + (" (%)" if metrics[metric].percent else "")
        axis.set_title(
            "\n".join(wrap(title + hint, 48)) + (f"\nseen by {judge}" if judge else ""), fontsize=7, loc="left"
        )
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.axvline(0, color="#333333", lw=0.6)
    return saved(canvas, form)


def saved(canvas: Any, form: str) -> bytes:
    """A matplotlib figure as bytes of a ``"png"`` or ``"pdf"`` that name neither time nor program."""
    file = io.BytesIO()
    meta: dict[str, Any] = {"Software": None} if form == "png" else {"CreationDate": None, "Producer": None}
    canvas.savefig(file, format=form, dpi=150, metadata=meta)
    return file.getvalue()
