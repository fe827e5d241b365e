"""VITAL: images whose features are distributed as those of a unit's best real examples.

"VITAL: More Understandable Feature Visualization through Distribution Alignment and Relevant Information Flow" (ICCV
2025, arXiv 2503.22399): of each channel of several layers the values at all places, sorted, are moved towards the mean
of the sorted values of real images that excite the unit; channels count by their relevance to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.errors import DgnError
from dgn.functions import Function
from dgn.guest import guest
from dgn.images.given import as_images
from dgn.network.layers import has_places, with_places
from dgn.network.network import Network
from dgn.units.read import Reader
from dgn.units.unit import WHOLE, Computed, Unit
from dgn.units.units import parse_units

FEWEST = 2
"""Real images that make a distribution."""

MOST_LAYERS = 6
"""Layers that are aligned where none are named."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Minus the distance between the distributions of an image's features and of the references', a number a sample.

    Attributes:
        axes: of the features, in each layer's ``[N, ...]``.
        targets: of each layer ``[C, places]``, the references' sorted values, averaged over the references.
        weights: of each layer ``[C]``, how relevant its channels are to the unit; their sum is 1.
    """

    axes: tuple[int, ...]
    targets: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    def __call__(self, *outputs: Tensor) -> Tensor:
        """``[N]`` from the layers' outputs ``[N, ...]``; of a layer as a share of the target's mean square."""
        total = outputs[0].new_zeros(len(outputs[0]))
        for output, axis, target, weights in zip(outputs, self.axes, self.targets, self.weights, strict=True):
            values = _sorted(output, axis)
            wanted = _resampled(target.to(values), values.shape[2])
            apart = (values - wanted).square().mean(2) @ weights.to(values)
            total = total - apart / (wanted.square().mean(1) @ weights.to(values)).clamp(min=1e-12)
        return total / len(outputs)


@guest
def align(
    network: Network, unit: str | int | Unit, references: Tensor, *, layers: Sequence[str] = (), relevance: bool = True
) -> Unit:
    """A unit whose ascent aligns feature distributions with those of real images, by any prior and rule.

    What is reported is still the unit's own activation. Relevance is gradient times activation (positive part,
    Shrikumar et al. 2016), summed over places and references, where the paper has layer-wise relevance propagation.

    Args:
        network, unit: under study; see :func:`dgn.parse_units`.
        references: the unit's best real examples, ``[R, C, H, W]`` in [0, 1] or uint8, at least two.
        layers: that are aligned; none: the last one of each size of map up to the unit's layer (of transformers, where
            all patches lie on one grid, six evenly spaced ones).
        relevance: whether channels count by their relevance to the unit; else alike.

    Raises:
        DgnError: too few references, layers without places, or behind the unit.
    """
    (parsed,) = parse_units(unit, network)
    images = as_images(references, "a reference", network.channels).to(network.device)
    if images.dim() != 4 or len(images) < FEWEST:
        raise DgnError(
            f"{len(images) if images.dim() == 4 else 1} reference makes no distribution: give {FEWEST} or more"
        )
    if isinstance(layers, str):
        raise DgnError(f"layers is {layers!r}, expected a list of names")
    chosen = list(dict.fromkeys(layers)) or _stages(network, parsed)
    for layer in chosen:
        network.layout(layer)
        if not has_places(network, layer):
            raise DgnError(f"layer {layer!r} has a single place: there is no distribution to align")
    targets, weights, axes = [], [], []
    measured = _measured(network, parsed, images, chosen)
    behind = [layer for layer in chosen if layer not in measured]
    if (behind and layers) or not measured:
        raise DgnError(f"{parsed.name!r} does not depend on layer {behind[0]!r}: align layers before the unit's")
    chosen = list(measured)
    for layer, (values, weight) in measured.items():
        axes.append(network.layout(layer).features + 1)
        targets.append(values)
        weights.append(weight if relevance else torch.full_like(weight, 1 / len(weight)))
    alignment = Alignment(tuple(axes), tuple(targets), tuple(weights))
    called = hashlib.sha256(b"".join(each.cpu().numpy().tobytes() for each in (*targets, *weights))).hexdigest()[:12]
    reads = tuple(chosen)
    aim = Unit(f"aligned {called}", (Computed(reads[0], WHOLE, function=Function(alignment), reads=reads),))
    return replace(parsed, aim=aim)


def _stages(network: Network, unit: Unit) -> list[str]:
    """The layers that are aligned by default."""
    end = max(network.depth(layer) for layer in unit.layers)
    places = with_places(network, (layer for layer in network.layers if network.depth(layer) <= end))
    last = {_places(network, layer): layer for layer in places}
    if len(last) > 1:
        return list(last.values())[-MOST_LAYERS:]
    if not places:
        raise DgnError(f"no layer up to that of {unit.name!r} has places: there is no distribution to align")
    count = min(MOST_LAYERS, len(places))
    return [places[round((index + 1) * len(places) / count) - 1] for index in range(count)]


def _places(network: Network, layer: str) -> tuple[int, ...]:
    """The size of a layer's map, also where it is written as tokens."""
    layout = network.layout(layer)
    return layout.positions if layout.grid is None else (layout.grid.height, layout.grid.width)


def _measured(network: Network, unit: Unit, images: Tensor, layers: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each layer the mean of the sorted values, ``[C, places]``, and the channels' relevance, ``[C]``."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for image in images.split(1):
        with torch.enable_grad():
            every = list(dict.fromkeys([*layers, *unit.layers]))
            features = network.features(image.clone().requires_grad_(), every, linked=True)
            activation = Reader(network, [unit])(features).sum()
            gradients = torch.autograd.grad(activation, [features[layer] for layer in layers], allow_unused=True)
        for layer, gradient in zip(layers, gradients, strict=True):
            if gradient is None:  # it lies behind the unit
                continue
            seen, axis = network.seen(layer), network.layout(layer).features + 1
            output = seen.samples_first(features[layer].detach(), 1)
            flow = seen.samples_first(gradient, 1) * output
            relevance = flow.float().movedim(axis, 1).flatten(2).clamp(min=0).sum((0, 2))
            values = _sorted(output, axis)[0]
            before = sums.get(layer, (torch.zeros_like(values), torch.zeros_like(relevance)))
            sums[layer] = (before[0] + values / len(images), before[1] + relevance)
    return {layer: (values, _shares(relevance)) for layer, (values, relevance) in sums.items()}


def _shares(relevance: Tensor) -> Tensor:
    """As shares of their sum; alike where nothing is relevant."""
    total = relevance.sum()
    return relevance / total if total > 0 else torch.full_like(relevance, 1 / len(relevance))


def _sorted(output: Tensor, axis: int) -> Tensor:
    """``[N, C, places]`` float32, each channel's values in rising order."""
    return output.float().movedim(axis, 1).flatten(2).sort(dim=2).values


def _resampled(values: Tensor, places: int) -> Tensor:
    """Sorted values ``[C, places]`` at another number of places: the same quantiles."""
    if values.shape[1] == places:
        return values
    return F.interpolate(values[None], size=places, mode="linear", align_corners=False)[0]
