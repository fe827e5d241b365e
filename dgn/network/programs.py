"""Exported programs from files: ``torch.export`` (``.pt2``) and TorchScript.

To load one is to run it, with the user's rights: PyTorch unpickles what the file marks as pickled and looks up the
functions that it names. dgn therefore opens only those that the user trusts.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from dgn.errors import DgnError


def load_program(path: Path, *, trust: bool) -> Any:
    """A program from its file: a ``torch.export.ExportedProgram`` from a ``.pt2``, else a ``torch.jit.ScriptModule``.

    Raises:
        DgnError: no such file, one that is not trusted, or no such program.
    """
    if not path.is_file():
        raise DgnError(f"no file {str(path)!r}")
    if not trust:
        raise DgnError(
            f"{str(path)!r} is a program, which can do anything that you can: if you trust it, add trust=true"
        )
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch.export logs a traceback before it raises
    try:
        return torch.export.load(path) if path.suffix == ".pt2" else torch.jit.load(path, map_location="cpu")
    except Exception as error:
        kind = "torch.export" if path.suffix == ".pt2" else "TorchScript"
        raise DgnError(f"{str(path)!r} is no {kind} program that this PyTorch can load") from error
    finally:
        logging.disable(quiet)
