"""The configuration's schema, verb by verb; see :mod:`dgn.cli.groups`."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from dgn.cli.groups import (
    AscentJobConfig,
    DataConfig,
    ImagesConfig,
    JobConfig,
    NetworkConfig,
    RealConfig,
    TrainingConfig,
)
from dgn.cli.verbs import VERBS


@dataclass
class SynthesizeConfig(AscentJobConfig):
    """``dgn synthesize``.

    Attributes:
        units: classes by name or index, ``LAYER:INDEX``, sums (``0.5*candle + 0.5*volcano``), a list of these; many:
            ``all``, ``blocks.4:0-31``, ``*terrier*``, ``@FILE``.
        shard: ``i/n`` takes every n-th unit, from the i-th on.
        seeds: images of each unit and prior.
        start: where to begin: an image, codes.safetensors of a run (``FILE@ROW``), or a facet (``FOLDER@NUMBER``).
            null: random.
        frames: pictures kept of each image's way. null: 8 where a start is given, 6 of up to 32 images, else none.
        resume: go on with the same job where it was stopped; false begins anew.
        objective: what a sweep optimises, of the first prior's images: mean ``activation``, ``log_probability`` or
            ``probability``.
    """

    verb: str = "synthesize"
    data: ImagesConfig = field(default_factory=ImagesConfig)
    units: Any = MISSING
    shard: str | None = None
    seeds: int = 1
    start: str | None = None
    frames: int | None = None
    resume: bool = True
    objective: str = "activation"


@dataclass
class ExamplesConfig(JobConfig):
    """``dgn examples``.

    Attributes:
        units: as in dgn synthesize.
        k: images of each unit and kind.
        kinds: ``top``, ``bottom`` and ``random`` (of those that excite the unit).
        batch: images that the network sees together.
    """

    verb: str = "examples"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: ImagesConfig = field(default_factory=ImagesConfig)
    units: Any = MISSING
    k: int = 9
    kinds: list[str] = field(default_factory=lambda: ["top"])
    batch: int = 32


@dataclass
class FacetsConfig(AscentJobConfig):
    """``dgn facets``.

    Attributes:
        unit: one unit, as in dgn synthesize.
        facets: how many kinds. null: as many, from 2 to ``most``, as separate best (silhouette).
        most: facets, at most.
        examples: images that excite the unit most, which are grouped.
        members: images nearest a facet's centre; its synthesis starts at their mean.
        components: principal components in which they are grouped.
        tsne: group in two dimensions of t-SNE, as Nguyen et al. 2016b.
        layer: whose features are grouped. null: the last before the output.
        own_class: among images of the unit's own class alone; needs labels.
        shown: real images shown of each facet.
    """

    verb: str = "facets"
    data: ImagesConfig = field(default_factory=ImagesConfig)
    unit: Any = MISSING
    facets: int | None = None
    most: int = 6
    examples: int = 100
    members: int = 15
    components: int = 50
    tsne: bool = False
    layer: str | None = None
    own_class: bool = False
    shown: int = 4


@dataclass
class AblateConfig(JobConfig):
    """``dgn ablate``.

    Attributes:
        image: a file, a list of files, a folder or a run.
        unit: which unit's loss is mapped. null: the image's first choice among the classes.
        size: of the square that is covered, in pixels of the network's input. null: 48, less for a small network.
        stride: between squares, in pixels of the network's input. null: 16, less for a small network.
        fill: what covers: ``grey``, ``mean``, ``blur`` or ``noise``.
        curve_steps: steps of the insertion and deletion curves; 0: none.
        curve_fill: what covers in the curves, likewise.
        batch: images that the network sees together.
    """

    verb: str = "ablate"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    image: Any = MISSING
    unit: Any = None
    size: Any = None
    stride: Any = None
    fill: str = "grey"
    curve_steps: int = 28
    curve_fill: str = "blur"
    batch: int = 16


@dataclass
class ConceptConfig(JobConfig):
    """``dgn concept``.

    Attributes:
        layer: in whose feature space the direction lies.
        positives: images that show it: a folder, a tar file, or a list of files.
        negatives: images that don't, likewise.
        method: ``mean`` (difference of the groups' means) or ``probe`` (weights of a logistic regression).
        shuffles: how often the labels are shuffled to see what chance gives; 0: never.
        batch: images that the network sees together.
        workers: processes that decode images; 0: none beside this one.
    """

    verb: str = "concept"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    layer: str = MISSING
    positives: Any = MISSING
    negatives: Any = MISSING
    method: str = "mean"
    shuffles: int = 100
    batch: int = 32
    workers: int = 0


@dataclass
class FigureConfig(AscentJobConfig):
    """``dgn figure``.

    Attributes:
        figure: which figure; ``dgn figure NAME`` is short for it. Its own keys follow.
        width: of the figure: ``page`` (7 inches) or ``column`` (3.4 inches).
    """

    verb: str = "figure"
    figure: dict[str, Any] = field(default_factory=dict)
    data: ImagesConfig = field(default_factory=ImagesConfig)
    width: str = "page"


@dataclass
class GalleryConfig:
    """``dgn gallery``.

    Attributes:
        runs: folders of runs; ``dgn gallery RUN RUN`` is short for it.
        out: folder of the page. null: the first run.
        title: of the page.
    """

    verb: str = "gallery"
    runs: Any = MISSING
    out: str | None = None
    title: str | None = None


@dataclass
class GatherConfig:
    """``dgn gather``.

    Attributes:
        sweep: its folder; ``dgn gather SWEEP`` is short for it.
        title: of the grid and the page.
    """

    verb: str = "gather"
    sweep: Any = MISSING
    title: str | None = None


@dataclass
class TrainConfig(JobConfig):
    """``dgn train``.

    Attributes:
        training: a recipe; its keys follow, and null keeps the default.
        compile: ``torch.compile`` the training. null: where it pays.
        checkpoint_minutes: minutes between checkpoints, from which the same command goes on.
    """

    verb: str = "train"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)  # type: ignore[valid-type]
    compile: bool | None = None
    checkpoint_minutes: float = 5.0


@dataclass
class EvaluateConfig(AscentJobConfig):
    """``dgn evaluate``.

    Attributes:
        run: a run of dgn synthesize or facets whose images are measured instead of new ones.
        blind: folder for numbered sheets that a viewer names without being told; with answers.csv in it, the scores.
        units: as in dgn synthesize. null: the ``classes`` with the most images in ``data.root``.
        classes: how many classes, where ``units`` are not given.
        judges: networks that took no part, by name as ``network.name``, or exported programs.
        seeds: images of each unit and prior.
    """

    verb: str = "evaluate"
    data: RealConfig = field(default_factory=RealConfig)
    run: str | None = None
    blind: str | None = None
    units: Any = None
    classes: int = 50
    judges: list[str] = field(default_factory=lambda: ["efficientnet_lite2"])
    seeds: int = 2


@dataclass
class UnitsConfig:
    """``dgn units``.

    Attributes:
        network: the network whose layers and classes are listed.
        trust: open a network that is a program (.pt2).
        find: a part of a class's name. null: the layers are listed.
    """

    verb: str = "units"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    trust: bool = False
    find: str | None = None


def schema_of(verb: str) -> type:
    """The dataclass of a verb's keys."""
    return globals()[f"{verb.title()}Config"]


@functools.cache  # Hydra keeps them
def register() -> None:
    """Make the schemas known to Hydra."""
    for verb in VERBS:
        ConfigStore.instance().store(name=f"{verb}_schema", node=schema_of(verb))
