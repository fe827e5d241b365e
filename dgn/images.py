"""Image files: listed in folders and tar shards, decoded, cut to squares."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dgn.errors import DgnError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True)
class Entry:
    """Where one image's bytes are: a file, or a span of a tar file."""

    name: str
    path: Path
    offset: int = -1
    size: int = -1

    def read(self) -> bytes:
        """The encoded image."""
        if self.offset < 0:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def list_images(root: Path) -> list[Entry]:
    """Every image below ``root``: files of a folder, members of ``.tar`` files in it, or of one tar file itself.

    Raises:
        DgnError: no such folder, a tar file that can't be read, or no image at all.
    """
    if not root.exists():
        raise DgnError(f"no folder or tar file {str(root)!r} for the images")
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    entries: list[Entry] = []
    for path in files:
        if path.suffix.lower() == ".tar":
            try:
                state = path.stat()
                entries += _members(path, state.st_size, state.st_mtime_ns)
            except (tarfile.TarError, OSError) as error:
                raise DgnError(f"{str(path)!r} is no readable tar file: {error}") from error
        elif path.suffix.lower() in SUFFIXES:
            entries.append(Entry(str(path.relative_to(root) if path != root else path.name), path))
    if not entries:
        raise DgnError(f"no images in {str(root)!r} (looked for {', '.join(sorted(SUFFIXES))}, also inside .tar files)")
    return entries


@lru_cache(maxsize=64)
def _members(path: Path, _size: int, _changed: int) -> tuple[Entry, ...]:
    """The images of a tar file; a job asks more than once, and a large file is long to read."""
    with tarfile.open(path) as archive:
        return tuple(
            Entry(f"{path.name}/{member.name}", path, member.offset_data, member.size)
            for member in archive
            if member.isfile() and os.path.splitext(member.name)[1].lower() in SUFFIXES
        )


def decode(data: bytes) -> Image.Image:
    """An RGB image of any file that Pillow opens.

    EXIF rotation is applied, the first frame of an animation taken, transparency laid on white, 16-bit and floating
    grey scaled to 8 bits.
    """
    from PIL import ImageOps

    image: Image.Image = Image.open(io.BytesIO(data))
    image.seek(0)
    image = ImageOps.exif_transpose(image) or image
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        sixteen = image.mode.startswith("I;16") or values.max() > 255
        top = 65535.0 if sixteen else 255.0 if values.max() > 1 or image.mode != "F" else 1.0
        return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, (255, 255, 255, 255)), seen)
    return image.convert("RGB")


def read_image(path: Path, size: int | None = None) -> Tensor:
    """An image file as ``[3, H, W]`` in [0, 1].

    Args:
        path: the file.
        size: the central square, shrunk or enlarged to so many pixels; None: the whole image as it is.

    Raises:
        DgnError: no such file, or one that can't be decoded.
    """
    try:
        image = decode(path.read_bytes())
    except FileNotFoundError:
        raise DgnError(f"no image {str(path)!r}") from None
    except Exception as error:
        raise DgnError(f"{str(path)!r} can't be read as an image: {error}") from error
    pixels = np.array(image) if size is None else np.array(crop(image, size, None))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


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
    if side == size:
        square = image.crop(box)
    else:
        square = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    array = np.asarray(square)
    return array[:, ::-1] if mirror else array
