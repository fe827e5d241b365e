"""The baseline: raw pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgn.errors import DgnError
from dgn.images.fit import parse_size
from dgn.priors.base import Prior, seeded_normal


class PixelPrior(Prior):
    """Raw pixels: the code is the image itself, clipped to [0, 1] after every step.

    Args:
        size: height and width in pixels, as one number or two.
        channels: of the image.
        noise: standard deviation of the grey start's noise.
    """

    family = "pixel"
    writes_pixels = True

    def __init__(self, size: int | tuple[int, int] = 128, channels: int = 3, noise: float = 0.01) -> None:
        if channels < 1:
            raise DgnError(f"a pixel prior of {channels} channels: expected a number above 0")
        self.name, self.size, self.channels, self.noise = "pixel", parse_size(size), channels, noise
        self.device: torch.device | str = "cpu"

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        noise = seeded_normal((self.channels, *self.size), range(n) if seeds is None else seeds, self.device)
        return (0.5 + self.noise * noise).clamp(0, 1)

    def decode(self, code: Tensor) -> Tensor:
        return code

    def encode(self, images: Tensor) -> Tensor:
        return images

    def resized(self, size: int) -> PixelPrior:
        if self.size[0] == size:
            return self
        other = PixelPrior(self.in_proportion(size), self.channels, self.noise).to(self.device)
        other.name, other.ascent = self.name, self.ascent
        return other

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        return code.clamp(0, 1)

    def decay(self, code: Tensor, factor: float) -> Tensor:
        """Towards grey, the origin of images whose mean is taken off (Simonyan et al. 2014)."""
        return 0.5 + (code - 0.5) * factor

    def to(self, device: torch.device | str) -> PixelPrior:
        self.device = device
        return self
