"""Sampling rows and columns one after the other, against torch's own sampling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.ascent.transforms import _warp
from dgn.images.resample import centres, reflected, sample


def against(mine: Tensor, theirs: Tensor, source: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    weights = torch.rand(mine.shape, generator=torch.Generator().manual_seed(1))
    found = [torch.autograd.grad((one * weights).sum(), source, retain_graph=True)[0] for one in (mine, theirs)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("zoom", "move"), [(1.0, 0.0), (1.0, 0.3), (0.4, 0.1), (1.7, 0.2), (3.5, 2.5)])
def test_warps_are_grid_samples(zoom: float, move: float, turned: bool) -> None:
    """Far beyond the edges too, where the reflection is reflected once more; turning keeps lengths in pixels."""
    torch.manual_seed(0)
    images = torch.rand(3, 2, 11, 14, requires_grad=True)
    zooms = zoom * torch.tensor([1.0, 0.9, 1.1])
    moves = move * torch.tensor([[1.0, -1.0], [0.5, 0.2], [-1.0, 0.7]])
    angles = torch.tensor([0.3, -0.2, 2.0]) if turned else torch.zeros(3)
    theta = torch.zeros(3, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zooms * angles.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -zooms * angles.sin() * 11 / 14, zooms * angles.sin() * 14 / 11
    theta[:, :, 2] = moves
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    expected = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    against(_warp(images, zooms, moves, angles if turned else None), expected, images)


@pytest.mark.parametrize("size", [(11, 14), (12, 14), (30, 17), (224, 28)])
def test_enlargement_is_torchs(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, 11, 14, requires_grad=True)
    expected = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    y, x = (centres(side)[None].expand(2, -1) for side in size)
    against(sample(images, y, x), expected, images)


def test_pixels_of_any_layout_and_an_image_at_a_time() -> None:
    images = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    at = reflected(centres(8)[None] + 0.3 * torch.rand(4, 1))
    together = sample(images, at, at)
    alone = torch.cat([sample(images[i : i + 1], at[i : i + 1], at[i : i + 1]) for i in range(4)])
    assert torch.equal(together, alone)
    torch.testing.assert_close(sample(images, centres(8)[None], centres(8)[None].expand(4, 8)), images)
