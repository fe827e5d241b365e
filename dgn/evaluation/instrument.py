"""The instrument: how good a method's images are, every figure with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.evaluation.figures import Figure
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
from dgn.evaluation.reference import Made, Reference, activations_of_all, common
from dgn.guest import guest
from dgn.images.fit import resized, to_channels
from dgn.network.network import Network
from dgn.priors.deep import GeneratorPrior

PAIRED = 5
"""Real images of a class whose pairs are the yardstick of diversity."""
EXAMPLES = 9
"""Best real images of a hidden unit, by which its images are told from other units'."""


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
    groups = [unit.name for unit in made.units]
    pairs = _real_pairs(made, reference) if made.real_index else _pairs(groups)
    paired = [name for name, _, _ in pairs]
    made.values = _activations(made, network, reference)
    figures: list[Figure] = []

    def add(metric: str, judge: str, interval: Interval, n: int) -> None:
        figures.append(Figure(made.method, metric, judge, *interval, n))

    for judge in judges:
        verdict, seen = judge.see(made.images), reference.verdicts[judge.name]
        values = _judged(made, verdict, seen, reference, judge.names(network))
        made.values |= {(metric, judge.name): each for metric, each in values.items()}
        places = _compared(made, reference)
        if len(places) > 1 and len(groups) > 1:
            # The kernel depends on the features' scale, which differs between judges: real ones get mean square 1.
            scale = seen.features.double().square().mean().sqrt()
            add("kid", judge.name, kid(verdict.features / scale, seen.features[places] / scale, groups), len(groups))
        if pairs:
            features = seen.features if made.real_index else verdict.features
            apart = torch.stack([pair_distance(features[[a, b]])[0] for _, a, b in pairs])
            add("diversity", judge.name, mean_interval(apart, paired), len(pairs))
    for (metric, name), each in made.values.items():
        add(metric, name, mean_interval(each, groups), int(each.isfinite().sum()))
    if pairs:
        images = reference.real.images if made.real_index else made.images
        used = sorted({row for _, *both in pairs for row in both})
        small = dict(zip(used, common(images[used]).split(1), strict=True))
        alike = torch.cat([ms_ssim(small[a], small[b]) for _, a, b in pairs])
        add("ms_ssim", "", mean_interval(alike, paired), len(pairs))
    if made.seconds:  # images of a batch share its time
        spent = mean_interval(torch.tensor(made.seconds), [str(value) for value in made.seconds])
        add("seconds", "", spent, len(groups))
    if made.memory:
        add("memory", "", Interval(*(made.memory,) * 3), len(groups))
    return figures


def _activations(made: Made, network: Network, reference: Reference) -> dict[tuple[str, str], Tensor]:
    """Of each image, over the unit's best real example, and in standard deviations over its mean on real images."""
    groups = [unit.name for unit in made.units]
    own = torch.zeros(len(groups))
    for unit in dict.fromkeys(made.units):
        rows = [row for row, name in enumerate(groups) if name == unit.name]
        own[rows] = activations_of_all(network, made.images[rows], [unit])[unit.name]
    real = [reference.activations[name] for name in groups]
    best, mean, std = (torch.stack([getattr(each, name)() for each in real]) for name in ("max", "mean", "std"))
    # Relative to a best example that is itself not above zero, a ratio says nothing.
    ratio = torch.where(best > 0, own / best, torch.nan)
    return {("activation_over_best", ""): ratio, ("activation_over_mean", ""): (own - mean) / std}


def _judged(made: Made, verdict: Verdict, seen: Verdict, reference: Reference, transfers: bool) -> dict[str, Tensor]:
    """What a judge says of each image; ``transfers``: whether its outputs are the classes."""
    skip = torch.tensor(made.real_index) if made.real_index else None
    classes = [-1 if unit.class_index is None else unit.class_index for unit in made.units]
    values = {}
    if transfers and max(classes) >= 0:
        ranks = verdict.ranks(classes)
        for k in (1, 5):
            values[f"top{k}"] = torch.where(ranks > 0, (ranks <= k).double(), torch.nan)
    found = _identified(made, verdict, seen, reference, skip)
    if bool(found.isfinite().any()):
        values["identified"] = found
    return {**values, "nearest": nearest_distance(verdict.features, seen.features, skip=skip)}


def _compared(made: Made, reference: Reference) -> Tensor:
    """Places of the real images that a set is compared with as a whole: those of its classes; real examples with the
    others."""
    classes = [unit.class_index for unit in made.units if unit.class_index is not None]
    whole = len(classes) == len(made.units)
    places = reference.of_classes(classes) if whole else torch.arange(len(reference.real.images))
    return places[~torch.isin(places, torch.tensor(made.real_index, dtype=torch.long))]


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
    method: str, prior: GeneratorPrior, judge: Judge, images: Tensor, batch: int = 32
) -> list[Figure]:
    """How well a generator writes held-out images down.

    Args:
        method: its name in the table.
        prior: the generator, with the encoder whose layer it inverts.
        judge: in whose feature space the distance is taken.
        images: ``[N, C, H, W]`` in [0, 1]; central squares, shrunk to the generator's size.

    Returns:
        PSNR in dB, cosine distance of the judge's features, mean squared distance of the re-encoded normalised code,
        and the share of codes that decoding and encoding finds again as the nearest of all ``N``.
    """
    prior = prior.resized(prior.generator.config.image_size)
    small = resized(to_channels(images, 3), prior.size)
    psnr, code_distance, codes, again, made = [], [], [], [], []
    for x in small.split(batch):
        code = prior.encode(x)
        y = prior.decode(code)
        back = prior.encode(y)
        psnr.append(-10 * (x - y).square().mean((1, 2, 3)).log10())
        code_distance.append((back - code).square().flatten(1).mean(1))
        codes.append(code.half())
        again.append(back.half())
        made.append(y)
    before, after = judge.see(small).features, judge.see(torch.cat(made)).features
    found = code_ranks(torch.cat(codes).float(), torch.cat(again).float()) == 1
    columns = (
        ("psnr", "", torch.cat(psnr)), ("feature", judge.name, 1 - F.cosine_similarity(before, after)),
        ("code", "", torch.cat(code_distance)), ("cycle", "", found.double()),
    )  # fmt: skip
    return [Figure(method, metric, by, *mean_interval(values), len(images)) for metric, by, values in columns]


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
