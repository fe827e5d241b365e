"""Image files: listed in folders and tar shards, decoded, cut to squares."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

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
                with tarfile.open(path) as archive:
                    entries += [
                        Entry(f"{path.name}/{member.name}", path, member.offset_data, member.size)
                        for member in archive
                        if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES
                    ]
            except (tarfile.TarError, OSError) as error:
                raise DgnError(f"{str(path)!r} is no readable tar file: {error}") from error
        elif path.suffix.lower() in SUFFIXES:
            entries.append(Entry(str(path.relative_to(root) if path != root else path.name), path))
    if not entries:
        raise DgnError(f"no images in {str(root)!r} (looked for {', '.join(sorted(SUFFIXES))}, also inside .tar files)")
    return entries


def decode(data: bytes) -> Image.Image:
    """An RGB image, its EXIF rotation applied."""
    from PIL import ImageOps

    image = Image.open(io.BytesIO(data))
    turned = ImageOps.exif_transpose(image)
    return (turned if turned is not None else image).convert("RGB")


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
