"""dgn: what does this neuron want to see? Synthesis of preferred images through a deep generator prior."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgn.analysis.ablation import Ablation as Ablation
    from dgn.analysis.ablation import ablate as ablate
    from dgn.analysis.alignment import align as align
    from dgn.analysis.atlas import Atlas as Atlas
    from dgn.analysis.atlas import atlas as atlas
    from dgn.analysis.concepts import Concept as Concept
    from dgn.analysis.concepts import concept as concept
    from dgn.analysis.examples import find_examples as find_examples
    from dgn.analysis.facets import Facets as Facets
    from dgn.analysis.facets import find_facets as find_facets
    from dgn.analysis.results import Examples as Examples
    from dgn.ascent.settings import AscentSettings as AscentSettings
    from dgn.errors import DgnError as DgnError
    from dgn.evaluation.evaluate import Evaluation as Evaluation
    from dgn.evaluation.evaluate import evaluate as evaluate
    from dgn.network.network import Network as Network
    from dgn.network.sources import load_network as load_network
    from dgn.priors import Prior as Prior
    from dgn.priors import load_prior as load_prior
    from dgn.synthesis.main import pieces as pieces
    from dgn.synthesis.main import synthesize as synthesize
    from dgn.synthesis.result import Synthesis as Synthesis
    from dgn.training.trainer import train as train
    from dgn.units.selection import select_units as select_units
    from dgn.units.unit import Unit as Unit
    from dgn.units.units import direction as direction
    from dgn.units.units import find_classes as find_classes
    from dgn.units.units import parse_units as parse_units
    from dgn.units.units import unit as unit

_HOMES = {
    "analysis.ablation": ("Ablation", "ablate"),
    "analysis.alignment": ("align",),
    "analysis.atlas": ("Atlas", "atlas"),
    "analysis.concepts": ("Concept", "concept"),
    "analysis.examples": ("find_examples",),
    "analysis.facets": ("Facets", "find_facets"),
    "analysis.results": ("Examples",),
    "ascent.settings": ("AscentSettings",),
    "errors": ("DgnError",),
    "evaluation.evaluate": ("Evaluation", "evaluate"),
    "network.network": ("Network",),
    "network.sources": ("load_network",),
    "priors": ("Prior", "load_prior"),
    "synthesis.main": ("pieces", "synthesize"),
    "synthesis.result": ("Synthesis",),
    "training.trainer": ("train",),
    "units.selection": ("select_units",),
    "units.unit": ("Unit",),
    "units.units": ("direction", "find_classes", "parse_units", "unit"),
}
"""Modules with their public names, which are imported at their first use: ``dgn --help`` need not wait for torch."""

__all__ = sorted(name for names in _HOMES.values() for name in names)

try:
    __version__ = version("dgn")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"dgn.{home}"), name)
    raise AttributeError(f"module 'dgn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
