"""The configuration's schema: every key with its type, so that a misspelt one is refused."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class NetworkConfig:
    """The network under study; see ``dgn.load_network``."""

    name: str = "efficientnet_lite0"
    weights: str | None = None
    input_size: Any = None
    mean: Any = None
    std: Any = None
    range: Any = None
    classes: Any = None
    fit: str | None = None
    scores: str | None = None
    axes: Any = None


@dataclass
class PriorConfig:
    """One prior; see ``dgn.load_prior``.

    ``ascent``: settings of its own, which the job's replace. ``module``: with ``_target_``, built by Hydra.
    """

    path: str = MISSING
    size: Any = None
    space: str = "auto"
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    module: Any = None
    ascent: dict[str, Any] = field(default_factory=dict)


@dataclass
class AscentConfig:
    """Ascent settings; what is null is taken from the preset, or from the prior's own settings."""

    preset: str | None = None
    rule: Any = None
    steps: int | None = None
    temperature: float | None = None
    inner: int | None = None
    pull: float | None = None
    churn: float | None = None
    shift: float | None = None
    reach: float | None = None
    start_time: float | None = None
    lr: float | None = None
    lr_end: float | None = None
    decay: float | None = None
    sigmas: float | None = None
    jitter: float | None = None
    scale: float | None = None
    noise: float | None = None
    transforms: Any = None
    views: int | None = None
    penalties: Any = None
    between: Any = None
    centre_mask: float | None = None
    centre_from: float | None = None
    diversity: float | None = None
    diversity_layer: str | None = None
    epsilon1: float | None = None
    epsilon3: float | None = None
    octaves: int | None = None
    octave_scale: float | None = None
    phases: Any = None
    population: int | None = None
    fit: str | None = None
    input_size: Any = None
    reencode: float | None = None
    keep: str | None = None
    precision: str | None = None
    screen: int | None = None
    starts: int | None = None
    race_steps: int | None = None
    race_by: str | None = None
    start_scale: float | None = None
    refine_steps: int | None = None
    refine_lr: float | None = None
    refine_radius: float | None = None


@dataclass
class TrackingConfig:
    """Weights & Biases."""

    mode: str = "offline"
    project: str = "dgn"
    entity: str | None = None


@dataclass
class DataConfig:
    """Where images come from."""

    root: str = MISSING
    workers: int = 0


@dataclass
class TrainingConfig:
    """See ``dgn.training.settings.TrainSettings``, and with ``prior`` ``dgn.training.flow.FlowSettings``; what is null
    keeps its default."""

    prior: str | None = None
    patch: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    passes: int | None = None
    sample_steps: int | None = None
    layer: str | None = None
    code: str | None = None
    image_size: int | None = None
    encoder_size: int | None = None
    code_size: int | None = None
    widths: list[int] | None = None
    depths: list[int] | None = None
    comparator_layers: list[str] | None = None
    semantic_layers: list[str] | None = None
    adversary_layers: list[str] | None = None
    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    discriminator_lr: float | None = None
    warmup: int | None = None
    cooldown: float | None = None
    pixel_weight: float | None = None
    feature_weight: float | None = None
    semantic_weight: float | None = None
    code_weight: float | None = None
    adversary_weight: float | None = None
    adversary_start: float | None = None
    cycle_share: float | None = None
    blend_share: float | None = None
    ascent_share: float | None = None
    ascent_steps: int | None = None
    sample_share: float | None = None
    init: str | None = None
    code_noise: float | None = None
    ema: float | None = None
    held_out: int | None = None
    statistics_images: int | None = None
    component_images: int | None = None
    components: int | None = None
    centres: int | None = None


@dataclass
class JobConfig:
    """What every job has."""

    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    out: str | None = None
    progress: bool = True
    trust: bool = False
    launcher: dict[str, Any] = field(default_factory=dict)


@dataclass
class AscentJobConfig(JobConfig):
    """A job that climbs units with priors."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    prior: dict[str, Any] = field(default_factory=dict)  # of PriorConfig, which `+prior.NAME.path=` could not add to
    ascent: AscentConfig = field(default_factory=AscentConfig)
    batch: int | None = None


@dataclass
class SynthesizeConfig(AscentJobConfig):
    """``dgn synthesize``."""

    verb: str = "synthesize"
    units: Any = MISSING
    shard: str | None = None
    seeds: int = 1
    start: str | None = None
    frames: int | None = None
    resume: bool = True
    objective: str = "activation"


@dataclass
class ImagesConfig:
    """Images to look through: a folder or tar files, or a data set of torchvision with its options."""

    root: str | None = None
    workers: int = 0
    torchvision: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExamplesConfig(JobConfig):
    """``dgn examples``."""

    verb: str = "examples"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: ImagesConfig = field(default_factory=ImagesConfig)
    units: Any = MISSING
    k: int = 9
    kinds: list[str] = field(default_factory=lambda: ["top"])
    batch: int = 32


@dataclass
class FacetsConfig(AscentJobConfig):
    """``dgn facets``."""

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
    """``dgn ablate``."""

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
class FigureConfig(AscentJobConfig):
    """``dgn figure``."""

    verb: str = "figure"
    figure: dict[str, Any] = field(default_factory=dict)
    data: ImagesConfig = field(default_factory=ImagesConfig)
    width: str = "page"


@dataclass
class GalleryConfig:
    """``dgn gallery``."""

    verb: str = "gallery"
    runs: Any = MISSING
    out: str | None = None
    title: str | None = None


@dataclass
class GatherConfig:
    """``dgn gather``."""

    verb: str = "gather"
    sweep: Any = MISSING
    title: str | None = None


@dataclass
class TrainConfig(JobConfig):
    """``dgn train``."""

    verb: str = "train"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    compile: bool | None = None
    checkpoint_minutes: float = 5.0


@dataclass
class RealConfig:
    """Labelled real images; see ``dgn.evaluation.real.load_real``."""

    root: str = MISSING
    photos: str | None = None
    training: str | None = None
    per_class: int = 20
    most_photos: int = 1000


@dataclass
class EvaluateConfig(AscentJobConfig):
    """``dgn evaluate``."""

    verb: str = "evaluate"
    data: RealConfig = field(default_factory=RealConfig)
    run: str | None = None
    blind: str | None = None
    units: Any = None
    classes: int = 50
    judges: list[str] = field(default_factory=list)
    seeds: int = 2


@dataclass
class UnitsConfig:
    """``dgn units``."""

    verb: str = "units"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    find: str | None = None


@functools.cache  # Hydra keeps them
def register() -> None:
    """Make the schemas known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="synthesize_schema", node=SynthesizeConfig)
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="units_schema", node=UnitsConfig)
    store.store(name="examples_schema", node=ExamplesConfig)
    store.store(name="facets_schema", node=FacetsConfig)
    store.store(name="ablate_schema", node=AblateConfig)
    store.store(name="figure_schema", node=FigureConfig)
    store.store(name="gallery_schema", node=GalleryConfig)
    store.store(name="gather_schema", node=GatherConfig)
