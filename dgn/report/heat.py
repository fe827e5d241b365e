"""A heat map laid over the picture it belongs to."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor


def overlay(image: Tensor, heat: Tensor, *, strength: float = 0.85) -> Image.Image:
    """Red where covering takes activation away, blue where it adds to it, over the picture in grey.

    Args:
        image: ``[C, H, W]`` in [0, 1].
        heat: ``[H, W]``; its largest magnitude is the full colour.
        strength: opacity there.
    """
    from matplotlib import colormaps

    grey = image.float().mean(0).clamp(0, 1).cpu().numpy()[..., None].repeat(3, 2)
    values = heat.float().cpu().numpy()
    peak = float(np.abs(values).max())
    part = values / peak if peak > 0 else values
    colour = colormaps["RdBu_r"](0.5 + 0.5 * part)[..., :3]
    alpha = strength * np.abs(part)[..., None] ** 0.7
    return Image.fromarray(((grey * 0.9 * (1 - alpha) + colour * alpha) * 255).round().astype(np.uint8))
