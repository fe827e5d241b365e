"""A heat map laid over the picture it belongs to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dgn.drawing.matrix import Matrix


def overlay(image: Tensor, heat: Tensor, *, peak: float | None = None, strength: float = 0.85) -> Image.Image:
    """Red where covering takes activation away, blue where it adds to it, over the picture in grey.

    Args:
        image: ``[C, H, W]`` in [0, 1].
        heat: ``[H, W]``.
        peak: what is the full colour; None: the largest magnitude of ``heat``.
        strength: opacity there.
    """
    from matplotlib import colormaps

    grey = image.float().mean(0).clamp(0, 1).cpu().numpy()[..., None].repeat(3, 2)
    values = heat.float().cpu().numpy()
    peak = float(np.abs(values).max()) if peak is None else peak
    part = (values / peak).clip(-1, 1) if peak > 0 else values
    colour = colormaps["RdBu_r"](0.5 + 0.5 * part)[..., :3]
    alpha = strength * np.abs(part)[..., None] ** 0.7
    return Image.fromarray(((grey * 0.9 * (1 - alpha) + colour * alpha) * 255).round().astype(np.uint8))


def share_scale(matrix: Matrix, row: int, found: Sequence[tuple[Tensor, Tensor]]) -> Matrix:
    """One scale of colours for a row of overlays, and its key: what looks stronger is stronger.

    Args:
        matrix: whose row is drawn again.
        row: of the overlays.
        found: image and heat of each column; see :func:`overlay`.
    """
    peak = max((float(heat.abs().max()) for _, heat in found), default=0.0)
    for column, (image, heat) in enumerate(found):
        matrix.pictures[row, column] = overlay(image, heat, peak=peak)
    bar = overlay(torch.full((3, 1, 201), 0.7), torch.linspace(-peak, peak, 201)[None], peak=peak)
    matrix.key = (bar, (f"{-peak:.1f}", "drop of the activation", f"{peak:.1f}"))
    return matrix
