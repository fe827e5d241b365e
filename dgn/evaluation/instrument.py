"""The instrument: one table that says how good a method's images are, every figure with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.evaluation.judges import Judge, Verdict
from dgn.evaluation.metrics import (
    Interval,
    code_ranks,
    identified,
    kid,
    mean_interval,
    ms_ssim,
    nearest_distance,
    pair_distance,
)
from dgn.evaluation.real import RealImages
from dgn.guest import guest
from dgn.images.fit import canvas_size, resized, to_channels
from dgn.images.given import as_images
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.priors.generator import Generator, encode, reduced
from dgn.units.read import Reader
from dgn.units.unit import Unit, layers_of

COMMON_SIZE = 128
"""Pixels of the short side of the real examples, and at which MS-SSIM compares images; judges see each image at their
own size."""
PAIRED = 5
"""Real images of a class whose pairs are the yardstick of diversity."""
EXAMPLES = 9
"""Best real images of a hidden unit, by which its images are told from other units'."""


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


@dataclass
class Made:
    """Images of one method: ``[N, C, H, W]`` in [0, 1], with the unit and seed of each, and what they cost."""

    method: str
    images: Tensor
    units: list[Unit]
    seeds: list[int]
    seconds: list[float] = field(default_factory=list)
    """Of each image: its share of its batch's time; empty where it is not known."""
    memory: float = 0.0
    real_index: list[int] = field(default_factory=list)
    """For images that are themselves among the real ones: their place there."""
    values: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    """By metric and judge, an image's own value, ``[N]`` (NaN: it has none); filled by :func:`measure`."""


@dataclass
class Reference:
    """Real images as the network and the judges see them; made once, shared by all methods."""

    real: RealImages
    activations: dict[str, Tensor]
    verdicts: dict[str, Verdict]

    def of_classes(self, classes: Sequence[int]) -> Tensor:
        """Places of the real images of these classes."""
        wanted = set(classes)
        return torch.tensor([i for i, label in enumerate(self.real.classes) if label in wanted], dtype=torch.long)


@guest
@torch.no_grad()
def activations_of(network: Network, images: Tensor, unit: Unit, batch: int = 32) -> Tensor:
    """The unit's activation of each image, ``[N]``."""
    return activations_of_all(network, images, [unit], batch)[unit.name]


@guest
@torch.no_grad()
def activations_of_all(
    network: Network,
    images: Tensor,
    units: Sequence[Unit],
    batch: int = 32,
    note: Callable[[int], object] | None = None,
) -> dict[str, Tensor]:
    """Every unit's activation of each image, ``[N]`` a unit, in one pass over the images."""
    layers = layers_of(units)
    batch = steadiness(network, layers).batch(batch)
    images = to_channels(as_images(images, "the images").float(), network.channels)
    parts: dict[str, list[Tensor]] = {unit.name: [] for unit in units}
    for piece in images.split(batch):
        read = network.features(piece.to(network.device), layers)
        for unit in units:
            parts[unit.name].append(Reader(network, [unit] * len(piece))(read).cpu())
        if note:
            note(len(piece))
    return {name: torch.cat(values) for name, values in parts.items()}


def best_examples(reference: Reference, units: Sequence[Unit], count: int) -> Made:
    """The real images that excite each unit most, best first: the method every synthesis is measured against."""
    places = [reference.activations[unit.name].topk(min(count, len(reference.real.images))).indices for unit in units]
    flat = torch.cat(places)
    images = _common(reference.real.images[flat])
    rows = [(unit, seed) for unit, place in zip(units, places, strict=True) for seed in range(len(place))]
    return Made("real", images, [u for u, _ in rows], [s for _, s in rows], real_index=flat.tolist())


@guest
def measure(made: Made, network: Network, judges: Sequence[Judge], reference: Reference) -> list[Figure]:
    """All figures of one method.

    Activation of the images over the unit's best real example and in standard deviations over its mean on real images.
    By each judge: transfer, the share of images that it names as their class (Fel et al. 2023; not by a judge with
    another number of classes); identification, the share of a hidden unit's images that are nearer to its own best real
    examples than to those of any other unit of its layer; cosine distance to the nearest real image; KID against real
    images of the same classes (features scaled so that their mean square is 1 on real images); cosine distance between
    seeds of one unit. MS-SSIM between seeds (of real examples: between real images of the class); cost.
    """
    figures: list[Figure] = []
    groups = [unit.name for unit in made.units]

    def add_mean(metric: str, values: Tensor, judge: str = "") -> None:
        made.values[metric, judge] = values
        add(metric, mean_interval(values, groups), int(values.isfinite().sum()), judge)

    def add(metric: str, found: Interval, n: int, judge: str = "") -> None:
        figures.append(Figure(made.method, metric, judge, *found, n))

    own = torch.zeros(len(groups))
    for name in dict.fromkeys(groups):
        rows = [i for i, group in enumerate(groups) if group == name]
        own[rows] = activations_of(network, made.images[rows], made.units[rows[0]])
    real = [reference.activations[name] for name in groups]
    best = torch.stack([values.max() for values in real])
    mean, std = (torch.stack([getattr(values, name)() for values in real]) for name in ("mean", "std"))
    # Relative to a best example that is itself not above zero, a ratio says nothing.
    ratio = torch.where(best > 0, own / best, torch.nan)
    add_mean("activation_over_best", ratio)
    add_mean("activation_over_mean", (own - mean) / std)

    classes = [-1 if unit.class_index is None else unit.class_index for unit in made.units]
    named = [i for i, label in enumerate(classes) if label >= 0]
    pairs = _real_pairs(made, reference) if made.real_index else _pairs(groups)
    paired = [name for name, _, _ in pairs]
    for judge in judges:
        verdict = judge.see(made.images)
        seen = reference.verdicts[judge.name]
        if named and judge.names(network):
            ranks = verdict.ranks(classes)
            for k in (1, 5):
                hits = (ranks <= k).double()
                hits[[label < 0 for label in classes]] = torch.nan
                add_mean(f"top{k}", hits, judge.name)
        skip = torch.tensor(made.real_index) if made.real_index else None
        found = _identified(made, verdict, seen, reference, skip)
        if bool(found.isfinite().any()):
            add_mean("identified", found, judge.name)
        distance = nearest_distance(verdict.features, seen.features, skip=skip)
        add_mean("nearest", distance, judge.name)
        places = torch.arange(len(seen.features))
        if len(named) == len(classes):
            places = reference.of_classes(classes)
        if made.real_index:  # against the other real images
            places = places[~torch.isin(places, torch.tensor(made.real_index))]
        if len(places) > 1 and len(groups) > 1:
            # The kernel depends on the features' scale, which differs between judges: real ones get mean square 1.
            unit_scale = seen.features.double().square().mean().sqrt()
            apart = kid(verdict.features / unit_scale, seen.features[places] / unit_scale, groups)
            add("kid", apart, len(groups), judge.name)
        if pairs:
            features = seen.features if made.real_index else verdict.features
            between = torch.stack([pair_distance(features[[a, b]])[0] for _, a, b in pairs])
            add("diversity", mean_interval(between, paired), len(pairs), judge.name)
    if pairs:
        images = reference.real.images if made.real_index else made.images
        used = sorted({row for _, *both in pairs for row in both})
        small = dict(zip(used, _common(images[used]).split(1), strict=True))
        alike = torch.cat([ms_ssim(small[a], small[b]) for _, a, b in pairs])
        add("ms_ssim", mean_interval(alike, paired), len(pairs))
    if made.seconds:  # images of a batch share its time
        spent = mean_interval(torch.tensor(made.seconds), [str(value) for value in made.seconds])
        add("seconds", spent, len(groups))
    if made.memory:
        add("memory", (made.memory,) * 3, len(groups))
    return figures


def _identified(made: Made, verdict: Verdict, seen: Verdict, reference: Reference, skip: Tensor | None) -> Tensor:
    """:func:`identified`, among the hidden units of one layer; NaN for classes, and where a layer has one unit."""
    found = torch.full((len(made.units),), torch.nan, dtype=torch.float64)
    layers: dict[tuple[str, ...], list[int]] = {}
    for row, unit in enumerate(made.units):
        if unit.class_index is None:
            layers.setdefault(tuple(sorted({term.layer for term in unit.terms})), []).append(row)
    for rows in layers.values():
        names = list(dict.fromkeys(made.units[row].name for row in rows))
        if len(names) > 1:
            count = min(EXAMPLES, len(seen.features))
            examples = torch.stack([reference.activations[name].topk(count).indices for name in names])
            own = [names.index(made.units[row].name) for row in rows]
            chosen = None if skip is None else skip[rows]
            found[rows] = identified(verdict.features[rows], own, seen.features, examples, skip=chosen)
    return found


def differences(first: Made, others: Sequence[Made]) -> list[Figure]:
    """How much higher one method's mean is than each other's, of every metric that both have for single images.

    Both methods climbed the same units, so that the interval is that of the units' own differences (seeds are averaged
    first): narrower than what the intervals of both means tell.

    Args:
        first, others: after :func:`measure`.

    Returns:
        Figures with the *other's* name as their method.
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


@guest
def measure_photographs(photos: RealImages, judges: Sequence[Judge], classes: Sequence[int] = ()) -> list[Figure]:
    """The judges' own accuracy on labelled photographs, all and those of some classes: the ceiling of transfer.

    Args:
        photos: labelled with the classes of the network under study.
        judges: that have the same classes, see :meth:`Judge.names`.
        classes: those that are evaluated.
    """
    figures = []
    same = torch.tensor([label in set(classes) for label in photos.classes])
    labelled = torch.tensor(photos.classes) >= 0
    for judge in judges:
        ranks = judge.see(photos.images).ranks(photos.classes)
        for method, rows in (("photographs", labelled), ("photographs, same classes", labelled & same)):
            hits = ranks[rows]
            if not len(hits) or (method != "photographs" and len(hits) == int(labelled.sum())):
                continue
            for k in (1, 5):
                figures.append(Figure(method, f"top{k}", judge.name, *mean_interval((hits <= k).double()), len(hits)))
    return figures


@guest
@torch.no_grad()
def measure_reconstruction(
    method: str, generator: Generator, encoder: Network, judge: Judge, images: Tensor, batch: int = 32
) -> list[Figure]:
    """How well a generator writes held-out images down.

    Args:
        method: its name in the table.
        generator: with a code of ``encoder``.
        encoder: the network whose layer it inverts, at its own input size.
        judge: in whose feature space the distance is taken.
        images: ``[N, C, H, W]`` in [0, 1]; central squares, shrunk to the generator's size.

    Returns:
        PSNR in dB, cosine distance of the judge's features, mean squared distance of the re-encoded normalised code,
        and the share of codes that decoding and encoding finds again as the nearest of all ``N``.
    """
    config = generator.config
    psnr, code_distance, codes, again, made = [], [], [], [], []
    small = resized(to_channels(images, 3), (config.image_size, config.image_size))

    def code_of(x: Tensor) -> Tensor:
        features = encoder.maps(reduced(x, config), [config.layer])[config.layer]
        return generator.normalise(encode(features.float(), config.code))

    for x in small.split(batch):
        code = code_of(x)
        y = generator(code).float().clamp(0, 1)
        back = code_of(y)
        psnr.append(-10 * (x - y).square().mean((1, 2, 3)).log10())
        code_distance.append((back - code).square().flatten(1).mean(1))
        codes.append(code.half())
        again.append(back.half())
        made.append(y)
    before, after = judge.see(small).features, judge.see(torch.cat(made)).features
    feature = 1 - F.cosine_similarity(before, after)
    found = (code_ranks(torch.cat(codes).float(), torch.cat(again).float()) == 1).double()
    n = len(images)
    columns = (
        ("psnr", "", torch.cat(psnr)), ("feature", judge.name, feature),
        ("code", "", torch.cat(code_distance)), ("cycle", "", found),
    )  # fmt: skip
    return [Figure(method, metric, by, *mean_interval(values), n) for metric, by, values in columns]


def table(figures: Sequence[Figure], signed: bool = False) -> str:
    """The figures as one Markdown table: a row a metric and judge, a column a method, intervals in brackets.

    Args:
        figures: of any methods.
        signed: with a plus before what is above zero, for differences.
    """
    rows = sorted(
        {(figure.metric, figure.judge) for figure in figures}, key=lambda pair: (list(METRICS).index(pair[0]), pair[1])
    )
    methods = list(dict.fromkeys(figure.method for figure in figures))
    at: Mapping[tuple[str, str, str], Figure] = {(f.method, f.metric, f.judge): f for f in figures}
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


def _common(images: Tensor) -> Tensor:
    return resized(images, canvas_size(COMMON_SIZE, (images.shape[2], images.shape[3])))


def _pairs(groups: Sequence[str]) -> list[tuple[str, int, int]]:
    """All pairs of rows of one unit, with its name."""
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(groups):
        rows.setdefault(name, []).append(index)
    return [(name, a, b) for name, same in rows.items() for i, a in enumerate(same) for b in same[i + 1 :]]


def _real_pairs(made: Made, reference: Reference) -> list[tuple[str, int, int]]:
    """Pairs of places among the real images: of each unit's class, of a hidden unit's best examples."""
    names: list[str] = []
    places: list[int] = []
    for unit in dict.fromkeys(made.units):
        best = [place for place, other in zip(made.real_index, made.units, strict=True) if other == unit]
        own = best if unit.class_index is None else reference.of_classes([unit.class_index]).tolist()[:PAIRED]
        names += [unit.name] * len(own)
        places += own
    return [(name, places[a], places[b]) for name, a, b in _pairs(names)]
