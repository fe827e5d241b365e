"""dgn: what does this neuron want to see? Synthesis of preferred images through a deep generator prior."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgn.analysis.ablation.ablation import Ablation, ablate
    from dgn.analysis.examples import find_examples
    from dgn.analysis.facets import Facets, find_facets
    from dgn.analysis.results import Examples
    from dgn.ascent.settings import AscentSettings
    from dgn.errors import DgnError
    from dgn.evaluation.evaluate import Evaluation, evaluate
    from dgn.network.network import Network
    from dgn.network.sources import load_network
    from dgn.priors import Prior, load_prior
    from dgn.synthesis.main import pieces, synthesize
    from dgn.synthesis.result import Synthesis
    from dgn.training.trainer import train
    from dgn.units.selection import select_units
    from dgn.units.unit import Unit
    from dgn.units.units import direction, find_classes, parse_units, unit

__all__ = [
    "Ablation",
    "AscentSettings",
    "DgnError",
    "Evaluation",
    "Examples",
    "Facets",
    "Network",
    "Prior",
    "Synthesis",
    "Unit",
    "ablate",
    "direction",
    "evaluate",
    "find_classes",
    "find_examples",
    "find_facets",
    "load_network",
    "load_prior",
    "parse_units",
    "pieces",
    "select_units",
    "synthesize",
    "train",
    "unit",
]

try:
    __version__ = version("dgn")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "Ablation": "analysis.ablation.ablation",
    "AscentSettings": "ascent.settings",
    "DgnError": "errors",
    "Evaluation": "evaluation.evaluate",
    "Examples": "analysis.results",
    "Facets": "analysis.facets",
    "Network": "network.network",
    "Prior": "priors",
    "Synthesis": "synthesis.result",
    "Unit": "units.unit",
    "ablate": "analysis.ablation.ablation",
    "direction": "units.units",
    "evaluate": "evaluation.evaluate",
    "find_classes": "units.units",
    "find_examples": "analysis.examples",
    "find_facets": "analysis.facets",
    "load_network": "network.sources",
    "load_prior": "priors",
    "parse_units": "units.units",
    "pieces": "synthesis.main",
    "select_units": "units.selection",
    "synthesize": "synthesis.main",
    "train": "training.trainer",
    "unit": "units.units",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: ``dgn --help`` need not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(f"dgn.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dgn' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion, without importing them."""
    return sorted(__all__)
