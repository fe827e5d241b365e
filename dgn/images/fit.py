"""How an image of any shape is put into a rectangle of pixels: cropped, fitted in, or stretched; alike in all verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dgn.errors import DgnError

FITS = ("crop", "fit", "stretch")
"""``crop``: the largest central part of the right shape (the short side fits, the long one is cut); ``fit``: the whole
image, with a border; ``stretch``: the whole image, out of proportion."""

Size = tuple[int, int]
"""Height and width in pixels."""


def central(shape: Size, size: Size) -> tuple[int, int, int, int]:
    """Top, left, height and width of the largest central part of ``shape`` that has the proportions of ``size``."""
    scale = min(shape[0] / size[0], shape[1] / size[1])
    height, width = (
        max(1, min(side, round(scale * wanted))) for side, wanted in zip(shape, size, strict=True)
    )  # fmt: skip
    return int((shape[0] - height) / 2 + 0.5), int((shape[1] - width) / 2 + 0.5), height, width


def within(shape: Size, size: Size) -> Size:
    """The largest size of the proportions of ``shape`` that fits into ``size``."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def resized(images: Tensor, size: Size, fit: str = "crop", fill: Sequence[float] = (0.5,)) -> Tensor:
    """Images at another size, differentiably; those of the right proportions are only scaled, whatever the rule.

    Args:
        images: ``[N, C, H, W]``.
        size: height and width in pixels.
        fit: one of :data:`FITS`.
        fill: of the border, one number or one a channel.

    Returns:
        ``[N, C, *size]``, bilinear, antialiased where it shrinks.
    """
    (top, left, height, width), inner = _placed((images.shape[2], images.shape[3]), size, fit)
    shown = _scaled(images[:, :, top : top + height, left : left + width], inner)
    if inner == size:
        return shown
    bordered = shown.new_tensor(fill)[:, None, None].expand(*shown.shape[:2], *size).clone()
    above, before = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    bordered[:, :, above : above + inner[0], before : before + inner[1]] = shown
    return bordered


def _placed(shape: Size, size: Size, fit: str) -> tuple[tuple[int, int, int, int], Size]:
    """What is shown of an image (top, left, height, width), and at which size: what it leaves of ``size`` is border."""
    part, whole = central(shape, size), (0, 0, *shape)
    if part[2:] == shape or fit == "stretch":
        return whole, size
    return (part, size) if fit == "crop" else (whole, within(shape, size))


def _scaled(images: Tensor, size: Size) -> Tensor:
    if tuple(images.shape[2:]) == size:
        return images
    shrinks = images.shape[2] > size[0] or images.shape[3] > size[1]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=shrinks)


def central_part(images: Tensor, size: Size) -> Tensor:
    """The centre ``[N, C, *size]`` of images ``[N, C, H, W]``, unscaled; too small ones are enlarged first."""
    (height, width), shape = size, (images.shape[2], images.shape[3])
    scale = max(height / shape[0], width / shape[1], 1.0)
    images = _scaled(images, (round(shape[0] * scale), round(shape[1] * scale)))
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[:, :, top : top + height, left : left + width]


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Colour images ``[N, C, H, W]`` as grey ones (luminance, ITU-R 601) and the other way round.

    Raises:
        DgnError: other numbers of channels.
    """
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1 and channels == 3:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] == 3 and channels == 1:
        return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    raise DgnError(f"images of {images.shape[1]} channels can't be shown to what takes {channels}")


def canvas_size(size: Any, input_size: Size) -> Size:
    """The size of a canvas that takes the proportions of the network's input, and ``size`` for its short side.

    Args:
        size: pixels, or ``[HEIGHT, WIDTH]``; None: 128.
        input_size: of the network.

    Returns:
        Height and width, both even unless ``size`` is odd.
    """
    if size is not None and not isinstance(size, int):
        return parse_size(size)
    short = 128 if size is None else size
    step = 1 if short % 2 else 2
    least = min(input_size)
    height, width = (short if side == least else step * round(short * side / least / step) for side in input_size)
    return height, width


def parse_size(value: Any, name: str = "size") -> Size:
    """Pixels as one number or ``[HEIGHT, WIDTH]``, as height and width.

    Raises:
        DgnError: neither, or not above 0.
    """
    sides = [value, value] if isinstance(value, (int, float, str)) else list(value)
    try:
        height, width = (int(side) for side in sides)
        integers = all(float(side) == int(side) for side in sides)
    except (TypeError, ValueError, OverflowError):
        raise DgnError(f"{name} is {value!r}, expected pixels or [HEIGHT,WIDTH]") from None
    if min(height, width) < 1 or not integers:
        raise DgnError(f"{name} is {value!r}, expected pixels above 0")
    return height, width


def written(size: Size) -> str:
    """A size as :func:`parse_size` takes it."""
    return str(size[0]) if size[0] == size[1] else f"[{size[0]},{size[1]}]"


def resample(image: Image.Image, box: tuple[int, int, int, int], size: Size) -> Image.Image:
    """A part of an image (left, top, right, bottom) at another size (height, width), bicubic."""
    if (box[3] - box[1], box[2] - box[0]) == size:
        return image.crop(box)
    return image.resize(size[::-1], Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


@dataclass(frozen=True)
class Sight:
    """How a network sees photographs.

    Attributes:
        size: height and width in pixels.
        fit: one of :data:`FITS`.
        channels: 3, or 1 for grey.
        fill: of the border, uint8, one a channel.
    """

    size: Size
    fit: str = "crop"
    channels: int = 3
    fill: tuple[int, ...] = (128, 128, 128)

    def check(self) -> None:
        """Raise :class:`DgnError` where photographs can't have so many channels."""
        if self.channels not in (1, 3):
            raise DgnError(
                f"the network takes images of {self.channels} channels, photographs have 3 (or, grey, 1): give arrays "
                f"or tensors [{self.channels}, H, W] in [0, 1] from Python, as in dgn.find_examples"
            )

    def pixels(self, image: Image.Image) -> np.ndarray:
        """uint8 ``[H, W, channels]`` of an RGB picture."""
        self.check()
        if self.channels == 1:
            image = image.convert("L")
        (top, left, height, width), inner = _placed((image.height, image.width), self.size, self.fit)
        shown = resample(image, (left, top, left + width, top + height), inner)
        if inner != self.size:
            colour = self.fill if self.channels == 3 else self.fill[0]
            inside, shown = shown, Image.new(image.mode, self.size[::-1], colour)  # type: ignore[arg-type]
            shown.paste(inside, ((self.size[1] - inner[1]) // 2, (self.size[0] - inner[0]) // 2))
        array = np.asarray(shown)
        return array[..., None] if array.ndim == 2 else array

    def tensor(self, image: Image.Image) -> Tensor:
        """``[channels, H, W]`` in [0, 1] of an RGB picture."""
        return torch.from_numpy(self.pixels(image).copy()).permute(2, 0, 1).float() / 255

    def tensors(self, images: Tensor) -> Tensor:
        """:func:`resized` by this rule; ``[N, C, H, W]`` in [0, 1]."""
        return resized(images, self.size, self.fit, [value / 255 for value in self.fill])

    def at_least(self, short: int) -> Sight:
        """The same with a short side of at least so many pixels."""
        return self if min(self.size) >= short else replace(self, size=canvas_size(short, self.size))
