"""``dgn units``: layers with their shapes, or classes by part of their name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from dgn.cli.chosen import load_chosen
from dgn.errors import DgnError
from dgn.network.attention import Heads
from dgn.network.facts import summary
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.units.units import find_classes


def run(config: Any) -> None:
    """Print layers, or with ``find=TEXT`` the classes whose name contains it."""
    network = load_chosen(config.network, trust=config.trust)
    if config.find is not None:
        found = find_classes(network, str(config.find))
        if not found:
            raise DgnError(f"no class of {network.name!r} contains {str(config.find)!r}")
        for index, name in found:
            print(f"{index:5d}  {name}")
        return
    heads = {each.layer: each for each in network.heads}
    network.layouts.ask(layer for layer in (*network.layers, *heads) if layer in network.survey.every)
    listed = sorted([*heads, *network.layers], key=network.depth)
    width = max(len(layer) for layer in listed)
    rows = [(layer, list(network.layer_shape(layer)), _kind(layer, network, heads)) for layer in listed]
    shapes = max(len(str(shape)) for _, shape, _ in rows)
    for layer, shape, kind in rows:
        print(f"{layer:<{width}}  {shape!s:<{shapes}}  {kind}")
    print(f"dgn: {network.name}: {'; '.join(summary(network))}", file=sys.stderr)
    print("dgn: LAYER.input is what goes into any module: docs/units.md", file=sys.stderr)


def _kind(layer: str, network: Network, heads: Mapping[str, Heads]) -> str:
    """What a layer is, in words; its heads; which call of its module, where there are several."""
    try:
        words = network.layout(layer).kind
    except DgnError:
        words = "its features can't be told from its places: give network.axes"
    if layer in network.derived:
        return ", ".join(filter(None, (words, network.derived[layer].words)))
    if layer in heads:
        words += f"; {heads[layer].words}"
    seen = network.seen(layer)
    calls = network.survey.calls.get(seen.module, 1)
    if layer == OUTPUT and seen.path:
        words += f", = {OUTPUT}.{'.'.join(seen.path)}"
    return words + (f", call {seen.call.number} of {calls}" if calls > 1 else "")
