"""Images that users hand in: arrays and tensors of any layout become float images in [0, 1], or an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgn.errors import DgnError

SLACK = 1e-3
"""How far beyond [0, 1] a value may be: rounding, no more."""


def as_images(given: Any, what: str, channels: int | None = None) -> Tensor:
    """Images from a tensor or an array: ``[N, C, H, W]``, float, in [0, 1]; gradients flow through.

    Args:
        given: ``[N, C, H, W]``, ``[C, H, W]``, or with the channels last; ``[H, W]`` for grey; uint8 (which is divided
            by 255), bool or floats in [0, 1].
        what: how errors call it.
        channels: that are expected; None for 1 or 3.

    Raises:
        DgnError: another layout, other numbers, values outside of [0, 1].
    """
    images = torch.from_numpy(np.ascontiguousarray(given)) if isinstance(given, np.ndarray) else given
    if not isinstance(images, Tensor):
        raise DgnError(f"{what} is a {type(given).__name__}, expected a tensor or an array of pixels")
    shape = list(images.shape)
    if images.dim() == 2:
        images = images[None]
    if images.dim() not in (3, 4) or not images.numel():
        expected = "C" if channels is None else channels
        raise DgnError(f"{what} has the shape {shape}, expected [{expected}, H, W] or [N, {expected}, H, W]")
    if _channels_last(images.shape, channels, isinstance(given, np.ndarray)):
        images = images.movedim(-1, -3)
    return in_range(images if images.dim() == 4 else images[None], what)


def in_range(images: Tensor, what: str) -> Tensor:
    """Images in [0, 1] as they are (a rounding error clipped), uint8 divided by 255; others are a :class:`DgnError`."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    if images.dtype == torch.bool:
        return images.float()
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise DgnError(f"{what} holds {kind} numbers, expected floats from 0 to 1 or uint8 from 0 to 255")
    low, high = (float(value) for value in images.detach().aminmax())
    if not (low >= -SLACK and high <= 1 + SLACK):  # also not-a-number
        raise DgnError(
            f"{what} holds values from {low:.3g} to {high:.3g}, expected 0 to 1 (uint8: 0 to 255): give the image as "
            "it is, the network's own normalisation is done here"
        )
    return images if low >= 0 and high <= 1 else images.clamp(0, 1)


def _channels_last(shape: torch.Size, channels: int | None, array: bool) -> bool:
    """Whether the last axis is the channels': of arrays where it can be, of tensors where the usual one can't."""
    known = (1, 3) if channels is None else (channels,)
    first, last = shape[-3] in known, shape[-1] in known
    if not first and not last and channels is not None:  # colour images for a grey network, and the other way round
        first, last = shape[-3] in (1, 3), shape[-1] in (1, 3)
    return last and (array or not first)
