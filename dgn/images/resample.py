"""Bilinear sampling where rows and columns can be sampled one after the other: shifts and zooms.

On a CPU that was measured to be 1.2 to 1.5 times faster than ``grid_sample``, whose gradient is scattered pixel by
pixel; on a GPU one kernel is better than six, and ``grid_sample`` stays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def reflected(at: Tensor) -> Tensor:
    """Coordinates from -1 to 1 (outer edges of the outer pixels); those beyond are reflected at the edges."""
    return 1 - (torch.remainder(at + 1, 4) - 2).abs()


def centres(side: int, device: torch.device | str = "cpu") -> Tensor:
    """Centres of pixels from -1 to 1, ``[side]``."""
    return (2 * torch.arange(side, device=device, dtype=torch.float32) + 1) / side - 1


def sample(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear: rows at ``y``, columns at ``x``; beyond the outer pixels' centres these go on.

    Args:
        images: ``[N, C, H, W]``, float32.
        y, x: ``[N, H']`` and ``[N, W']`` (or one row for all), from -1 to 1; no gradient flows to them.

    Returns:
        ``[N, C, H', W']``.
    """
    count, _, height, width = images.shape
    if images.device.type != "cpu":
        shape = (count, y.shape[1], x.shape[1])
        grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], 3)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    result: Tensor = _Separable.apply(images, _taps(y, height), _taps(x, width))
    return result


class _Taps(NamedTuple):
    """Along one axis: the pixel before each place, the one behind, and the weight of the latter, ``[N, places]``."""

    before: Tensor
    behind: Tensor
    weight: Tensor


def _taps(at: Tensor, side: int) -> _Taps:
    pixel = (((at + 1) * side - 1) / 2).clamp(0, side - 1)
    before = pixel.floor()
    index = before.long()
    return _Taps(index, (index + 1).clamp(max=side - 1), pixel - before)


def _of_rows(images: Tensor, index: Tensor) -> Tensor:
    """Row numbers ``[N, H']`` of each image, counted over the rows of all images and channels: ``[N * C * H']``."""
    count, channels, height, _ = images.shape
    planes = torch.arange(count * channels, device=images.device).view(count, channels, 1) * height
    return (planes + index[:, None, :]).flatten()


class _Separable(torch.autograd.Function):
    """Rows, then columns; backwards in the other order."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, y: _Taps, x: _Taps) -> Tensor:
        ctx.shape = images.shape
        count, channels, _, width = ctx.shape
        flat = images.contiguous().view(-1, width)
        ctx.rows = [_of_rows(images, index) for index in (y.before, y.behind)]
        upper, lower = (flat.index_select(0, rows).view(count, channels, -1, width) for rows in ctx.rows)
        ctx.y, ctx.x = y.weight[:, None, :, None], x.weight[:, None, None, :]
        tall = upper.lerp_(lower, ctx.y.expand_as(upper))
        shape = (count, channels, tall.shape[2], x.weight.shape[1])
        ctx.columns = [index[:, None, None, :].expand(shape) for index in (x.before, x.behind)]
        left, right = (tall.gather(3, columns) for columns in ctx.columns)
        return left.lerp_(right, ctx.x.expand_as(left))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        count, channels, height, width = ctx.shape
        tall = g.new_zeros(count, channels, g.shape[2], width)
        for columns, part in zip(ctx.columns, _shares(g, ctx.x), strict=True):
            tall.scatter_add_(3, columns, part)
        back = g.new_zeros(count * channels * height, width)
        for rows, part in zip(ctx.rows, _shares(tall, ctx.y), strict=True):
            back.index_add_(0, rows, part.view(-1, width))
        return back.view(ctx.shape), None, None


def _shares(g: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What of a gradient goes to the pixel before, and to the one behind."""
    behind = g * weight
    return g - behind, behind
