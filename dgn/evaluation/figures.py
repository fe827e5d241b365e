"""What a measurement says: figures with their intervals, one table of them, and differences between methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgn.evaluation.metrics import mean_interval
from dgn.evaluation.reference import Made
from dgn.units.unit import Unit


@dataclass(frozen=True)
class Figure:
    """One number of the table: a method's value of a metric, seen by a judge (``""``: by the network itself).

    Attributes:
        method, metric, judge: whose, what, seen by whom.
        value, low, high: with the ends of the 95 % interval.
        n: images (or pairs) it rests on.
    """

    method: str
    metric: str
    judge: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: a title, which direction is good, a unit."""

    title: str
    better: str
    percent: bool = False
    digits: int = 3


METRICS: dict[str, Metric] = {
    "activation_over_best": Metric("activation / best real example's", "", digits=2),
    "activation_over_mean": Metric("activation, standard deviations over the real mean", "", digits=1),
    "top1": Metric("transfer, top-1", "higher", percent=True),
    "top5": Metric("transfer, top-5", "higher", percent=True),
    "identified": Metric("identified among its layer's units", "higher", percent=True),
    "nearest": Metric("distance to the nearest real image", "lower"),
    "kid": Metric("KID", "lower", digits=4),
    "copies": Metric("copies of training images", "lower", percent=True),
    "training": Metric("distance to the nearest training image, quantile of real ones'", "real", percent=True),
    "diversity": Metric("distance between seeds or facets", "real"),
    "ms_ssim": Metric("MS-SSIM between seeds or facets", "real", digits=2),
    "seconds": Metric("seconds an image", "lower", digits=2),
    "memory": Metric("peak memory, MiB an image", "lower", digits=0),
    "psnr": Metric("reconstruction, PSNR in dB", "higher", digits=1),
    "feature": Metric("reconstruction, feature distance", "lower"),
    "code": Metric("reconstruction, code distance", "lower"),
    "cycle": Metric("code found again among all", "higher", percent=True),
}


def table(figures: Sequence[Figure], signed: bool = False) -> str:
    """The figures as one Markdown table: a row a metric and judge, a column a method, intervals in brackets; ``signed``
    with a plus before what is above zero.
    """
    rows = sorted(
        {(figure.metric, figure.judge) for figure in figures}, key=lambda pair: (list(METRICS).index(pair[0]), pair[1])
    )
    methods = list(dict.fromkeys(figure.method for figure in figures))
    at = {(f.method, f.metric, f.judge): f for f in figures}
    lines = ["| metric | judge | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for metric, judge in rows:
        cells = [_cell(at.get((method, metric, judge)), "+" if signed else "") for method in methods]
        lines.append(f"| {METRICS[metric].title} | {judge} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(figure: Figure | None, sign: str) -> str:
    if figure is None:
        return ""
    metric = METRICS[figure.metric]

    def show(value: float) -> str:
        return f"{value:{sign}.0%}" if metric.percent else f"{value:{sign}.{metric.digits}f}"

    if figure.low == figure.high == figure.value:
        return show(figure.value)
    return f"{show(figure.value)} ({show(figure.low)} to {show(figure.high)})"


def differences(first: Made, others: Sequence[Made]) -> list[Figure]:
    """How much higher one method's mean is than each other's, of every metric that both have for single images.

    Both methods climbed the same units, so that the interval is that of the units' own differences (seeds are averaged
    first): narrower than what the intervals of both means tell. Figures have the *other's* name as their method.
    """
    figures = []
    for other in others:
        for (metric, judge), values in first.values.items():
            if (metric, judge) not in other.values:
                continue
            mine = _by_unit(first.units, values)
            theirs = _by_unit(other.units, other.values[metric, judge])
            both = [name for name in mine if name in theirs]
            if both:
                apart = torch.stack([mine[name] - theirs[name] for name in both])
                figures.append(Figure(other.method, metric, judge, *mean_interval(apart), len(both)))
    return figures


def _by_unit(units: Sequence[Unit], values: Tensor) -> dict[str, Tensor]:
    """Means over the images of each unit that have a value."""
    names = [unit.name for unit in units]
    means = {name: values[[other == name for other in names]].double().nanmean() for name in dict.fromkeys(names)}
    return {name: mean for name, mean in means.items() if bool(mean.isfinite())}
