"""Training images, small, in few files of a given size, for a machine that takes little at a time.

    python benchmarks/pack.py pack FOLDER PACKED [--size 72] [--quality 60] [--piece 20]   # PACKED/piece-0.bin, ...
    python benchmarks/pack.py unpack PACKED FOLDER                                       # any pieces that are there

A piece is a list of names and lengths (JSON, its own length first), then the images' bytes: no padding, unlike a tar.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from dgn.images.reading import Entry, decode, list_images


def small(entry: Entry, size: int, quality: int) -> bytes:
    """An image with a short side of at most ``size`` pixels, as WebP; empty where it can't be read."""
    try:
        image = decode(entry.read())
    except Exception:
        return b""
    scale = size / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def pack(source: Path, packed: Path, size: int, quality: int, piece: float) -> None:
    packed.mkdir(parents=True, exist_ok=True)
    names: list[tuple[str, int]] = []
    parts: list[bytes] = []
    number = 0

    def write() -> None:
        nonlocal number, names, parts
        head = json.dumps(names).encode()
        (packed / f"piece-{number}.bin").write_bytes(struct.pack("<Q", len(head)) + head + b"".join(parts))
        number, names, parts = number + 1, [], []

    entries, held = list_images(source), 0
    with ThreadPoolExecutor() as pool:
        for entry, data in zip(entries, pool.map(lambda e: small(e, size, quality), entries), strict=True):
            if not data:
                continue
            if held and held + len(data) > piece * 1e6:
                write()
                held = 0
            held += len(data)
            stem = Path(entry.name)
            names.append((f"{stem.parent.name}/{number}-{len(names)}.webp", len(data)))
            parts.append(data)
    write()


def unpack(packed: Path, folder: Path) -> None:
    for file in sorted(packed.glob("piece-*.bin")):
        data = file.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        at = 8 + length
        for name, size in json.loads(data[8:at]):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[at : at + size])
            at += size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--size", type=int, default=72)
    parser.add_argument("--quality", type=int, default=60)
    parser.add_argument("--piece", type=float, default=20.0, help="megabytes")
    given = parser.parse_args()
    if given.do == "pack":
        pack(given.source, given.target, given.size, given.quality, given.piece)
    else:
        unpack(given.source, given.target)


if __name__ == "__main__":
    main()
