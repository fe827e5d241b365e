"""Transformations inside the loop: differentiable, seeded, each sample its own.

Each is a plain function ``(images, draws, ...) -> images`` on ``[N, C, H, W]``. Samples that share a seed are
transformed alike, so a unit's result does not depend on what else is in its batch. One's own may be handed in
beside their names; it takes its random numbers from ``draws``, or its results depend on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.ascent.named import Catalogue, Part


class Draws:
    """Random numbers for the samples of a batch: one stream a seed, drawn on the CPU, the same on every device."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu", salt: int = 7919) -> None:
        distinct = list(dict.fromkeys(int(seed) for seed in seeds))
        self._streams = [torch.Generator().manual_seed((seed * 1_000_003 + salt) % 2**63) for seed in distinct]
        self.device = torch.device(device)
        self._rows = torch.tensor([distinct.index(int(seed)) for seed in seeds]).to(self.device)
        self._plain = len(distinct) == len(self._rows)

    def uniform(self, *shape: int) -> Tensor:
        """``[N, *shape]`` in [-1, 1]."""
        return self._rows_of([torch.rand(shape, generator=stream) * 2 - 1 for stream in self._streams])

    def normal(self, *shape: int) -> Tensor:
        """``[N, *shape]``, standard normal."""
        return self._rows_of([torch.randn(shape, generator=stream) for stream in self._streams])

    def _rows_of(self, streams: list[Tensor]) -> Tensor:
        """A row a sample, on the device; the upload of what was drawn waits for nothing."""
        rows = torch.stack(streams)
        if self.device.type == "cuda":
            rows = rows.pin_memory()
        rows = rows.to(self.device, non_blocking=True)
        return rows if self._plain else rows[self._rows]


def shift_and_zoom(images: Tensor, draws: Draws, jitter: float, scale: float) -> Tensor:
    """Shift by up to ``jitter`` of the side and zoom by up to ``scale``, borders reflected; ``[N, C, H, W]``."""
    if jitter <= 0 and scale <= 0:
        return images
    zoom = 1 / (1 + scale * draws.uniform(1))
    return warp(images, zoom[:, 0], 2 * jitter * draws.uniform(2))


def add_noise(images: Tensor, draws: Draws, std: float) -> Tensor:
    """Add Gaussian noise of standard deviation ``std``."""
    if std <= 0:
        return images
    return images + std * draws.normal(*images.shape[1:]).to(images.dtype)


def shift(images: Tensor, draws: Draws, by: float = 0.06) -> Tensor:
    """Move by up to ``by`` of the side in each direction, borders reflected (jitter: Mordvintsev et al. 2015)."""
    return shift_and_zoom(images, draws, by, 0.0)


def scale(images: Tensor, draws: Draws, by: float = 0.05) -> Tensor:
    """Zoom by a factor from ``1 - by`` to ``1 + by``, borders reflected."""
    return shift_and_zoom(images, draws, 0.0, by)


def rotate(images: Tensor, draws: Draws, degrees: float = 5.0) -> Tensor:
    """Turn by up to ``degrees`` either way, borders reflected."""
    angle = math.radians(degrees) * draws.uniform(1)[:, 0]
    one = torch.ones(len(images), device=images.device)
    return warp(images, one, torch.zeros(len(images), 2, device=images.device), angle)


def pad(images: Tensor, draws: Draws, by: float = 0.07, value: float = 0.5) -> Tensor:
    """A border of ``by`` of the side on each edge, filled with the grey ``value``."""
    edge = round(by * images.shape[3])
    return F.pad(images, [edge] * 4, value=value)


def trim(images: Tensor, draws: Draws, by: float = 0.0625) -> Tensor:
    """Cut ``by`` of the side off each edge: the border that ``pad`` added."""
    edge = round(by * images.shape[3])
    return images[..., edge : images.shape[2] - edge, edge : images.shape[3] - edge]


def crop(images: Tensor, draws: Draws, smallest: float = 0.4, largest: float = 0.9) -> Tensor:
    """A square of ``smallest`` to ``largest`` of the side, anywhere (normally distributed around the centre), enlarged.

    The crops of MACO (Fel et al. 2023): at the image's own size again.
    """
    side = (smallest + largest) / 2 + (largest - smallest) / 2 * draws.uniform(1)[:, 0]
    centre = (0.3 * draws.normal(2)).clamp(-1, 1) * (1 - side)[:, None]
    return warp(images, side, centre)


def blur(images: Tensor, draws: Draws, sigma: float = 1.0) -> Tensor:
    """Gaussian blur of a width from 0 to ``sigma`` pixels, each sample its own."""
    return gaussian(images, sigma * (draws.uniform(1)[:, 0] + 1) / 2, sigma)


def noise(images: Tensor, draws: Draws, std: float = 0.05) -> Tensor:
    """Gaussian noise of standard deviation ``std`` (images in [0, 1])."""
    return add_noise(images, draws, std)


def brightness(images: Tensor, draws: Draws, by: float = 0.1) -> Tensor:
    """Add a number from ``-by`` to ``by``, one a sample."""
    return images + by * draws.uniform(1, 1, 1)


def contrast(images: Tensor, draws: Draws, by: float = 0.2) -> Tensor:
    """Multiply the distance from the image's mean by a factor from ``1 - by`` to ``1 + by``."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (1 + by * draws.uniform(1, 1, 1))


TRANSFORMS = Catalogue(
    "transformation", [shift, scale, rotate, pad, trim, crop, blur, noise, brightness, contrast], own=2,
    shape=lambda images: (*images[:2], None, None), ranges={
        "by": (0, 1), "scale.by": (0, 0.99), "trim.by": (0, 0.49), "degrees": (0, 360), "value": (0, 1), "std": (0, 10),
        "smallest": (0.01, 1), "largest": (0.01, 1), "sigma": (0, 100),
    },
)  # fmt: skip

DISTILL2017 = TRANSFORMS.parse([
    {"pad": 16 / 224}, {"shift": 16 / 256}, {"scale": 0.05}, {"rotate": 5}, {"shift": 8 / 256}, {"trim": 16 / 256}
])  # fmt: skip
"""The chain of Olah et al. 2017 at 224 px, as shares: pad 16, jitter 16, scale .95 to 1.05, rotate up to 5 degrees
either way, jitter 8, crop the padding."""


def transform(images: Tensor, draws: Draws, parts: Sequence[Part]) -> Tensor:
    """One after the other; a change of size by one of them is seen by the next."""
    for part in parts:
        images = TRANSFORMS[part](images, draws)
    return images


def gaussian(images: Tensor, sigma: Tensor, widest: float | None = None) -> Tensor:
    """Gaussian blur with a width in pixels a sample, ``[N]``; borders reflected. A width of 0 changes nothing.

    ``widest`` sizes the kernel (None: the widest of the batch), so that a sample does not depend on the others.
    """
    radius = min(math.ceil(3 * (float(sigma.max()) if widest is None else widest)), min(images.shape[2:]) - 1)
    if radius < 1:
        return images
    at = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at / sigma.to(images.device).clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images.dtype)
    count, channels = images.shape[:2]
    flat = images.reshape(1, count * channels, *images.shape[2:])
    for axis in (2, 3):
        weight = kernel.repeat_interleave(channels, 0)[:, None]
        weight = weight[:, :, :, None] if axis == 2 else weight[:, :, None, :]
        edge = [0, 0, radius, radius] if axis == 2 else [radius, radius, 0, 0]
        flat = F.conv2d(F.pad(flat, edge, mode="reflect"), weight, groups=count * channels)
    return flat.reshape(images.shape)


def warp(images: Tensor, zoom: Tensor, move: Tensor, angle: Tensor | None = None) -> Tensor:
    """Each sample seen through a window of ``zoom`` times the side, moved (in half sides) and turned (in radians)."""
    x, y = (
        (2 * torch.arange(side, device=images.device, dtype=torch.float32) + 1) / side - 1
        for side in (images.shape[3], images.shape[2])
    )
    angle = torch.zeros_like(zoom) if angle is None else angle
    cosine, sine = ((zoom * part)[:, None, None] for part in (angle.cos(), angle.sin()))
    shape = images.shape[3] / images.shape[2]  # x and y are in half sides, which may be of two lengths
    across = cosine * x - sine / shape * y[:, None] + move[:, 0, None, None]
    down = sine * shape * x + cosine * y[:, None] + move[:, 1, None, None]
    grid = torch.stack([across, down], 3)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
