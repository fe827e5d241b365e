"""Weights as they lie on disks: state dicts in whatever a training wraps them in, and Hugging Face's folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgn.arguments import class_list
from dgn.errors import DgnError

_CONTAINERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema",
)  # fmt: skip
"""Under what trainings keep the weights; averaged ones are taken where there are no others."""
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|rng|loop|callback|hyper|config|args|metric", re.IGNORECASE)
_LABELS = ("id2label", "label2id", "label_names", "class_names", "classes", "labels", "class_to_idx", "idx_to_class")
_IN_FOLDERS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_DEEPEST = 5


@dataclass
class Weights:
    """What a file, or a folder of Hugging Face's layout, holds.

    Attributes:
        path: of the file or folder.
        tensors: by name.
        labels: names of the classes, where they stand beside the weights.
        config: of the folder's ``config.json``.
    """

    path: Path
    tensors: dict[str, Tensor]
    labels: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def read_weights(path: Path) -> Weights:
    """Weights from ``.safetensors``; from a file of ``torch.save`` that holds tensors and plain values only, in any
    nesting of usual containers; from a list of shards (``.index.json``); or from a folder of these.

    Raises:
        DgnError: no such file, another format, or a file that would run code when it is opened.
    """
    file = _in_folder(path) if path.is_dir() else path
    if not file.is_file():
        raise DgnError(f"no weights file {str(path)!r}")
    config: dict[str, Any] = {}
    if file.name in _IN_FOLDERS and (file.parent / "config.json").is_file():
        config = _json(file.parent / "config.json")
    if file.name.endswith(".index.json"):
        shards = sorted({str(name) for name in dict(_json(file).get("weight_map", {})).values()})
        stray = [name for name in shards if Path(name).name != name]
        if stray or not shards:
            raise DgnError(f"{str(file)!r} is no list of shards: {stray[0] if stray else 'it names none'!r}")
        content: Any = {key: value for name in shards for key, value in _load(file.parent / name).items()}
    else:
        content = _load(file)
    tensors = _find(content, file)
    if tensors is None:
        raise DgnError(f"{str(path)!r} holds no state dict of tensors")
    labels = _labels(config) or _labels(config.get("pretrained_cfg")) or _labels(content)
    return Weights(path, tensors, labels, config)


def _in_folder(folder: Path) -> Path:
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(file for kind in ("safetensors", "bin", "pth", "pt", "ckpt") for file in folder.glob(f"*.{kind}"))
    if len(others) == 1:
        return others[0]
    names = ", ".join(file.name for file in others[:3])
    holds = f"{len(others)} files of weights ({names}): give one of them" if others else "no file of weights"
    raise DgnError(f"the folder {str(folder)!r} holds {holds}")


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DgnError(f"{str(path)!r} is no readable JSON file") from error
    return values if isinstance(values, dict) else {}


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DgnError(f"{str(path)!r} is not a readable file of weights ({_reason(path, str(error))})") from error


def _reason(path: Path, text: str) -> str:
    if "TorchScript" in text:
        return "it is a TorchScript program: save module.state_dict() of the module that it was made from"
    pickled = re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:global|class) ([\w.]+)", text)
    if not pickled and "Weights only load failed" not in text:
        return "safetensors or a plain state dict"
    objects = f"pickled objects such as {pickled[1] or pickled[2]}" if pickled else "pickled objects"
    plain = "torch.save(model.state_dict(), 'weights.pth')"
    if path.suffix == ".ckpt":
        plain = f"torch.save(torch.load({path.name!r}, weights_only=False)['state_dict'], 'weights.pth')"
    return f"it holds {objects}, which could run code and are not opened: save the weights alone, {plain}"


def _find(content: Any, path: Path, depth: int = 0) -> dict[str, Tensor] | None:
    """The state dict in nested containers; None where there is none."""
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return None
    for key in _CONTAINERS:
        if (inside := _find(content.get(key), path, depth + 1)) is not None:
            return inside
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors and 2 * len(tensors) > len(content):
        return tensors
    others = {}
    for key, value in content.items():
        if not _NOT_WEIGHTS.search(str(key)) and (inside := _find(value, path, depth + 1)) is not None:
            others[str(key)] = inside
    if len(others) > 1:
        raise DgnError(f"{str(path)!r} holds several state dicts ({', '.join(map(repr, others))}): save one alone")
    return next(iter(others.values()), None)


def _labels(place: Any) -> tuple[str, ...]:
    if isinstance(place, Mapping):
        for key in _LABELS:
            if isinstance(place.get(key), (list, tuple, Mapping)):
                with suppress(DgnError):
                    return class_list(place[key])
    return ()
