"""The configuration's schema: every key with its type, so that a misspelt one is refused, and a line about it.

What a key is stands under ``Attributes``: ``dgn VERB --help`` shows its first sentence.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from dgn.ascent.settings import AscentSettings
from dgn.training.settings import FlowSettings, TrainSettings

SIMPLE = (int, float, str, bool)


def unset(name: str, *settings: type, without: Sequence[str] = (), **more: type) -> type:
    """A schema with every field of settings' dataclasses and ``more`` keys, each unset: null leaves its default.

    Args:
        name: of the schema.
        settings: dataclasses. Numbers, texts and lists of these keep their type; of anything else any value goes, and
            the settings themselves refuse what they can't take.
        without: fields to leave out.
        more: keys of its own, with their types.
    """
    hints = dict(more)
    for kind in settings:
        hints |= get_type_hints(kind)
    return make_dataclass(
        name, [(key, _optional(hints[key]), field(default=None)) for key in hints if key not in without]
    )


def _optional(hint: Any) -> Any:
    """A field's type as OmegaConf knows it, or None."""
    choices = [choice for choice in get_args(hint) if choice is not type(None)]
    if get_origin(hint) in (Union, UnionType) and len(choices) == 1:
        hint = choices[0]
    if get_origin(hint) is tuple and get_args(hint)[0] in SIMPLE:
        hint = list[get_args(hint)[0]]  # type: ignore[misc]
    elif hint not in SIMPLE:
        return Any
    return hint | None


AscentConfig = unset("AscentConfig", AscentSettings, preset=str)
TrainingConfig = unset("TrainingConfig", TrainSettings, FlowSettings, without=("network", "seed"))


@dataclass
class NetworkConfig:
    """The network under study; see ``dgn.load_network``.

    Attributes:
        name: ``efficientnet_lite0``, ``torchvision/NAME``, ``timm/NAME`` or the path of an exported program.
        weights: a file or folder of weights, or ``none`` for random ones. null: the library's pretrained ones.
        input_size: pixels, one number or ``[H, W]``. null: the network's own, as for all that follow.
        mean: of its normalisation, a number or one a channel.
        std: of its normalisation, a number or one a channel.
        range: of the pixels that it takes, ``[0, 1]`` or ``[0, 255]``.
        classes: names of its outputs, a list or a file.
        fit: how images of other proportions meet its input: ``crop``, ``fit`` or ``stretch``.
        scores: what its outputs are: logits of one class (``softmax``) or of labels (``sigmoid``), ``probabilities``
            or ``none``.
        axes: which axis of a layer is its features, ``{PATTERN: AXES}``, where that can't be found out.
    """

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

    Attributes:
        path: ``dgn``, ``pixel``, ``fourier``, ``maco``, or a checkpoint of one's own or its folder.
        size: of the images in pixels, one number or ``[H, W]``.
        space: of a generator: ``components``, ``code`` or ``auto``.
        weights: file or folder of somebody else's generator.
        options: keywords of its loader.
        module: with ``_target_``: built by Hydra, with ``trust=true``.
        ascent: settings of its own, which the job's replace.
    """

    path: str = MISSING
    size: Any = None
    space: str = "auto"
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    module: Any = None
    ascent: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrackingConfig:
    """Weights & Biases.

    Attributes:
        mode: ``off``, ``offline`` (upload later with wandb sync) or ``online``.
        project: of Weights & Biases.
        entity: team or user. null: your own.
    """

    mode: str = "offline"
    project: str = "dgn"
    entity: str | None = None


@dataclass
class DataConfig:
    """Where images come from.

    Attributes:
        root: a folder of images, a folder of tar files, or one tar file.
        workers: processes that decode images; 0: none beside this one.
    """

    root: str = MISSING
    workers: int = 0


@dataclass
class ImagesConfig:
    """Images to look through.

    Attributes:
        root: a folder of images, a folder of tar files, or one tar file.
        workers: processes that decode images; 0: none beside this one.
        torchvision: a data set of torchvision, by its class's name, in ``root``.
        options: keywords of that data set.
    """

    root: str | None = None
    workers: int = 0
    torchvision: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class RealConfig:
    """Labelled real images; see ``dgn.evaluation.real.load_real``.

    Attributes:
        root: real images by class: ``WNID/NAME.jpg`` or ``CLASS/NAME.jpg``, in a folder or in tar files.
        photos: held-out photographs for the judges' own accuracy and for reconstructions. null: those of ``root``.
        training: what the prior was trained on, to look for copies. null: not looked for.
        per_class: real images of each evaluated class, at most.
        most_photos: photographs in all, at most.
    """

    root: str = MISSING
    photos: str | None = None
    training: str | None = None
    per_class: int = 20
    most_photos: int = 1000


@dataclass
class JobConfig:
    """What every job has.

    Attributes:
        verb: the command itself; not to be given.
        network: the network under study.
        data: where images come from.
        seed: of everything random; of several ``seeds`` the first.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:INDEX``.
        threads: of the CPU. null: PyTorch's choice, the cores.
        trust: run code that the configuration names (``_target_``) or that a file holds (.pt2, TorchScript).
        out: folder of the run. null: ``runs/VERB/TIME``.
        progress: draw progress bars.
        tracking: Weights & Biases.
        launcher: where the jobs of a sweep run, with keys of its own.
    """

    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    trust: bool = False
    out: str | None = None
    progress: bool = True
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launcher: dict[str, Any] = field(default_factory=dict)


@dataclass
class AscentJobConfig(JobConfig):
    """A job that synthesises.

    Attributes:
        prior: how images are written down, one or a list.
        ascent: named settings of the ascent; what they leave open, and no key gives, is the prior's own.
        batch: samples that move together; halved where memory is full. null: 32, on a GPU 256.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    prior: dict[str, Any] = field(default_factory=dict)  # of PriorConfig, which `+prior.NAME.path=` could not add to
    ascent: AscentConfig = field(default_factory=AscentConfig)  # type: ignore[valid-type]
    batch: int | None = None


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
        members: of them those nearest to a facet's centre, whose mean begins its synthesis.
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


VERBS: dict[str, type] = {
    "synthesize": SynthesizeConfig, "examples": ExamplesConfig, "facets": FacetsConfig, "ablate": AblateConfig,
    "train": TrainConfig, "evaluate": EvaluateConfig, "figure": FigureConfig, "gallery": GalleryConfig,
    "gather": GatherConfig, "units": UnitsConfig,
}  # fmt: skip


@functools.cache  # Hydra keeps them
def register() -> None:
    """Make the schemas known to Hydra."""
    for verb, schema in VERBS.items():
        ConfigStore.instance().store(name=f"{verb}_schema", node=schema)
