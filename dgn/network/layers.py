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
from dgn.network.calling import Reached, watching
from dgn.network.layout.survey import OUTPUT, Seen, Survey, pick

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
    wanted: dict[tuple[str, int], dict[str, Seen]] = defaultdict(dict)
    for layer, source in sources.items():
        wanted[source.module, source.call][layer] = source

    def note(module: str, call: int, output: Any) -> None:
        here = wanted.get((module, call), {})
        last = len(tensors) + len(here) == len(sources)
        for layer, source in here.items():
            with suppress(KeyError):
                tensor = pick(output, source.path)
                # What follows may add to it in place (residual sums do): its values are kept as they are now.
                tensors[layer] = tensor if last or linked or not module else tensor.clone()
        if here and len(tensors) == len(sources):
            raise Reached

    watched = {module: modules[module] for module, _ in wanted if module}
    with watching(watched, note, tensors) as again, suppress(Reached):
        note("", 1, run(again))
    return tensors


def unread(layer: str, known: Survey, module: nn.Module, name: str, derived: Iterable[str] = ()) -> str:
    """Why a layer of the network of this name can't be read: it is several tensors, gave none, or is not there."""
    if layer in known.several:
        parts = ", ".join(f"{part} {list(known.layers[part].shape)}" for part in known.several[layer])
        what = "output" if layer == OUTPUT else f"layer {layer!r}"
        return f"the {what} of network {name!r} is several tensors: name one of {parts}"
    if layer == OUTPUT or (layer and layer in adapt.parts(module)):
        return f"layer {layer!r} of network {name!r} gave no tensor in its forward pass"
    hint = nearest(layer, [*known.layers, *derived])
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
