"""The receptive field of a position in a layer, exactly: asked of the network itself."""

from __future__ import annotations

from typing import Any

import torch

from dgn.errors import DgnError
from dgn.guest import guest, without_cudnn
from dgn.network.network import Network

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels of the network's input; bottom and right are the first outside."""


class ReceptiveFields:
    """Receptive fields of a network's layers, each found once.

    Not-a-number is put into a part of the input; where it does not reach, the input has no part in the output. The
    edge is found by bisection, so paddings, branches and dilations need no bookkeeping, and zero weights count.
    """

    @guest
    def __init__(self, network: Network) -> None:
        self.network = network
        self._edges: dict[tuple[str, int, int], tuple[int, int]] = {}

    @guest
    def box(self, layer: str, position: tuple[int, int]) -> Box:
        """The field of one position ``(y, x)`` of a layer's grid.

        Raises:
            DgnError: a layer without a grid of positions.
        """
        if layer in self.network.derived:  # of one place of the layer below it
            layer = self.network.derived[layer].layer
        layout = self.network.layout(layer)
        if layout.grid is None:
            raise DgnError(f"layer {layer!r} ({layout.kind}) has no grid of positions, so no receptive fields")
        (top, bottom), (left, right) = (self._along(layer, axis, position) for axis in (0, 1))
        return top, left, bottom, right

    def _along(self, layer: str, axis: int, position: tuple[int, int]) -> tuple[int, int]:
        """First pixel of the field along an axis, and the first behind it."""
        key = (layer, axis, position[axis])
        if key not in self._edges:
            side = self.network.input_size[axis]
            # The first edge: how many pixels from the start can be spoilt without a trace? The second: from the end?
            low, high = [0, 0], [side, side]
            while any(b - a > 1 for a, b in zip(low, high, strict=True)):
                middle = [(a + b) // 2 for a, b in zip(low, high, strict=True)]
                reached = self._reached(layer, axis, position, middle)
                for end in (0, 1):
                    if reached[end]:
                        high[end] = middle[end]
                    else:
                        low[end] = middle[end]
            self._edges[key] = (low[0], side - low[1])
        return self._edges[key]

    @torch.no_grad()
    def _reached(self, layer: str, axis: int, position: tuple[int, int], spoilt: list[int]) -> list[bool]:
        """Whether not-a-number in so many pixels from the start, and from the end, reaches the position."""
        network = self.network
        images = torch.full((2, network.channels, *network.input_size), 0.5, device=network.device)
        side = network.input_size[axis]
        for end, count in enumerate(spoilt):
            where = slice(0, count) if end == 0 else slice(side - count, side)
            if axis == 0:
                images[end, :, where, :] = torch.nan
            else:
                images[end, :, :, where] = torch.nan
        with without_cudnn():  # its fast convolutions carry not-a-number across whole tiles
            maps = network.maps(images, [layer])[layer]
        at: tuple[Any, ...] = (..., *network.layout(layer).where(position))
        values = maps[at]
        return [bool(row.isnan().any()) for row in values]
