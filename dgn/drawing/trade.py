"""What a method pays for activation in naturalness: every method a point, one whose temperature changes a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dgn.drawing.charts import COLOURS, draw_key, panes

ACROSS, AGAINST = "activation_over_mean", ("kid", "nearest")

Line = Sequence[tuple[str, str]]
"""The points of a line in order, as (method, label)."""


def draw_trade(figures: Sequence[Any], metrics: Mapping[str, Any], lines: Mapping[str, Line]) -> Any | None:
    """KID and the distance to the nearest real image against activation, a matplotlib figure; None where no two methods
    have both. ``figures`` have ``method, metric, judge, value, low, high``."""
    at = {(f.metric, f.judge, f.method): f for f in figures if math.isfinite(f.value)}
    methods = [method for method in dict.fromkeys(f.method for f in figures) if (ACROSS, "", method) in at]
    panels = {
        (metric, judge): {m: (at[ACROSS, "", m], at[metric, judge, m]) for m in methods if (metric, judge, m) in at}
        for metric in AGAINST
        for judge in sorted({judge for other, judge, _ in at if other == metric})
    }
    panels = {key: points for key, points in panels.items() if len(points) > 1}
    if not panels:
        return None
    names = {method: name for name, line in lines.items() for method, _ in line}
    names = {method: names.get(method, method) for method in methods}
    colours = dict(zip(dict.fromkeys(names.values()), COLOURS * len(names), strict=False)) | {"real": "#333333"}
    columns = min(2, len(panels))
    canvas, axes = panes(len(panels), columns, 4.6 * columns, [3.6] * -(-len(panels) // columns))
    for axis, ((metric, judge), points) in zip(axes, panels.items(), strict=True):
        for name, line in lines.items():
            shown = [(*points[method], label) for method, label in line if method in points]
            if shown:
                _draw_line(axis, shown, colours[name])
        for method, (x, y) in points.items():
            axis.errorbar(
                x.value, y.value, _interval(y), _interval(x), fmt="*" if method == "real" else "o",
                ms=9 if method == "real" else 4, color=colours[names[method]], elinewidth=0.6, label=names[method],
            )  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "235" else "")
        axis.set_xlabel(metrics[ACROSS].title, fontsize=7)
        axis.set_ylabel(f"{metrics[metric].title}\nseen by {judge}, lower is better", fontsize=7)
    draw_key(canvas, "outside upper center", 4)
    return canvas


def _draw_line(axis: Any, points: Sequence[tuple[Any, Any, str]], colour: str) -> None:
    """A line through points, those labelled that are far enough from the one before to be read."""
    axis.plot([x.value for x, _, _ in points], [y.value for _, y, _ in points], color=colour, lw=1.2)
    labelled = 0.0
    for x, y, label in points:
        if x.value > 0 and not (labelled and abs(math.log(x.value / labelled)) < 0.3):
            place = (x.value, y.value)
            axis.annotate(
                label, place, (0, -12), textcoords="offset points", ha="center", va="top", fontsize=6, color=colour,
                zorder=4, bbox={"fc": "white", "ec": "none", "pad": 0.4, "alpha": 0.8},
            )  # fmt: skip
            labelled = x.value


def _interval(figure: Any) -> list[list[float]]:
    """How far it reaches down and up."""
    return [[max(0.0, figure.value - figure.low)], [max(0.0, figure.high - figure.value)]]
