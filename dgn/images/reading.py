"""Image files, decoded, and cut to squares."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dgn.errors import DgnError, first_line
from dgn.files.listing import Entry, Listing, list_images, suffixes
from dgn.images.fit import Sight, resample

__all__ = ["Entry", "Listing", "crop", "decode", "flattened", "list_images", "read_image", "reason", "suffixes"]


def decode(data: bytes) -> Image.Image:
    """An RGB image of any file that Pillow opens.

    EXIF rotation is applied, the first frame of an animation taken, transparency laid on white, 16-bit and floating
    grey scaled to 8 bits.
    """
    from PIL import ImageOps

    image: Image.Image = Image.open(io.BytesIO(data))
    image.seek(0)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return flattened(image)


def flattened(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB: transparency laid on white, 16-bit and floating grey scaled to 8 bits."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        sixteen = image.mode.startswith("I;16") or values.max() > 255
        top = 65535.0 if sixteen else 255.0 if values.max() > 1 or image.mode != "F" else 1.0
        return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def reason(error: BaseException) -> str:
    """Why an image could not be decoded, in words."""
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, cut short, or in no format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def read_image(path: Path, sight: int | Sight | None = None) -> Tensor:
    """An image file as ``[C, H, W]`` in [0, 1].

    Args:
        path: the file.
        sight: of the network that sees it; a number: the central square, shrunk or enlarged to so many pixels; None:
            the whole image as it is, in colour.

    Raises:
        DgnError: no such file, one that can't be decoded, or a network that photographs can't be shown to.
    """
    sight = Sight((sight, sight)) if isinstance(sight, int) else sight
    if sight is not None:
        sight.check()
    try:
        image = decode(path.read_bytes())
        return (sight or Sight((image.height, image.width))).tensor(image)
    except FileNotFoundError:
        raise DgnError(f"no image {str(path)!r}") from None
    except Exception as error:
        raise DgnError(f"{str(path)!r} can't be read as an image: {reason(error)}") from error


def crop(image: Image.Image, size: int, rng: np.random.Generator | None, smallest: float = 0.75) -> np.ndarray:
    """A square of ``size`` pixels, uint8 ``[size, size, 3]``.

    With ``rng``, a random square of at least ``smallest`` of the short side, mirrored half of the time; without, the
    central square. Crops are only ever shrunk, except where the image itself is smaller than ``size``.
    """
    short = min(image.size)
    if rng is None:
        side, u, v, mirror = short, 0.5, 0.5, False
    else:
        least = min(short, max(size, int(short * smallest)))
        side = int(rng.integers(least, short + 1))
        u, v = rng.random(2)
        mirror = bool(rng.random() < 0.5)
    left, top = int(u * (image.width - side) + 0.5), int(v * (image.height - side) + 0.5)
    box = (left, top, left + side, top + side)
    array = np.asarray(resample(image, box, (size, size)))
    return array[:, ::-1] if mirror else array
