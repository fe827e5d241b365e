"""Layers by name: their outputs in one forward pass, and what to say of those that can't be read."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dgn.errors import DgnError, nearest
from dgn.network import adapt
from dgn.network.calling import Call, Reached, watching
from dgn.network.layout.survey import INPUT, OUTPUT, Seen, Survey, pick, watched

if TYPE_CHECKING:
    from dgn.network.network import Network


def read_layers(
    modules: Mapping[str, nn.Module],
    sources: Mapping[str, Seen],
    run: Callable[[Callable[[], None]], Any],
    linked: bool = False,
) -> dict[str, Tensor]:
    """The outputs of layers by their names, without those that the forward pass did not give; nothing deeper than the
    deepest of them is computed. ``run`` is the forward pass, which calls its argument before it begins anew;
    ``linked``: see :meth:`dgn.Network.features`.
    """
    tensors: dict[str, Tensor] = {}
    wanted: dict[Call, dict[str, Seen]] = defaultdict(dict)
    for layer, source in sources.items():
        wanted[source.call][layer] = source

    def note(call: Call, value: Any) -> None:
        here = wanted.get(call, {})
        last = len(tensors) + len(here) == len(sources)
        for layer, source in here.items():
            with suppress(KeyError):
                tensor = pick(value, source.path)
                # What follows may add to it in place (residual sums do): its values are kept as they are now.
                tensors[layer] = tensor if last or linked or not call.module else tensor.clone()
        if here and len(tensors) == len(sources):
            raise Reached

    outputs, inputs = watched(modules, sources.values())
    with watching(outputs, note, tensors, inputs) as again, suppress(Reached):
        note(Call(), run(again))
    return tensors


def unread(layer: str, known: Survey, module: nn.Module, name: str, derived: Iterable[str] = ()) -> str:
    """Why a layer of the network of this name can't be read: it is several tensors, gave none, or is not there."""
    if layer in known.several:
        parts = ", ".join(f"{part} {list(known.every[part].shape)}" for part in known.several[layer])
        what = "output" if layer == OUTPUT else f"layer {layer!r}"
        return f"the {what} of network {name!r} is several tensors: name one of {parts}"
    if layer == OUTPUT or (layer and layer in adapt.parts(module)):
        return f"layer {layer!r} of network {name!r} gave no tensor in its forward pass"
    base, _, last = layer.rpartition(".")
    if last == INPUT and base and base in adapt.parts(module):
        what = "takes no tensor of the images in" if base in known.calls else "is not called in"
        return f"module {base!r} of network {name!r} {what} the forward pass"
    hint = nearest(layer, [*(known.every if INPUT in layer.split(".") else known.layers), *derived])
    if layer and layer in dict(module.named_modules()):
        hint = (
            f"; {layer!r} is inside a TorchScript program, of which the output alone can be read: give the module that "
            "it was made from"
        )
    return f"no layer {layer!r} in network {name!r}{hint}"


def has_places(network: Network, layer: str) -> bool:
    """Whether a layer has more than one place; False, too, where its features can't be told from its places."""
    with suppress(DgnError):
        return math.prod(network.layout(layer).positions) > 1
    return False


def with_places(network: Network, layers: Iterable[str]) -> list[str]:
    """Those of the module's layers that have more than one place; the network is asked once for all of them."""
    listed = [layer for layer in layers if layer in network.survey.every]
    network.layouts.ask(listed)
    return [layer for layer in listed if has_places(network, layer)]


def feature_layer(network: Network) -> str:
    """The layer whose output the last linear layer reads: a classifier's penultimate features; else its output."""
    modules = dict(network.module.named_modules())
    layers = [name for name in network.layers if name not in network.derived]
    linear = [name for name in layers if isinstance(modules.get(name), nn.Linear)]
    before = layers[: layers.index(linear[-1])] if linear else []
    inputs = getattr(modules[linear[-1]], "in_features", None) if linear else None
    for name in reversed(before):
        if inputs in network.layers[name] and network.layout(name).count == inputs:
            return name
    return OUTPUT
