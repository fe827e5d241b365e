"""What a method pays for activation in naturalness: every method a point, one whose temperature changes a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dgn.report.panels import COLOURS, saved

AGAINST = ("kid", "nearest")


def trade(
    figures: Sequence[Any], metrics: Mapping[str, Any], lines: Mapping[str, Sequence[tuple[str, str]]], form: str
) -> bytes | None:
    """KID and the distance to the nearest real image against activation, as bytes of a ``"png"`` or ``"pdf"``.

    Args:
        figures: with ``method, metric, judge, value, low, high``.
        metrics: titles.
        lines: of each line, its name and its points in order, as (method, label).
        form: file format.

    Returns:
        None where there is nothing to show: no two methods have both figures.
    """
    from matplotlib.figure import Figure as Canvas

    at = {(f.metric, f.judge, f.method): f for f in figures if math.isfinite(f.value)}
    methods = [
        method for method in dict.fromkeys(f.method for f in figures) if ("activation_over_mean", "", method) in at
    ]
    panels = [
        (metric, judge)
        for metric in AGAINST
        for judge in sorted({judge for other, judge, _ in at if other == metric})
        if sum((metric, judge, method) in at for method in methods) > 1
    ]
    if not panels:
        return None
    line_of = {method: name for name, points in lines.items() for method, _ in points}
    names = list(dict.fromkeys(line_of.get(method, method) for method in methods))
    colour = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)} | {"real": "#333333"}
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    canvas = Canvas(figsize=(4.6 * columns, 3.6 * rows), layout="constrained")
    axes = canvas.subplots(rows, columns, squeeze=False)
    for place, axis in enumerate(axes.flat):
        if place >= len(panels):
            axis.set_visible(False)
            continue
        metric, judge = panels[place]
        points = {
            method: (at["activation_over_mean", "", method], at[metric, judge, method])
            for method in methods
            if (metric, judge, method) in at
        }
        for name, members in lines.items():
            shown = [(points[method], label) for method, label in members if method in points]
            if not shown:
                continue
            axis.plot([x.value for (x, _), _ in shown], [y.value for (_, y), _ in shown], color=colour[name], lw=1.2)
            labelled = 0.0
            for (x, y), label in shown:
                if x.value > 0 and not (labelled and abs(math.log(x.value / labelled)) < 0.15):  # room to be read
                    axis.annotate(
                        label, (x.value, y.value), (4, 4), textcoords="offset points", fontsize=6, color=colour[name]
                    )
                    labelled = x.value
        for method, (x, y) in points.items():
            name = line_of.get(method, method)
            axis.errorbar(
                x.value,
                y.value,
                [[max(0.0, y.value - y.low)], [max(0.0, y.high - y.value)]],
                [[max(0.0, x.value - x.low)], [max(0.0, x.high - x.value)]],
                fmt="*" if method == "real" else "o",
                ms=9 if method == "real" else 4,
                color=colour[name],
                elinewidth=0.6,
                label=name,
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "235" else "")
        axis.set_xlabel(metrics["activation_over_mean"].title, fontsize=7)
        axis.set_ylabel(f"{metrics[metric].title}\nseen by {judge}, lower is better", fontsize=7)
        axis.tick_params(which="both", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    each = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    canvas.legend(
        list(each.values()), list(each), loc="outside upper center", ncols=min(4, len(each)), fontsize=7, frameon=False
    )
    return saved(canvas, form)
