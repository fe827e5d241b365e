"""The layouts of a network's layers, found from the module when they are needed, never assumed.

A module's type decides where it can (a convolution's features are on its first axis, a linear layer's on its last).
Any other layer has the features of the last such layer before it, where just one of its axes has their number. Where
that is not enough, the network is asked: it is shown images that differ in one part, and an axis along which its
answer moves with that part is one of places (:mod:`dgn.network.layout.places`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from dgn.errors import DgnError, first_line
from dgn.network.layout.axes import axis_by_type, carried_axis, given_axis
from dgn.network.layout.layout import Grid, Layout
from dgn.network.layout.places import Places, answers, probe_images
from dgn.network.layout.survey import INPUT, Seen

_NOTHING = nn.Identity()
"""Stands for the whole network, whose type says nothing."""


class Layouts:
    """The :class:`Layout` of each layer by its name.

    Args:
        modules, layers: of a network, by name; layers, inputs too, in the order of the forward pass.
        axes: what the user says of layers, by name or pattern.
        show: gives the network images ``[N, C, H, W]`` in [0, 1].
        size: C, H, W of its images.
        prefix: what its tokens before those of the image are called, see :func:`dgn.network.layout.prefix.prefix`.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        layers: Mapping[str, Seen],
        axes: Mapping[str, str],
        show: Callable[[Tensor], Any],
        size: tuple[int, int, int],
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.modules, self.layers, self.axes, self._show, self.size = modules, layers, axes, show, size
        self.prefix = prefix
        self.outputs = {layer: seen for layer, seen in layers.items() if not seen.call.input}
        self._found: dict[str, Layout] = {}
        self._places: dict[str, Places] = {}
        self._typed = {layer: axis for layer in layers if (axis := self._axis_by_type(layer)) is not None}
        self._maps = [
            (seen.shape[1], seen.shape[2]) for layer, seen in self.outputs.items()
            if len(seen.shape) == 3 and seen.windows == 1 and self._typed.get(layer) == 0
        ]  # fmt: skip
        unused = [pattern for pattern in axes if not any(fnmatchcase(layer, pattern) for layer in layers)]
        if unused:
            raise DgnError(f"network.axes names {unused[0]!r}, and no layer is called so; dgn units lists layers")

    def __call__(self, layer: str) -> Layout:
        """The layout of one layer.

        Raises:
            DgnError: it stays ambiguous which axis is the features.
        """
        if layer not in self._found:
            self.ask([layer])
            seen = self.layers[layer]
            given = next((axes for pattern, axes in self.axes.items() if _means(pattern, layer, seen)), None)
            axis = self._features(layer) if given is None else given_axis(given, seen, layer)
            # Two axes of one letter are tokens by tokens, as attention's probabilities: no map.
            grid = None if given and given.upper().count("L") > 1 else self._grid(layer, axis)
            first = 0 if grid is None else grid.first
            prefix = self.prefix if len(self.prefix) == first and len(seen.shape) == 2 else ()
            self._found[layer] = Layout(seen, axis, grid, prefix)
        return self._found[layer]

    def ask(self, layers: Iterable[str]) -> None:
        """Show the network images that differ in one part, once for all of these layers whose axes need it."""
        wanted = {
            layer: self.layers[layer]
            for asked in layers if self._needs(asked)
            for layer in (asked, self._first_like(asked)) if layer not in self._places
        }  # fmt: skip
        if not wanted:
            return
        try:
            changes = answers(self.modules, wanted, self._show, probe_images(self.size[0], self.size[1:]))
        except DgnError:
            raise
        except Exception as error:
            raise DgnError(f"the network failed on images of noise: {first_line(error)}") from error
        aspect = self.size[1] / self.size[2]
        for layer, axes in changes.items():
            self._places[layer] = Places(axes, self._maps if len(axes) == 2 else (), aspect)

    def _axis_by_type(self, layer: str) -> int | None:
        seen = self.layers[layer]
        module = self.modules.get(seen.module, _NOTHING)
        inner = int(seen.windows > 1 and seen.batch == 0)  # a module sees a window as a sample
        axis = axis_by_type(module, seen.shape[inner:], seen.call.input)
        return None if axis is None else axis + inner

    def _needs(self, layer: str) -> bool:
        """Whether a layer's type does not say all of its axes."""
        seen = self.layers[layer]
        return len(seen.shape) == 2 or (len(seen.shape) > 2 and (seen.windows > 1 or layer not in self._typed))

    def _first_like(self, layer: str) -> str:
        """Of tokens, the first layer with as many: there they stand in their places, however much they mix later on."""
        shape = self.layers[layer].shape
        if len(shape) != 2:
            return layer
        alike = (
            other for other, seen in self.layers.items()
            if len(seen.shape) == 2 and seen.windows == 1 and self._typed.get(other) == 1 and seen.shape[0] in shape
        )  # fmt: skip
        return next(alike, layer)

    def _features(self, layer: str) -> int:
        """The axis of the features."""
        shape = self.layers[layer].shape
        typed, places = self._typed.get(layer), self._places.get(layer)
        if places is not None and not places.scores:
            raise DgnError(f"the samples of layer {layer!r} don't stand one after the other: it can't be read")
        if typed is not None:
            return typed
        if places is not None:
            asked, known = places.features(), self._known(layer)
            if asked is not None and known in (None, asked):
                return asked
            if known is not None and asked is None and not places.denies(known):
                return known
        raise DgnError(
            f"which axis of layer {layer!r} {list(shape)} is the features can't be told: name its axes by one letter "
            f"each, as in network.axes={{{layer}: {'NLC' if len(shape) == 2 else 'NHWC'}}}"
        )

    def _known(self, layer: str) -> int | None:
        """The axis of the features that layers whose type says it have: those of its shape, or the last before it.

        Tokens are sometimes transposed, so that for them only the last layer inside is asked.
        """
        shape, names = self.layers[layer].shape, list(self.layers)
        typed = {other: axis for other, axis in self._typed.items() if other in self.outputs}
        if same := {axis for other, axis in typed.items() if self.layers[other].shape == shape}:
            return next(iter(same)) if len(same) == 1 else None
        earlier = [name for name in names[: names.index(layer)] if len(self.layers[name].shape) > 1]
        before = next((name for name in reversed(earlier) if name in typed), "")
        if not before or (len(shape) <= 2 and not before.startswith(f"{layer}.")):
            return None
        return carried_axis(Layout(self.layers[before], self._typed[before]), shape)

    def _grid(self, layer: str, axis: int) -> Grid | None:
        """The grid of a map, or of tokens; None where there is none."""
        seen = self.layers[layer]
        places = [size for other, size in enumerate(seen.shape) if other != axis]
        if seen.windows > 1 or len(places) not in (1, 2):
            return None
        if len(places) == 2:
            height, width = places
            typed = axis == 0 and self._typed.get(layer) == 0
            same = abs(height * self.size[2] - width * self.size[1]) <= max(self.size[1:])
            return Grid(height, width) if typed or same or (height, width) in self._maps else None
        first = self._first_like(layer)
        if layer in self._places and (grid := self._places[layer].grids[1 - axis]) is not None:
            return grid
        if first in self._places and self.layers[first].shape[0] == places[0]:
            return self._places[first].grids[0]
        return None


def _means(pattern: str, layer: str, seen: Seen) -> bool:
    """Whether the user's pattern is for this layer; what goes into modules is meant only where it says so."""
    return fnmatchcase(layer, pattern) and (not seen.call.input or INPUT in pattern.split("."))
