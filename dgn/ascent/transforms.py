"""Transformations inside the loop: differentiable, seeded, each sample its own.

Samples that share a seed are transformed alike, so a unit's result does not depend on what else is in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Draws:
    """Random numbers for the samples of a batch: one stream a seed, drawn on the CPU, the same on every device."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu", salt: int = 7919) -> None:
        distinct = list(dict.fromkeys(int(seed) for seed in seeds))
        self._streams = [torch.Generator().manual_seed((seed * 1_000_003 + salt) % 2**63) for seed in distinct]
        self._rows = torch.tensor([distinct.index(int(seed)) for seed in seeds])
        self.device = device

    def uniform(self, *shape: int) -> Tensor:
        """``[N, *shape]`` in [-1, 1]."""
        rows = torch.stack([torch.rand(shape, generator=stream) * 2 - 1 for stream in self._streams])
        return rows[self._rows].to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """``[N, *shape]``, standard normal."""
        rows = torch.stack([torch.randn(shape, generator=stream) for stream in self._streams])
        return rows[self._rows].to(self.device)


def shift_and_zoom(images: Tensor, draws: Draws, jitter: float, scale: float) -> Tensor:
    """Shift by up to ``jitter`` of the side and zoom by up to ``scale``, borders reflected; ``[N, C, H, W]``."""
    if jitter <= 0 and scale <= 0:
        return images
    zoom = 1 / (1 + scale * draws.uniform(1))
    shift = 2 * jitter * draws.uniform(2)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom[:, 0]
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def add_noise(images: Tensor, draws: Draws, std: float) -> Tensor:
    """Add Gaussian noise of standard deviation ``std``."""
    if std <= 0:
        return images
    return images + std * draws.normal(*images.shape[1:]).to(images.dtype)
