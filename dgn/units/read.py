"""How the activations of units are read from layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dgn.network.frozen import Fit
from dgn.network.layout.layout import Layout, Position
from dgn.network.network import Network
from dgn.network.scores import applied
from dgn.units.unit import WHOLE, Computed, Term, Unit, layers_of


class Reader:
    """Reads one unit per sample out of layers, all samples of a batch at once.

    Args:
        network: whose layers are read, at whatever input size.
        units: the unit of each sample, in order of the batch.
        device: where the layers' outputs are; None for the network's.
    """

    def __init__(self, network: Network, units: Sequence[Unit], device: torch.device | str | None = None) -> None:
        device = network.device if device is None else device
        self.network, self.layers, self.count = network, layers_of(units), len(units)
        groups: dict[tuple[str, Position, str], list[tuple[int, int, float]]] = {}
        self._special: list[tuple[int, Term, Tensor, Tensor]] = []
        computed: dict[Computed, list[int]] = {}
        for row, unit in enumerate(units):
            for term in unit.terms:
                if isinstance(term, Computed):
                    computed.setdefault(term, []).append(row)
                elif term.direction or term.index == WHOLE:
                    vector, at = (torch.tensor(values, device=device) for values in (term.direction, [row]))
                    self._special.append((row, term, vector, at))
                else:
                    key = (term.layer, term.position, term.form)
                    groups.setdefault(key, []).append((row, term.index, term.weight))
        # Uploaded once: nothing of a unit travels to the device while a loop runs.
        self._computed = [(term, torch.tensor(rows, device=device)) for term, rows in computed.items()]
        self._groups: list[tuple[str, Position, str, Tensor, Tensor, Tensor]] = []
        for (layer, position, form), terms in groups.items():
            rows, indices, weights = (torch.tensor(column, device=device) for column in zip(*terms, strict=True))
            self._groups.append((layer, position, form, rows, indices, weights.float()))

    def __call__(self, features: Mapping[str, Tensor]) -> Tensor:
        """Activations ``[N]`` (float32) from the layers' outputs, as :meth:`dgn.Network.features` gives them."""
        parts = []
        for layer, position, form, rows, indices, weights in self._groups:
            layout = self.network.layout(layer)
            output = layout.canonical(features[layer], self.count)
            if form:
                output = applied(output, form, 1)
            value = _at_position(output[rows, indices], position, layout).float() * weights
            parts.append(value.new_zeros(self.count).index_add(0, rows, value))
        for row, term, vector, at in self._special:
            output = self.network.seen(term.layer).samples_first(features[term.layer], self.count)[row]
            value = output.float().square().mean() if term.index == WHOLE else self._direction(output, term, vector)
            value = value * term.weight
            parts.append(value.new_zeros(self.count).index_add(0, at, value[None]))
        for own, rows in self._computed:
            outputs = [
                self.network.seen(layer).samples_first(features[layer], self.count).float() for layer in own.reads
            ]
            if len(rows) < self.count:
                outputs = [output[rows] for output in outputs]
            value = own.function.call("objective", *outputs, shape=(len(rows),)).float() * own.weight
            parts.append(value.new_zeros(self.count).index_add(0, rows, value))
        return torch.stack(parts).sum(0)

    def _direction(self, output: Tensor, term: Term, vector: Tensor) -> Tensor:
        """A direction's product with a layer of one sample."""
        layout = self.network.layout(term.layer)
        maps = output.movedim(layout.features, 0) if layout.shape else output[None]
        if term.position == "max":  # of the products, not each feature's own
            values = _cells(maps, layout).float()
        else:
            values = _at_position(maps, term.position, layout).float()[:, None]
        dot = (values * vector[:, None]).sum(0)
        if term.cosine:
            cosine = dot / (values.norm(dim=0) * vector.norm()).clamp(min=1e-12)
            dot = dot * cosine.clamp(min=0.1) ** term.cosine
        return dot.amax()


class BatchReader:
    """Activations of all units for each image of a batch, and where in the map each is highest.

    Args:
        network: that sees the images.
        units: what is read of each of them.
        fit: how images meet the network's input.
    """

    def __init__(self, network: Network, units: Sequence[Unit], fit: Fit = "resize") -> None:
        self.network, self.units, self.fit = network, units, fit
        self.layers = layers_of(units)
        self._plain: dict[str, list[int]] = {}
        self._other: list[int] = []
        for row, unit in enumerate(units):
            term = unit.terms[0]
            plain = len(unit.terms) == 1 and not term.form and not term.direction and term.index != WHOLE
            if plain:
                self._plain.setdefault(term.layer, []).append(row)
            else:
                self._other.append(row)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, U]`` twice: activations, and the cell of the layer's grid (row by row) where each is highest; a peak of
        -1 is none."""
        features = self.network.features(images, self.layers, self.fit)
        values = images.new_zeros(len(images), len(self.units))
        peaks = torch.full(values.shape, -1, dtype=torch.long, device=images.device)
        for layer, rows in self._plain.items():
            terms = [self.units[row].terms[0] for row in rows]
            index = torch.tensor([term.index for term in terms], device=images.device)
            weight = torch.tensor([term.weight for term in terms], device=images.device)
            at = torch.tensor(rows, device=images.device)
            layout = self.network.layout(layer)
            output = layout.canonical(features[layer], len(images)).float()[:, index]
            mean = output.flatten(2).mean(2) if output.dim() > 2 else output
            for column, term in enumerate(terms):
                if term.position is not None:
                    mean[:, column] = _at_position(output[:, column], term.position, layout)
            values[:, at] = mean * weight
            grid = layout.cells(output)
            if grid is not None:
                peak = (grid * weight[:, None]).argmax(2)
                for column, term in enumerate(terms):
                    cell = layout.cell_of(term.position)
                    if cell is not None:
                        peak[:, column] = cell
                peaks[:, at] = peak
        for row in self._other:
            values[:, row] = Reader(self.network, [self.units[row]] * len(images), images.device)(features)
        return values, peaks


def _cells(values: Tensor, layout: Layout) -> Tensor:
    """``[N, *places]`` at the cells of the layer's grid (no class token); without a grid, at all: ``[N, P]``."""
    cells = layout.cells(values[:, None])
    return values.flatten(1) if cells is None else cells[:, 0]


def _at_position(values: Tensor, position: Position, layout: Layout) -> Tensor:
    """``[N, *places]`` at a position, the largest of them, or averaged over all: ``[N]``."""
    if values.dim() == 1:
        return values
    if position == "max":
        return _cells(values, layout).amax(1)  # shared evenly among equals, as those of a latent that is silent
    if position is None:
        return values.float().flatten(1).mean(1)  # a mean in half precision would be one of 256 steps
    at: tuple[Any, ...] = (slice(None), *layout.where(position, values.shape[1:]))
    return values[at]
