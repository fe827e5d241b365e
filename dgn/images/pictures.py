"""Tensors as pictures, pictures as bytes."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, on the CPU; uint8 ones as they are."""
    if images.dtype == torch.uint8:
        return images.cpu()
    return (images.detach().clamp(0, 1) * 255).round().byte().cpu()


def to_image(image: Tensor) -> Image.Image:
    """``[C, H, W]`` in [0, 1], or uint8, as a picture: grey for one channel, RGB for three; else their mean, grey."""
    pixels = to_bytes(image)
    if pixels.shape[0] == 3:
        return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return Image.fromarray((pixels if pixels.shape[0] == 1 else pixels.float().mean(0, keepdim=True).byte())[0].numpy())


def png(image: Image.Image) -> bytes:
    """The picture as PNG."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()
