"""What ``dgn evaluate`` writes: tables, the panels, the trade, and a grid of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from dgn.ascent.settings import AscentSettings
from dgn.cli.manifest import plain
from dgn.drawing.bars import draw_bars
from dgn.drawing.charts import render
from dgn.drawing.trade import draw_trade
from dgn.evaluation.evaluate import Evaluation
from dgn.evaluation.figures import METRICS
from dgn.evaluation.reference import COMMON_SIZE
from dgn.priors import Prior
from dgn.runs.run import Run

Lines = Mapping[str, Sequence[tuple[str, str]]]
"""Of each line in the trade, its name and its points in order, as method and label."""


def by_temperature(config: Any, climbs: Sequence[tuple[Prior, AscentSettings]]) -> Lines:
    """Priors that are the same but for the temperature of their samples, coldest first: method and label."""
    lines: dict[str, list[tuple[float, str]]] = {}
    for prior, settings in climbs:
        if settings.rule == "sample":
            same = {**plain(config.prior[prior.name]), "ascent": replace(settings, temperature=1.0)}
            same |= {"size": (prior.sampled() or prior).size, "space": None}  # what was not told is the prior's own
            lines.setdefault(repr(sorted(same.items())), []).append((settings.temperature, prior.name))
    return {
        min((name for _, name in points), key=len): [
            (name, f"T {temperature:g}") for temperature, name in sorted(points)
        ]
        for points in lines.values()
        if len({temperature for temperature, _ in points}) > 1
    }


def write_figures(folder: Run, found: Evaluation, lines: Lines) -> None:
    """``figures.csv``, ``differences.csv``, ``table.md``, and the pictures."""
    for name, figures in ("figures", found.figures), ("differences", found.differences):
        rows = [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(one).items()} for one in figures]
        if rows:
            folder.write_table(rows, list(rows[0]), f"{name}.csv")
    folder.write_text("table.md", str(found))
    folder.write_picture("grid.png", found.grid(tile=COMMON_SIZE))
    for name, canvas in (
        ("panels", draw_bars(found.figures, METRICS)), ("trade", draw_trade(found.figures, METRICS, lines))
    ):  # fmt: skip
        for form in ("png", "pdf") if canvas else ():
            folder.write(f"{name}.{form}", render(canvas, form, dpi=150))
