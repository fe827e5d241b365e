"""What an ascent climbs: the units of its samples, what its images cost, and how unlike each other they are to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.ascent.accent import moved
from dgn.ascent.penalties import penalise
from dgn.ascent.settings import AscentSettings
from dgn.errors import DgnError
from dgn.network.fast.precision import autocast, resolve
from dgn.network.layers import has_places
from dgn.network.network import Network
from dgn.units.read import Reader
from dgn.units.unit import Unit

PIECE = 30e6
"""Bytes of the largest layer of a piece on a CPU. On pixels 15 MB and more were equally fast (two threads, AVX2); a
generator decodes few small images slowly: at 15 MB its step took 1.2 times as long as at 30 and more."""


@dataclass
class Value:
    """Of each sample of a forward pass, ``[N]`` float32.

    Attributes:
        activation: of its unit.
        climbed: the rule's aim - penalties - diversity's cost.
        moved: with a start that is kept to, how far the features are from its; see :func:`dgn.ascent.accent.moved`.
    """

    activation: Tensor
    climbed: Tensor
    moved: Tensor | None = None

    def mean(self, views: int) -> Value:
        """Over the views of each sample."""
        parts = [self.activation, self.climbed, *([] if self.moved is None else [self.moved])]
        return Value(*(part.view(views, -1).mean(0) for part in parts))


class Objective:
    """One number a sample, to be climbed.

    Args:
        network, units: row ``i`` climbs ``units[i]``.
        samples: the sample each row belongs to: views of one image are one sample.
        settings: penalties; weight and layer of the diversity term; the rule: PPGN climbs a class's log-probability.
    """

    def __init__(
        self,
        network: Network,
        units: Sequence[Unit],
        samples: Sequence[int],
        settings: AscentSettings,
        device: torch.device | str,
    ) -> None:
        self.settings = settings
        self.read = Reader(network, units, device)
        aims = [unit.aim or (unit.as_log(network) if settings.rule == "ppgn" else unit) for unit in units]
        self.aim = self.read if aims == list(units) else Reader(network, aims, device)
        self.layers = tuple(dict.fromkeys([*self.read.layers, *self.aim.layers]))
        names = [unit.name for unit in units]
        if settings.diversity:
            pairs = list(zip(names, samples, strict=True))
            self._others = torch.tensor([[a[0] == b[0] and a[1] != b[1] for b in pairs] for a in pairs], device=device)
            if not bool(self._others.any()):
                raise DgnError("diversity needs at least two seeds of a unit in one batch: give seeds=4")
            self._layer = settings.diversity_layer or _with_a_map(network, self.layers[0])
            self.layers = tuple(dict.fromkeys([*self.layers, self._layer]))
        self._held = [settings.accent_layer] if settings.accent and settings.accent_layer else []
        self.layers = tuple(dict.fromkeys([*self.layers, *self._held]))
        self.network = network.fast(self.layers)

    def __call__(self, x: Tensor, images: Tensor, code: Tensor, start: Tensor | None = None) -> Value:
        """What is read and climbed.

        Args:
            x: the transformed images, as the network is to see them.
            images, code: as they are written down.
            start: the images that are kept to, transformed as ``x``.
        """
        fit: Any = self.settings.fit
        with autocast(x.device, self.settings.precision):  # of the network alone: all else is in float32
            features = self.network.features(x, self.layers, fit)
            away = None
            if start is not None:
                (layer,) = self._held
                with torch.no_grad():
                    own = self.network.features(start, [layer], fit)[layer]
                away = moved(features[layer], own)
        activation = self.read(features)
        climbed = activation if self.aim is self.read else self.aim(features)
        if self.settings.penalties:
            climbed = climbed - penalise(images, code, self.settings.penalties)
        if self.settings.diversity:
            climbed = climbed - self.settings.diversity * self.likeness(features[self._layer])
        return Value(activation, climbed, away)

    def likeness(self, features: Tensor) -> Tensor:
        """Mean cosine similarity of a sample's Gram matrix to those of its unit's other samples, ``[N]``.

        Olah et al. 2017, "Feature Visualization", diversity term; for a layer ``[N, C]`` the features themselves.
        """
        flat = self.network.layout(self._layer).canonical(features, len(self._others)).float()
        if flat.dim() > 2:
            maps = flat.flatten(2)
            flat = (maps @ maps.transpose(1, 2)).flatten(1)
        cosine = F.normalize(flat, dim=1) @ F.normalize(flat, dim=1).T
        return (cosine * self._others).sum(1) / self._others.sum(1).clamp(min=1)


def _with_a_map(network: Network, layer: str) -> str:
    """The layer, or, if it has no map, the last layer that has one: logits are alike whatever the image shows."""
    if len(network.layer_shape(layer)) > 1:
        return layer
    for name, shape in reversed(network.layers.items()):
        if len(shape) == 3 and name not in network.derived and has_places(network, name):
            return name
    return layer


def pieces(network: Network, count: int, settings: AscentSettings, device: torch.device) -> list[slice]:
    """The samples of a batch in pieces that are decoded and seen one after the other.

    On a CPU a piece is so small that the network's largest layer stays in the caches; a GPU takes all at once, and so
    do samples that are to be unlike each other.
    """
    size = count
    if device.type == "cpu" and not settings.diversity:
        width = 2 if resolve(device, settings.precision) == "bf16" else 4
        size = max(1, round(PIECE / (width * network.largest_layer * settings.views)))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]
