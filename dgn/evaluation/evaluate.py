"""The whole evaluation in one call: real images, each prior's own, the judges, one table."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dgn.arguments import seed_list
from dgn.ascent.settings import AscentSettings
from dgn.errors import DgnError
from dgn.evaluation.cost import measured
from dgn.evaluation.instrument import (
    Figure,
    Made,
    Reference,
    activations_of_all,
    best_examples,
    differences,
    measure,
    measure_photographs,
    measure_reconstruction,
    table,
)
from dgn.evaluation.judges import Judge, load_judge
from dgn.evaluation.real import RealImages, class_of, load_real
from dgn.files.storage import digest
from dgn.guest import guest
from dgn.images.pictures import to_bytes, to_image
from dgn.images.reading import list_images
from dgn.network.network import Network
from dgn.priors import Prior
from dgn.priors.components import ComponentsPrior
from dgn.priors.deep import GeneratorPrior
from dgn.report.grid import Cell
from dgn.report.show import Shown
from dgn.synthesis import plan
from dgn.units.unit import Unit
from dgn.units.units import parse_units


@dataclass
class Evaluation(Shown):
    """How good the images of several methods are.

    Attributes:
        figures: every number with its interval.
        differences: how much the first method is above each other, unit by unit.
        made: the images of each method, the real ones first.
        network: the name of the one under study.
    """

    figures: list[Figure]
    differences: list[Figure]
    made: list[Made]
    network: str

    @property
    def title(self) -> str:
        return f"Units of {self.network}"

    def cells(self) -> list[Cell]:
        return [
            Cell(unit.name, one.method, to_image(image), "")
            for one in self.made
            for unit, seed, image in zip(one.units, one.seeds, one.images, strict=True)
            if seed == one.seeds[0]
        ]

    def rows(self) -> list[dict[str, Any]]:
        """A row a figure."""
        return [asdict(figure) for figure in self.figures]

    def __str__(self) -> str:
        """The figures as a Markdown table, and below it the differences."""
        text = table(self.figures)
        if self.differences:
            text += f"\nHow much higher {self.made[1].method} is than each other, unit by unit:\n\n"
            text += table(self.differences, signed=True)
        return text


@guest
def evaluate(
    network: Network,
    priors: str | Prior | Sequence[str | Prior],
    data: str | Path,
    units: str | int | Unit | Iterable[str | int | Unit] | None = None,
    *,
    judges: Sequence[str | Judge] = ("efficientnet_lite2",),
    ascent: str | AscentSettings | None = None,
    classes: int = 50,
    seed: int = 0,
    seeds: int | Sequence[int] = 2,
    per_class: int = 20,
    photos: str | Path | None = None,
    most_photos: int = 1000,
    batch: int | None = None,
    **changes: Any,
) -> Evaluation:
    """Make images with each prior, show them to networks that took no part, and compare them with real ones.

    Args:
        network, units: see :func:`dgn.parse_units`; None: the ``classes`` classes with the most images.
        priors: one or several, by name or as they are.
        data: labelled real images, in folders named by WordNet id, class name or index, or tar files of such.
        judges: by name, see :func:`dgn.load_network`.
        ascent, changes, batch: see :func:`dgn.synthesize`; for all priors.
        classes: see ``units``.
        seed, seeds: a list, or how many from ``seed`` on.
        per_class: real images of each class.
        photos: photographs that no prior was trained on, for the judges' own accuracy and for reconstructions; None:
            those of ``data``.
        most_photos: of them, and of ``data`` where hidden units are among the units.

    Returns:
        An :class:`Evaluation`; ``print`` shows its table.

    Raises:
        DgnError: no image of these classes, an unknown judge; see :func:`dgn.synthesize`.
    """
    root, device = Path(data), network.device
    jury = [judge if isinstance(judge, Judge) else load_judge(judge, device=device) for judge in judges]
    chosen = parse_units(most_frequent(root, network, classes) if units is None else units, network)
    numbers = seed_list(seed, seeds)
    jobs = [
        plan(network, chosen, prior, ascent=ascent, seeds=numbers, batch=batch, **changes)
        for prior in ([priors] if isinstance(priors, (str, Prior)) else priors)
    ]
    reference = look_at_real(root, network, jury, chosen, per_class=per_class, most=most_photos, seed=seed)
    others = reference.real
    if photos is not None:
        others = load_real(Path(photos), network.class_names, most=most_photos)
    made = [best_examples(reference, chosen, len(numbers))]
    for job in jobs:
        images, spent, pieces = [], [], job.pieces()
        memory, done = 0.0, 0
        while done < len(job.rows):
            with measured(device) as cost:
                piece = next(pieces)
            images.append(to_bytes(piece.images))
            done += len(piece.images)
            spent += [cost.seconds / len(piece.images)] * len(piece.images)
            memory = max(memory, cost.memory / len(piece.images) / 2**20)
        kept = torch.cat(images).float() / 255  # as files hold them
        rows = list(job.rows)
        made.append(Made(job.prior.name, kept, [unit for unit, _ in rows], [at for _, at in rows], spent, memory))
    return assess(network, jury, reference, made, others, [job.prior for job in jobs])


def assess(
    network: Network, judges: list[Judge], reference: Reference, made: list[Made], photos: RealImages,
    priors: Iterable[Prior],
) -> Evaluation:  # fmt: skip
    """All figures of methods whose images are there.

    Args:
        network, judges, reference: see :func:`dgn.evaluation.instrument.measure`.
        made: the real images first.
        photos: for the judges' own accuracy, and for what the priors' generators make of them.
        priors: that took part.
    """
    figures = [figure for one in made for figure in measure(one, network, judges, reference)]
    named = [unit.class_index for unit in made[0].units if unit.class_index is not None]
    figures += measure_photographs(photos, [judge for judge in judges if judge.names(network)], named)
    figures += _reconstructions(priors, judges[0], photos.images, network.device)
    compared = differences(made[1], [made[0], *made[2:]]) if len(made) > 1 else []
    return Evaluation(figures, compared, made, network.name)


def most_frequent(root: Path, network: Network, count: int) -> list[str | int]:
    """The classes with the most images."""
    counts: collections.Counter[int] = collections.Counter()
    labels: dict[str, int] = {}
    for entry in list_images(root):
        folder = Path(entry.name).parent.name
        if folder not in labels:
            labels[folder] = class_of(entry, network.class_names)
        counts[labels[folder]] += 1
    classes = [label for label, _ in counts.most_common() if label >= 0][:count]
    if not classes:
        raise DgnError(f"no image in {str(root)!r} lies in a folder named by WordNet id, class name or index")
    return sorted(classes)


def look_at_real(
    root: Path,
    network: Network,
    judges: Sequence[Judge],
    units: Sequence[Unit],
    *,
    per_class: int,
    most: int,
    seed: int,
    begin: Callable[[int], Callable[[int], object] | None] = lambda passes: None,
) -> Reference:
    """Real images of the evaluated classes, and of all where a hidden unit is among the units; seen by the network and
    the judges.

    Args:
        root, network, judges, units: where they are, who sees them, and for which units.
        per_class, most: images of a class; of all classes.
        seed: of the choice among more.
        begin: called with the images to be seen in all; gives what is called with those seen, batch by batch.
    """
    classes = [unit.class_index for unit in units if unit.class_index is not None]
    real = None
    if classes:
        real = load_real(
            root, network.class_names, sight=network.sight, classes=classes, per_class=per_class, seed=seed
        )  # fmt: skip
    if real is None or len(classes) < len(units):
        all_classes = load_real(root, network.class_names, sight=network.sight, most=most, seed=seed)
        real = all_classes if real is None else real.joined(all_classes)
    note = begin(len(real.images) * (1 + len(judges)))
    activations = activations_of_all(network, real.as_seen, units, note=note)
    return Reference(real, activations, {judge.name: judge.see(real.images, note=note) for judge in judges})


def _reconstructions(priors: Iterable[Prior], judge: Judge, images: torch.Tensor, device: torch.device) -> list[Figure]:
    figures: list[Figure] = []
    known: dict[str, list[Figure]] = {}  # of each generator, however many priors it serves
    for prior in priors:
        base = prior.layout if isinstance(prior, ComponentsPrior) else prior
        if not isinstance(base, GeneratorPrior) or base.encoder is None:
            continue
        weights = digest(base.weights())
        if weights not in known:
            config = base.generator.config
            encoder = base.encoder.to(device).at((config.encoder_size, config.encoder_size))
            known[weights] = measure_reconstruction(prior.name, base.generator, encoder, judge, images)
        figures += [replace(figure, method=prior.name) for figure in known[weights]]
    return figures
