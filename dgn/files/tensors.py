"""Tensors on disk as dgn keeps them: safetensors with a JSON text beside them, under one SHA-256.

Reading takes tensors and JSON only; nothing is ever unpickled. The SHA-256 is of everything that is read (kind, text,
tensors with their names), so that a file that was cut short or changed anywhere is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from dgn.errors import DgnError
from dgn.files.storage import digest, write_atomic


def save_tensors(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any], kind: str) -> None:
    """Write tensors with their metadata (any JSON value) and digest."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    write_atomic(path, save(tensors, {"format": kind, "seal": _seal(tensors, text, kind), "meta": text}))


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back what :func:`save_tensors` wrote: tensors and metadata.

    Raises:
        DgnError: no such file; cut short; not written by dgn; another kind; changed since it was written.
    """
    if not path.is_file():
        raise DgnError(f"no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise DgnError(f"{str(path)!r} is cut short or no safetensors file; get it anew") from error
    if metadata.get("format") != kind:
        raise DgnError(f"{str(path)!r} was not written as {kind!r} by dgn (its format: {metadata.get('format')!r})")
    if metadata.get("seal") != _seal(tensors, metadata.get("meta", ""), kind):
        raise DgnError(f"{str(path)!r} was changed since it was written: its SHA-256 does not match; get it anew")
    try:
        return tensors, dict(json.loads(metadata["meta"]))
    except (KeyError, ValueError) as error:
        raise DgnError(f"{str(path)!r} holds no readable configuration; get it anew") from error


def _seal(tensors: dict[str, Tensor], meta: str, kind: str) -> str:
    """SHA-256 over everything that is read back."""
    return hashlib.sha256("\n".join((kind, meta, digest(tensors))).encode()).hexdigest()
