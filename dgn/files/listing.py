"""Image files as they lie on disks: in folders, behind symbolic links, in tar files, under names of any bytes."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from dgn.errors import DgnError

NEED_MORE = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF"})
"""Formats of Pillow that it knows by name, or reads with another program, and can't decode alone."""

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")

_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstd begin."""


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of the image files that Pillow decodes, in lower case, with their dot."""
    from PIL import Image

    formats = Image.registered_extensions().items()
    return frozenset({name for name, kind in formats if kind in Image.OPEN and kind not in NEED_MORE} | {".mpo"})


def printable(name: str) -> str:
    """A file's name as text that can be written anywhere: bytes that are no UTF-8 as ``\\xff``."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name


def printable_values(value: Any) -> Any:
    """A configuration whose texts can be written anywhere."""
    if isinstance(value, dict):
        return {printable_values(key): printable_values(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [printable_values(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Entry:
    """Where one image's bytes are: a file, or a span of a tar file. Its name can be written anywhere."""

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


class Listing(list[Entry]):
    """Images below a folder, in order of their paths.

    Attributes:
        unread: folders and tar files that could not be looked into, each with the reason.
    """

    unread: list[str]

    def __init__(self, entries: list[Entry], unread: list[str]) -> None:
        super().__init__(entries)
        self.unread = unread

    @property
    def warnings(self) -> list[str]:
        """One line where something could not be looked into; else empty."""
        return counted(self.unread, "folders or tar files could not be looked into")


def counted(names: list[str], what: str, most: int = 3) -> list[str]:
    """``["2 images could not be read: 'a', 'b'"]``; empty for no names."""
    if not names:
        return []
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"{len(names)} {what}: {', '.join(map(repr, names[:most]))}{more}"]


def list_images(root: Path) -> Listing:
    """Every image below ``root``: files of a folder, members of ``.tar`` files in it, or of one tar file itself.

    Links to folders are followed, each folder once; what can't be looked into is named in the result.

    Raises:
        DgnError: no such folder, a tar file that can't be read, or no image at all.
    """
    try:
        exists, alone = root.exists(), root.is_file()
    except OSError as error:
        raise DgnError(f"can't look into {str(root)!r}: {error.strerror}") from error
    if not exists:
        raise DgnError(f"no folder or tar file {str(root)!r} for the images")
    unread: list[str] = []
    files = [root] if alone else sorted(_files(root, unread))
    entries: list[Entry] = []
    for path in files:
        name = printable(path.name if path == root else str(path.relative_to(root)))
        lower = path.name.lower()
        if lower.endswith((".tar", *COMPRESSED)):
            try:
                entries += _inside(path)
            except (tarfile.TarError, OSError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                if alone:
                    raise DgnError(f"{str(path)!r} is no readable tar file: {reason}") from error
                unread.append(f"{name} (no readable tar file: {reason})")
        elif path.suffix.lower() in suffixes():
            entries.append(Entry(name, path))
    if not entries:
        why = f"; {unread[0]}" if unread else " (looked for whatever Pillow decodes, also inside .tar files)"
        raise DgnError(f"no images in {str(root)!r}{why}")
    return Listing(entries, unread)


def _files(root: Path, unread: list[str]) -> Iterator[Path]:
    """Files below a folder, each folder once; links to folders come last, so that names are as short as can be."""
    visited: set[tuple[int, int]] = set()
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            state = folder.stat()
            if (state.st_dev, state.st_ino) in visited:
                continue
            visited.add((state.st_dev, state.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise DgnError(f"can't look into {str(root)!r}: {error.strerror}") from error
            unread.append(f"{printable(str(folder.relative_to(root)))} ({error.strerror})")
            continue
        for entry in entries:
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(folder / entry.name)
                elif entry.is_file():
                    yield folder / entry.name
            except OSError as error:  # a link that leads to itself
                unread.append(f"{printable(str((folder / entry.name).relative_to(root)))} ({error.strerror})")


def _inside(path: Path) -> tuple[Entry, ...]:
    with path.open("rb") as file:
        if file.read(6).startswith(_MAGIC):
            raise tarfile.ReadError("it is compressed, and would be unpacked anew for each image: unpack it first")
    state = path.stat()
    return _members(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _members(path: Path, _size: int, _changed: int) -> tuple[Entry, ...]:
    """The images of a tar file; a job asks more than once, and a large file is long to read."""
    with tarfile.open(path, "r:") as archive:
        return tuple(
            Entry(printable(f"{path.name}/{member.name}"), path, member.offset_data, member.size)
            for member in archive
            if member.isfile() and os.path.splitext(member.name)[1].lower() in suffixes()
        )
