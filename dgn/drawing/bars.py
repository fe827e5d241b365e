"""A figure with one panel a metric: every method a bar with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from dgn.drawing.charts import COLOURS, panes


def draw_bars(figures: Sequence[Any], metrics: Mapping[str, Any]) -> Any:
    """The table as small bar charts, a matplotlib figure.

    Args:
        figures: with ``method, metric, judge, value, low, high``.
        metrics: title and direction of each metric, in the order of the panels.
    """
    keys = [
        (metric, judge)
        for metric in metrics
        for judge in sorted({figure.judge for figure in figures if figure.metric == metric})
    ]
    methods = list(dict.fromkeys(figure.method for figure in figures))
    shown = [[figure for figure in figures if (figure.metric, figure.judge) == key] for key in keys]
    columns = min(3, len(keys))
    bars = [max(map(len, shown[first : first + columns])) for first in range(0, len(shown), columns)]
    canvas, axes = panes(len(keys), columns, 4.0 * columns, [0.75 + 0.24 * most for most in bars], more=0.3)
    for place, (axis, (name, judge), panel) in enumerate(zip(axes, keys, shown, strict=True)):
        metric, scale = metrics[name], 100.0 if metrics[name].percent else 1.0
        for y, figure in enumerate(panel):
            value, low, high = (number * scale for number in (figure.value, figure.low, figure.high))
            axis.barh(y, value, color=COLOURS[methods.index(figure.method) % len(COLOURS)], height=0.7)
            if high > low:
                interval = [[max(0.0, value - low)], [max(0.0, high - value)]]
                axis.errorbar(value, y, xerr=interval, color="#333333", capsize=2, lw=1)
        axis.set_yticks(range(len(panel)), [figure.method for figure in panel])
        axis.set_ylim(bars[place // columns] - 0.4, -0.6)
        hint = {"": "", "real": ", nearest to real is best"}.get(metric.better, f", {metric.better} is better")
        lines = wrap(metric.title + (" (%)" if metric.percent else "") + hint, 48)
        axis.set_title("\n".join([*lines, f"seen by {judge}"] if judge else lines), fontsize=7, loc="left")
        axis.axvline(0, color="#333333", lw=0.6)
    return canvas
