"""The whole evaluation in one call: real images, each prior's own, the judges, one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgn.arguments import seed_list
from dgn.ascent.settings import AscentSettings
from dgn.drawing.matrix import Cell
from dgn.drawing.show import Shown
from dgn.errors import DgnError
from dgn.evaluation.cost import measured
from dgn.evaluation.figures import Figure, differences, table
from dgn.evaluation.instrument import measure, measure_photographs, measure_reconstruction
from dgn.evaluation.judges import Judge, load_judge
from dgn.evaluation.real import RealImages, load_real, most_frequent, real_images_of
from dgn.evaluation.reference import Made, Reference, best_examples, look_at
from dgn.files.storage import digest
from dgn.guest import guest
from dgn.images.pictures import to_bytes, to_image
from dgn.network.network import Network
from dgn.priors import Prior
from dgn.priors.components import ComponentsPrior
from dgn.priors.deep import GeneratorPrior
from dgn.synthesis.plan import Plan, plan
from dgn.synthesis.result import Synthesis
from dgn.units.unit import Unit
from dgn.units.units import parse_units


@dataclass(repr=False)
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
    trust: bool = False,
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
        trust: whether a judge may be a ``.pt2``, which is a program that can do anything.

    Returns:
        An :class:`Evaluation`; ``print`` shows its table.

    Raises:
        DgnError: no image of these classes, an unknown judge; see :func:`dgn.synthesize`.
    """
    root = Path(data)
    jury = load_judges(judges, network.device, trust=trust)
    chosen = parse_units(most_frequent(root, network, classes) if units is None else units, network)
    numbers = seed_list(seed, seeds)
    jobs = [
        plan(network, chosen, prior, ascent=ascent, seeds=numbers, batch=batch, **changes)
        for prior in ([priors] if isinstance(priors, (str, Prior)) else priors)
    ]
    real = real_images_of(chosen, network, root, per_class=per_class, most=most_photos, seed=seed)
    others = real if photos is None else load_real(Path(photos), network.class_names, most=most_photos)
    reference = look_at(real, network, jury, chosen)
    made = [best_examples(reference, chosen, len(numbers)), *(make(job, job.pieces()) for job in jobs)]
    return assess(network, jury, reference, made, others, [job.prior for job in jobs])


def load_judges(judges: Sequence[str | Judge], device: torch.device | str, *, trust: bool = False) -> list[Judge]:
    """Judges by name, or as they are; see :func:`dgn.evaluation.judges.load_judge`."""
    if not judges:
        raise DgnError("no judge given; try judges=[efficientnet_lite2]")
    return [
        judge if isinstance(judge, Judge) else load_judge(str(judge), device=device, trust=trust) for judge in judges
    ]


@dataclass
class Begun:
    """What is there of a method's images.

    Attributes:
        images: uint8 ``[n, C, H, W]`` of each batch.
        seconds: of each image, its share of its batch's time.
        memory: peak of all batches, MiB an image.
    """

    images: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: float = 0.0


def make(
    job: Plan, pieces: Iterator[Synthesis], begun: Begun | None = None, keep: Callable[[Begun], object] | None = None
) -> Made:
    """A method's images, as files hold them, and what they cost: those that are there (``begun``), and the ``pieces``
    that are still to be made. ``keep`` is called after each with all that is there then.
    """
    begun = begun or Begun()
    while True:
        with measured(job.network.device) as cost:
            piece = next(pieces, None)
        if piece is None:
            break
        count = len(piece.images)
        begun.images.append(to_bytes(piece.images))
        begun.seconds += [cost.seconds / count] * count
        begun.memory = max(begun.memory, cost.memory / count / 2**20)
        if keep:
            keep(begun)
    images, (units, seeds) = torch.cat(begun.images).float() / 255, zip(*job.rows, strict=True)
    return Made(job.prior.name, images, list(units), list(seeds), begun.seconds, begun.memory)


def assess(
    network: Network, judges: list[Judge], reference: Reference, made: list[Made], photos: RealImages,
    priors: Iterable[Prior],
) -> Evaluation:  # fmt: skip
    """All figures of methods whose images are there, the real ones first. ``photos`` tell the judges' own accuracy, and
    what the priors' generators make of photographs.
    """
    figures = [figure for one in made for figure in measure(one, network, judges, reference)]
    classes = [unit.class_index for unit in made[0].units if unit.class_index is not None]
    figures += measure_photographs(photos, [judge for judge in judges if judge.names(network)], classes)
    figures += _reconstructions(priors, judges[0], photos.images, network.device)
    compared = differences(made[1], [made[0], *made[2:]]) if len(made) > 1 else []
    return Evaluation(figures, compared, made, network.name)


def _reconstructions(priors: Iterable[Prior], judge: Judge, images: Tensor, device: torch.device) -> list[Figure]:
    figures: list[Figure] = []
    known: dict[str, list[Figure]] = {}  # of each generator, however many priors it serves
    for prior in priors:
        base = prior.layout if isinstance(prior, ComponentsPrior) else prior
        if isinstance(base, GeneratorPrior) and base.encoder is not None:
            weights = digest(base.weights())
            if weights not in known:
                known[weights] = measure_reconstruction(prior.name, base.to(device), judge, images)
            figures += [replace(figure, method=prior.name) for figure in known[weights]]
    return figures
