"""``dgn units``: layers with their shapes, or classes by part of their name."""

from __future__ import annotations

from typing import Any

from dgn.errors import DgnError
from dgn.network_sources import load_network
from dgn.units import find_classes


def run(config: Any) -> None:
    """Print layers, or with ``find=TEXT`` the classes whose name contains it."""
    network = load_network(config.network.name, weights=config.network.weights, input_size=config.network.input_size)
    if config.find is not None:
        found = find_classes(str(config.find), network)
        if not found:
            raise DgnError(f"no class of {network.name!r} contains {str(config.find)!r}")
        for index, name in found:
            print(f"{index:5d}  {name}")
        return
    width = max(len(layer) for layer in network.layers)
    for layer, shape in network.layers.items():
        print(f"{layer:<{width}}  {' x '.join(map(str, shape))}")
