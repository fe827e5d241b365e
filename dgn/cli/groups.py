"""The schema of the configuration's groups: every key with its type, so that a misspelt one is refused.

What a key is stands under ``Attributes``: ``dgn VERB --help`` shows its first sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

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
    keys = [(key, _optional(hints[key]), field(default=None)) for key in hints if key not in without]
    return make_dataclass(name, keys, namespace={"__module__": __name__})  # launchers pickle configurations


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
        name: ``efficientnet_lite0``, ``torchvision/NAME``, ``timm/NAME``, ``open_clip/NAME``, ``transformers/NAME`` or
            the path of an exported program.
        weights: a file or folder of weights, or ``none`` for random ones. null: the library's pretrained ones.
        input_size: pixels, one number or ``[H, W]``. null: the network's own, as for all that follow.
        mean: of its normalisation, a number or one a channel.
        std: of its normalisation, a number or one a channel.
        range: of the pixels that it takes, ``0..1`` or ``0..255``.
        classes: names of its outputs, a list or a file.
        fit: how images of other proportions meet its input: ``crop``, ``fit`` or ``stretch``.
        scores: what its outputs are: logits of one class (``softmax``) or of labels (``sigmoid``), ``probabilities``
            or ``none``.
        axes: which axis of a layer is its features, ``{PATTERN: AXES}``, where that can't be found out.
        dictionaries: further layers of latents, ``NAME={layer:LAYER,file:FILE}``; also ``activation``, ``k``,
            ``threshold``, ``normalize`` and ``center``, where the file doesn't say them.
        texts: a list or ``@FILE``: the outputs are the cosines with them, by the model's own text tower.
        images: a list of files: the outputs are the cosines with how the network sees them.
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
    dictionaries: dict[str, Any] = field(default_factory=dict)
    texts: Any = None
    images: Any = None


@dataclass
class PriorConfig:
    """One prior; see ``dgn.load_prior``.

    Attributes:
        path: ``dgn``, ``pixel``, ``fourier``, ``maco``, a checkpoint of one's own or its folder, or the folder of a
            diffusion pipeline.
        size: of the images in pixels, one number or ``[H, W]``.
        space: of a generator: ``components``, ``code``, ``noise`` or ``auto``.
        weights: file or folder of somebody else's generator.
        options: keywords of its loader.
        module: with ``_target_``: built by Hydra, with ``trust=true``.
        ascent: settings of its own, which the job's replace.
        references: best real examples of each unit in ``data.root`` whose feature distributions are aligned in the
            place of climbing the activation (VITAL). 0: none.
        layers: in which they are aligned. []: the last one of each size of map up to the unit's, of a transformer six.
    """

    path: str = MISSING
    size: Any = None
    space: str = "auto"
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    module: Any = None
    ascent: dict[str, Any] = field(default_factory=dict)
    references: int = 0
    layers: list[str] = field(default_factory=list)


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
