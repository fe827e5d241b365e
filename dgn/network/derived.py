"""Layers that are computed from a layer of the module: latents of a dictionary, the part of one attention head.

Nothing is put into the module for them: the layer that one is made from is read as any other, so that fused copies and
everything that asks for layers by name work with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dgn.errors import DgnError
from dgn.network.layout.layout import Layout
from dgn.network.layout.survey import Seen


@dataclass(frozen=True)
class Derived:
    """A layer that is computed from another.

    Attributes:
        layer: of the module, which it is made from.
        compute: ``[N, C, *places] -> [N, features, *places]``, differentiable; each place for itself.
        features: how many it has.
        words: what it is, as ``dgn units`` says it.
        about: the same with what a manifest should know, too.
        digest: changes with what it computes; "": not known.
    """

    layer: str
    compute: Callable[[Tensor], Tensor]
    features: int
    words: str = ""
    about: str = ""
    digest: str = ""

    def seen(self, base: Layout) -> Seen:
        """Its tensor: features first, then the places of the layer that it is made from."""
        return replace(base.seen, shape=(self.features, *base.positions), batch=0, windows=1)

    def layout(self, base: Layout) -> Layout:
        """The same grid as that layer's."""
        return replace(base, seen=self.seen(base), features=0)

    def shape(self, base: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
        """Its shape where that layer, of this layout, has the shape ``base``."""
        return (self.features, *(size for axis, size in enumerate(base) if axis != layout.features))

    def of(self, base: Layout, output: Tensor) -> Tensor:
        """``[N, features, *places]`` from the layer's own output, as the forward pass gives it; in float32 always."""
        samples = output.shape[base.seen.batch] // base.seen.windows
        with torch.autocast(output.device.type, enabled=False):
            return self.compute(base.canonical(output, samples).float())


class Both(nn.Module):
    """What is computed of a layer that is itself computed."""

    def __init__(self, first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, maps: Tensor) -> Tensor:
        return self.second(self.first(maps))


def check_name(name: str, *, taken: bool) -> None:
    """Raise :class:`DgnError` where no layer can be called so, or one is (``taken``)."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
        raise DgnError(f"no layer can be called {name!r}: expected a letter, then letters, digits, '_', '.' and '-'")
    if taken:
        raise DgnError(f"{name!r} is a layer of the network already: give it another name")


def check_base(layer: str, layers: Mapping[str, Derived]) -> None:
    """Raise :class:`DgnError` where a layer is itself computed from another."""
    if layer in layers:
        raise DgnError(f"layer {layer!r} is computed from {layers[layer].layer!r}: nothing can be computed from it")


def to(layers: Mapping[str, Derived], device: torch.device | str) -> None:
    """Move what they are computed with."""
    for layer in layers.values():
        if isinstance(layer.compute, nn.Module):
            layer.compute.to(device)


def computed(
    layers: Mapping[str, Derived], tensors: Mapping[str, Tensor], layout: Callable[[str], Layout]
) -> dict[str, Tensor]:
    """These layers, from the tensors of the module's layers."""
    made = {name: layer for name, layer in layers.items() if layer.layer in tensors}
    return {name: layer.of(layout(layer.layer), tensors[layer.layer]) for name, layer in made.items()}


def placed(
    layers: Mapping[str, Derived], shapes: Mapping[str, tuple[int, ...]], layout: Callable[[str], Layout]
) -> dict[str, tuple[int, ...]]:
    """All shapes, each derived layer's behind that of the layer that it is made from."""
    every: dict[str, tuple[int, ...]] = {}
    for base, shape in shapes.items():
        every[base] = shape
        for name, layer in layers.items():
            if layer.layer == base:
                every[name] = layer.shape(shape, layout(base))
    return every
