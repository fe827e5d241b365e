"""Penalties: what an image or a code costs. Their sum is taken off the activation that is climbed.

Each is a plain function ``(images, code, weight, ...) -> [N]``. A weight is in the unit's own activation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgn.ascent.named import Catalogue, Part


def lp(images: Tensor, code: Tensor, weight: float = 1.0, p: float = 2.0) -> Tensor:
    """``weight * mean |2 x - 1|^p``: distance from grey, any power (Simonyan et al. 2014; Mahendran & Vedaldi 2015)."""
    return weight * (2 * images - 1).abs().clamp(min=1e-12).pow(p).mean((1, 2, 3))


def total_variation(images: Tensor, code: Tensor, weight: float = 1.0, beta: float = 1.0) -> Tensor:
    """``weight * mean (dx^2 + dy^2)^(beta / 2)`` over pixels, times 10 (Mahendran & Vedaldi 2015, eq. 5)."""
    dx = images[:, :, :-1, 1:] - images[:, :, :-1, :-1]
    dy = images[:, :, 1:, :-1] - images[:, :, :-1, :-1]
    return weight * (10 * (dx.square() + dy.square() + 1e-8).pow(beta / 2)).mean((1, 2, 3))


def code_l2(images: Tensor, code: Tensor, weight: float = 1.0) -> Tensor:
    """``weight * mean h^2``: distance of the code from the origin of its coordinates (Nguyen et al. 2016, eq. 1)."""
    return weight * code.float().flatten(1).square().mean(1)


PENALTIES = Catalogue(
    "penalty", [lp, total_variation, code_l2], own=2, ranges={"p": (0.1, 100), "beta": (0.1, 10)},
    shape=lambda images: images[:1],
)  # fmt: skip


def penalise(images: Tensor, code: Tensor, parts: Sequence[Part]) -> Tensor:
    """The sum of the penalties, ``[N]``; zeros where there are none."""
    total = torch.zeros(len(images), device=images.device)
    for part in parts:
        total = total + PENALTIES[part](images.float(), code)
    return total
