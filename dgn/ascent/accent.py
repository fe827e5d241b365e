"""Feature accentuation: what an image shows is changed towards a unit while a layer's features stay near the image's.

Hamblin et al. 2024, arXiv 2402.10039, subtract from the activation a multiple of the distance between the features of
the image under way and those of the start, both transformed alike. There the multiple is in units of the two gradients
at the start; here the two pulls are equally strong where the features have moved by a given share of their size, so
that one number between 0 and 1 means the same for every unit and layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dgn.errors import DgnError
from dgn.network.layers import with_places
from dgn.network.network import Network


def moved(features: Tensor, start: Tensor) -> Tensor:
    """How far features ``[N, ...]`` are from the start's, as a share of the latter's size, ``[N]``."""
    distance, size = (features - start).float().flatten(1), start.float().flatten(1).norm(dim=1)
    return (distance.square().sum(1) + 1e-12 * size.square()).sqrt() / size.clamp(min=1e-12)


def held(gradient: Tensor, away: Tensor, share: Tensor, accent: float) -> Tensor:
    """The gradient of the activation with a pull back to the start's features.

    ``g - (share / accent) |g| a / |a|``, a the gradient ``away`` of :func:`moved` and ``share`` its value: nothing is
    held at the start, and where the features have moved by ``accent`` of their size both pulls are equally strong.
    """
    each = [-1, *[1] * (gradient.dim() - 1)]
    lengths = [values.flatten(1).norm(dim=1) for values in (gradient, away)]
    return gradient - away * (share / accent * lengths[0] / lengths[1].clamp(min=1e-12)).view(each)


def accent_layer(network: Network, layers: Sequence[str]) -> str:
    """The layer whose features are held where none is named: of those with places before the unit's, the middle one."""
    first = min(network.depth(layer) for layer in layers)
    candidates = with_places(network, (layer for layer in network.layers if network.depth(layer) < first))
    if not candidates:
        raise DgnError("no layer before the unit's has places: name one in ascent.accent_layer")
    return candidates[len(candidates) // 2]
