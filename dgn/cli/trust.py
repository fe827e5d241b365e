"""What a configuration may build: classes of modules from well-known libraries, unless ``trust=true``.

A ``_target_`` names any importable thing, and importing runs code. Before anything is imported its package must be one
of :data:`LIBRARIES`; what is found there must be a class of ``torch.nn.Module`` that was defined there, so that no path
through another module's imports (``torch.nn.functional.torch.load``) and no function or loader is reached.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from dgn.errors import DgnError

LIBRARIES = (
    "torch.nn", "torchvision.models", "torchvision.ops", "timm.models", "timm.layers", "diffusers.models", "dgn",
)  # fmt: skip
"""Packages whose module classes a ``_target_`` may name; ``diffusers.NAME`` stands for its class."""


def build_module(name: str, config: Any, *, trust: bool = False) -> nn.Module:
    """The module that a configuration with ``_target_`` describes, built by Hydra.

    Args:
        name: of its key, for errors.
        config: plain values, interpolations resolved.
        trust: build whatever is named.

    Raises:
        DgnError: a ``_target_`` beyond the libraries without ``trust``, one that can't be built, or that is no module.
    """
    from hydra.utils import instantiate

    if not isinstance(config, dict) or "_target_" not in config:
        raise DgnError(f"{name} needs _target_=PACKAGE.CLASS, a torch.nn.Module that decodes codes into images")
    if not trust:
        for target in _targets(config):
            _check(name, target)
    try:
        module = instantiate(config)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DgnError(f"{name} can't be built: {first}") from error
    if not isinstance(module, nn.Module):
        raise DgnError(f"{name} is a {type(module).__name__}, expected a torch.nn.Module")
    return module


def _targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` at any depth."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)


def _check(name: str, target: str) -> None:
    if not _within(target, (*LIBRARIES, "diffusers")):
        raise DgnError(
            f"{name} names {target!r}, which dgn does not build unasked: expected a module class of "
            f"{', '.join(LIBRARIES)}; if you trust this configuration and its code, add trust=true"
        )
    found = _find(target)
    if not (isinstance(found, type) and issubclass(found, nn.Module) and _within(found.__module__, LIBRARIES)):
        raise DgnError(
            f"{name} names {target!r}, no class of torch.nn.Module; if you trust this configuration, add trust=true"
        )


def _within(path: str, packages: tuple[str, ...]) -> bool:
    return any(path == package or path.startswith(package + ".") for package in packages)


def _find(target: str) -> Any:
    """The object at a dotted path; None where there is none."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except Exception:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return found
    return None
