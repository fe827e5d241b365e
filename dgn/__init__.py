"""dgn: what does this neuron want to see? Synthesis of preferred images through a deep generator prior."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgn.errors import DgnError
    from dgn.network import Network
    from dgn.network_sources import load_network
    from dgn.priors import Prior, load_prior
    from dgn.selection import select_units
    from dgn.settings import AscentSettings
    from dgn.synthesis import Synthesis, pieces, synthesize
    from dgn.units import Unit, direction, find_classes, parse_units

__all__ = [
    "AscentSettings",
    "DgnError",
    "Network",
    "Prior",
    "Synthesis",
    "Unit",
    "direction",
    "find_classes",
    "load_network",
    "load_prior",
    "parse_units",
    "pieces",
    "select_units",
    "synthesize",
]

try:
    __version__ = version("dgn")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "AscentSettings": "settings",
    "DgnError": "errors",
    "Network": "network",
    "Prior": "priors",
    "Synthesis": "synthesis",
    "Unit": "units",
    "direction": "units",
    "find_classes": "units",
    "load_network": "network_sources",
    "load_prior": "priors",
    "parse_units": "units",
    "pieces": "synthesis",
    "select_units": "selection",
    "synthesize": "synthesis",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: ``dgn --help`` need not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(f"dgn.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dgn' has no attribute {name!r}")
