"""dgn: what does this neuron want to see? Synthesis of preferred images through a deep generator prior."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgn.ascent.settings import AscentSettings
    from dgn.errors import DgnError
    from dgn.network.network import Network
    from dgn.network.sources import load_network
    from dgn.priors import Prior, load_prior
    from dgn.synthesis import Synthesis, pieces, synthesize
    from dgn.units.selection import select_units
    from dgn.units.units import Unit, direction, find_classes, parse_units

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
    "AscentSettings": "ascent.settings",
    "DgnError": "errors",
    "Network": "network.network",
    "Prior": "priors",
    "Synthesis": "synthesis",
    "Unit": "units.units",
    "direction": "units.units",
    "find_classes": "units.units",
    "load_network": "network.sources",
    "load_prior": "priors",
    "parse_units": "units.units",
    "pieces": "synthesis",
    "select_units": "units.selection",
    "synthesize": "synthesis",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: ``dgn --help`` need not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(f"dgn.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dgn' has no attribute {name!r}")
