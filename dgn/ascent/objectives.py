"""What an ascent climbs: the units of its samples, what its images cost, and how unlike each other they are to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dgn.ascent.penalties import penalise
from dgn.errors import DgnError
from dgn.network import Network
from dgn.settings import AscentSettings
from dgn.units import Reader, Unit

PIECE = 10e6
"""Bytes of the largest layer of a piece on a CPU: measured to be the fastest; more falls out of the caches."""


class Objective:
    """One number a sample, to be climbed.

    Args:
        network, units: row ``i`` climbs ``units[i]``.
        samples: the sample each row belongs to: views of one image are one sample.
        settings: penalties; weight and layer of the diversity term.
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
        self.read = Reader(units, device=device)
        self.layers = self.read.layers
        names = [unit.name for unit in units]
        if settings.diversity:
            pairs = list(zip(names, samples, strict=True))
            self._others = torch.tensor([[a[0] == b[0] and a[1] != b[1] for b in pairs] for a in pairs], device=device)
            if not bool(self._others.any()):
                raise DgnError("diversity needs at least two seeds of a unit in one batch: give seeds=4")
            self._layer = settings.diversity_layer or self.layers[0]
            self.layers = tuple(dict.fromkeys([*self.layers, self._layer]))
        self.network = network.fast(self.layers)
        size = piece_size(network, torch.device(device))
        rows = range(0, len(units), size) if size < len(units) and not settings.diversity else []
        self._pieces = [(slice(row, row + size), Reader(units[row : row + size], device=device)) for row in rows]

    def __call__(self, x: Tensor, images: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Activations ``[N]``, and what is climbed: activation - penalties - diversity's cost, ``[N]``.

        Args:
            x: the transformed images, as the network is to see them.
            images, code: as they are written down.
        """
        if self._pieces:
            activation = _Pieces.apply(x, self)
            features = {}
        else:
            features = self._features(x, self.read)
            activation = self.read(features)
        climbed = activation
        if self.settings.penalties:
            climbed = climbed - penalise(images, code, self.settings.penalties)
        if self.settings.diversity:
            climbed = climbed - self.settings.diversity * self.likeness(features[self._layer])
        return activation, climbed

    def _features(self, x: Tensor, read: Reader) -> dict[str, Tensor]:
        layers = self.layers if read is self.read else read.layers
        return self.network.features(x, layers, self.settings.fit)  # type: ignore[arg-type]

    def pull(self, x: Tensor, needs_gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Activations ``[N]`` and their gradient with respect to the images, piece by piece; None: there is none."""
        activations, gradient, flows = [], torch.zeros_like(x) if needs_gradient else None, False
        for rows, read in self._pieces:
            piece = x[rows].detach()
            with torch.set_grad_enabled(needs_gradient):
                piece.requires_grad_(needs_gradient)
                activation = read(self._features(piece, read))
                if gradient is not None and activation.requires_grad:
                    (found,) = torch.autograd.grad(activation.sum(), piece, allow_unused=True)
                    if found is not None:
                        gradient[rows], flows = found, True
            activations.append(activation.detach())
        return torch.cat(activations), gradient if flows else None

    def likeness(self, features: Tensor) -> Tensor:
        """Mean cosine similarity of a sample's Gram matrix to those of its unit's other samples, ``[N]``.

        Olah et al. 2017, "Feature Visualization", diversity term; for a layer ``[N, C]`` the features themselves.
        """
        if features.dim() > 2:
            maps = features.float().flatten(2) if features.dim() == 4 else features.float().transpose(1, 2)
            flat = (maps @ maps.transpose(1, 2)).flatten(1)
        else:
            flat = features.float()
        cosine = F.normalize(flat, dim=1) @ F.normalize(flat, dim=1).T
        return (cosine * self._others).sum(1) / self._others.sum(1).clamp(min=1)


def piece_size(network: Network, device: torch.device) -> int:
    """Images that go through the network at once: on a CPU so few that its largest layer stays in the caches."""
    if device.type != "cpu":
        return 2**31
    return max(1, round(PIECE / (4 * network.largest_layer)))


class _Pieces(torch.autograd.Function):
    """Each sample's activation has its own image's gradient alone: it can be taken at once, a piece at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, objective: Objective) -> Tensor:
        activation, gradient = objective.pull(x, ctx.needs_input_grad[0])
        if gradient is None:
            ctx.mark_non_differentiable(activation)
        else:
            ctx.save_for_backward(gradient)
        return activation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * g.view(-1, 1, 1, 1), None
