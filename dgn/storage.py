"""Bytes on disk: files written whole or not at all, and the fingerprint of weights."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from dgn.errors import DgnError


def write_atomic(path: Path, data: bytes) -> None:
    """Write under a temporary name in the same folder, then rename: no reader ever sees half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise DgnError(f"can't write to {str(path.parent)!r}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise DgnError(f"can't write {str(path)!r}: {error.strerror}") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_notes(path: Path) -> dict[str, str]:
    """The metadata of a ``.safetensors`` file; empty of any other."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            return dict(file.metadata() or {})
    except Exception:
        return {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name from ``.safetensors``, or from a ``.pt``/``.pth``/``.bin`` file that holds tensors only.

    Raises:
        DgnError: no such file, another format, or a file that would run code when it is opened.
    """
    if not path.is_file():
        raise DgnError(f"no weights file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DgnError(
            f"{str(path)!r} is not a readable file of weights (safetensors or a plain state dict)"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DgnError(f"{str(path)!r} holds no state dict of tensors")
    return {str(key): value for key, value in state.items()}


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of the tensors, in order of their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
