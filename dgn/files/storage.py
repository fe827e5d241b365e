"""Bytes on disk: files written whole or not at all, and the fingerprint of weights."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from torch import Tensor

from dgn.errors import DgnError
from dgn.files.folders import making
from dgn.files.ledger import ledger_of
from dgn.files.weights import read_weights


def write_atomic(path: Path, data: bytes) -> None:
    """Write under a temporary name in the same folder, then rename: no reader ever sees half a file.

    Raises:
        DgnError: the folder or the file can't be written, or the disk is full.
    """
    write_chunks(path, [data])


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """:func:`write_atomic` of bytes that come piece by piece.

    In a run folder that is being worked in, nothing but what dgn wrote is replaced: see :mod:`dgn.files.ledger`.
    """
    ledger = ledger_of(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    total = hashlib.sha256()
    try:
        if ledger is not None:
            ledger.admit(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if ledger is not None:
            ledger.began(temporary)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise DgnError(f"can't write to {str(path.parent)!r}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            for data in chunks:
                file.write(data)
                total.update(data)
        if ledger is None:
            os.replace(temporary, path)
        else:
            ledger.finished(temporary, path, total.hexdigest())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if ledger is not None:
            ledger.finished(temporary, path, None)
        if isinstance(error, OSError):
            raise DgnError(f"can't write {str(path)!r}: {error.strerror}") from error
        raise


def lock(folder: Path, *, wait: float = 0.0) -> IO[bytes] | None:
    """An exclusive lock on a folder, held until the file is closed or the process ends, however it ends.

    Where the process that held it has removed the folder meanwhile, it is made again.

    Args:
        folder: is made where it is missing.
        wait: seconds to wait for a process that holds it.

    Returns:
        The open ``.lock`` file, or None: another living process holds it.

    Raises:
        DgnError: the folder can't be made or written to.
    """
    import fcntl

    end = time.monotonic() + wait
    while True:
        with making(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / ".lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, folder / ".lock"):
                return file
            file.close()
            continue
        except BlockingIOError:
            file.close()
            if time.monotonic() >= end:
                return None
            time.sleep(0.1)
        except OSError:  # a file system without locks: nobody can be kept out
            return file


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is what others find at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def join_tensors(path: Path, parts: Mapping[str, Sequence[Path]], name: str, notes: Mapping[str, str]) -> None:
    """One ``.safetensors`` file in which each tensor is the concatenation of those called ``name`` in several files.

    Bytes are copied a file at a time, so memory holds one part only.

    ``parts`` names the files of each new tensor; their tensors agree in type and in all sizes but the first.

    Raises:
        DgnError: the file can't be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(notes)} if notes else {}
    offset = 0
    for key, files in parts.items():
        facts = [_facts(file, name) for file in files]
        shape = [sum(part["shape"][0] for part in facts), *facts[0]["shape"][1:]]
        end = offset + sum(part["data_offsets"][1] - part["data_offsets"][0] for part in facts)
        header[key] = {"dtype": facts[0]["dtype"], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8

    def chunks() -> Iterator[bytes]:
        yield len(text).to_bytes(8, "little") + text
        for file in chain.from_iterable(parts.values()):
            begin, end = _facts(file, name)["data_offsets"]
            with file.open("rb") as source:
                source.seek(begin)
                yield source.read(end - begin)

    write_chunks(path, chunks())


def _facts(path: Path, name: str) -> dict[str, Any]:
    """The type and shape of a tensor in a ``.safetensors`` file, and where in the file its bytes begin and end."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        facts: dict[str, Any] = json.loads(file.read(length))[name]
    return {**facts, "data_offsets": [8 + length + offset for offset in facts["data_offsets"]]}


def read_notes(path: Path) -> dict[str, str]:
    """The metadata of a ``.safetensors`` file; empty for any other."""
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            return dict(file.metadata() or {})
    except Exception:
        return {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a file of weights; see :func:`dgn.files.weights.read_weights`.

    Raises:
        DgnError: no such file, another format, or a file that would run code when it is opened.
    """
    return read_weights(path).tensors


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of the tensors, in order of their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        if not isinstance(tensor, Tensor):  # a quantised module's state dict has other things, too
            total.update(f"{name}|{tensor!r}|".encode())
            continue
        tensor = (tensor.dequantize() if tensor.is_quantized else tensor).detach().cpu().contiguous()
        total.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
