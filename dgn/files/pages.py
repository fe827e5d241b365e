"""Pages that say themselves that dgn wrote them: they may be written where no manifest is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

SEAL = '<meta name="generator" content="dgn" data-sha256="{}">'
"""Stands in a page: the SHA-256 of the page with 64 zeros in its place."""

_UNSEALED = SEAL.format("0" * 64)


def seal(text: str) -> str:
    """A page that holds :data:`SEAL` with zeros, with its own SHA-256 instead."""
    data = text.encode("utf-8", "backslashreplace")  # as pages are written
    return text.replace(_UNSEALED, SEAL.format(hashlib.sha256(data).hexdigest()), 1)


def is_page(path: Path) -> bool:
    """Whether a file is a page that dgn wrote, as it wrote it."""
    if path.suffix != ".html" or path.is_symlink() or not path.is_file():
        return False
    data = path.read_bytes()
    match = re.search(re.escape(SEAL).replace(r"\{\}", "([0-9a-f]{64})").encode(), data[:4096])
    if match is None:
        return False
    unsealed = data[: match.start(1)] + b"0" * 64 + data[match.end(1) :]
    return hashlib.sha256(unsealed).hexdigest().encode() == match[1]
