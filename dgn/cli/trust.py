"""What a configuration may build: classes of modules from well-known libraries; with ``trust=true`` anything.

A ``_target_`` names any importable thing, and importing runs code. Before anything is imported its package must be one
of :data:`LIBRARIES`; what is found there must be a class of ``torch.nn.Module`` that was defined there, so that no path
through another module's imports (``torch.nn.functional.torch.load``) and no function or loader is reached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any

from torch import nn

from dgn.errors import DgnError, first_line
from dgn.priors.base import Prior
from dgn.units.units import unit

LIBRARIES = (
    "torch.nn", "torchvision.models", "torchvision.ops", "timm.models", "timm.layers", "diffusers.models", "dgn",
)  # fmt: skip
"""Packages whose module classes a ``_target_`` may name; ``diffusers.NAME`` stands for its class."""


def build_module(name: str, config: Any, *, trust: bool = False) -> nn.Module | Prior:
    """The module that a configuration with ``_target_`` describes, built by Hydra.

    Args:
        name: of its key, for errors.
        config: plain values, interpolations resolved.
        trust: build whatever is named.

    Raises:
        DgnError: a ``_target_`` beyond the libraries without ``trust``, one that can't be built, or that is no module
            (and, with ``trust``, no prior).
    """
    from hydra.utils import instantiate

    if not isinstance(config, dict) or "_target_" not in config:
        raise DgnError(f"{name} needs _target_=PACKAGE.CLASS, a torch.nn.Module that decodes codes into images")
    if not trust:
        for target in _targets(config):
            _check(name, target)
    module = _attempt(name, lambda: instantiate(config))
    if not isinstance(module, (nn.Module, Prior)):
        raise DgnError(f"{name} is a {type(module).__name__}, expected a torch.nn.Module")
    return module


def build_functions(name: str, node: Any, *, trust: bool = False) -> Any:
    """Values in which each ``{_target_: PACKAGE.FUNCTION, KEY: VALUE}`` is that function with its keywords set; of a
    class it is an object, which is called. ``name``: of their key, for errors.

    Raises:
        DgnError: there is one without ``trust``, or it can't be had.
    """
    if isinstance(node, list):
        return [build_functions(name, value, trust=trust) for value in node]
    if not isinstance(node, dict):
        return node
    values = {str(key): build_functions(name, value, trust=trust) for key, value in node.items()}
    if "_target_" not in node:
        return values
    target = str(values.pop("_target_"))
    if not trust:
        raise DgnError(f"{name} names code, {target!r}: if you trust it, add trust=true")
    found = _attempt(name, lambda: resolve_name(target))
    if isinstance(found, type):
        return _attempt(name, lambda: found(**values))
    return _attempt(name, lambda: functools.partial(found, **values)) if values else found


def build_units(given: Any, *, trust: bool = False) -> Any:
    """Units in which each ``{_target_: PACKAGE.FUNCTION, layers: [LAYER], name: NAME}`` is an objective of one's own;
    see :func:`dgn.unit`."""
    if isinstance(given, list):
        return [build_units(entry, trust=trust) for entry in given]
    if not isinstance(given, dict) or "_target_" not in given:
        return given
    rest = {key: value for key, value in given.items() if key not in ("layers", "name")}
    return unit(build_functions("units", rest, trust=trust), given.get("layers") or (), given.get("name"))


def _attempt(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        raise DgnError(f"{name} can't be built: {first_line(error)}") from error


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
    found = None
    with suppress(Exception):  # there is none
        found = resolve_name(target)
    if not (isinstance(found, type) and issubclass(found, nn.Module) and _within(found.__module__, LIBRARIES)):
        raise DgnError(
            f"{name} names {target!r}, no class of torch.nn.Module; if you trust this configuration, add trust=true"
        )


def _within(path: str, packages: tuple[str, ...]) -> bool:
    return any(path == package or path.startswith(package + ".") for package in packages)
