"""Folders that jobs work in: how they are made, and what may lie in those that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dgn.errors import DgnError
from dgn.files.ledger import Ledger

HYDRAS = {"multirun.yaml": b"hydra:\n", "optimization_results.yaml": b"name: optuna\n"}
"""Files that Hydra and its sweepers write into a sweep's folder, and how they begin."""


def begins(path: Path, first: bytes) -> bool:
    """Whether a path is a file, and no link, that begins with these bytes."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(first)) == first


def remove_logs(folder: Path) -> None:
    """Remove what Weights & Biases wrote into its folder in a run: the files that have names of its kind."""
    if folder.is_symlink():
        return
    for path in sorted(folder.rglob("*"), key=lambda path: -len(path.parts)):
        name = path.relative_to(folder).as_posix()
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif _LOGS.fullmatch(name):
                path.unlink()
    with suppress(OSError):
        folder.rmdir()


_LOGS = re.compile(
    r"latest-run|debug(-internal|-core|-cli\..+)?\.log|(offline-)?run-\d{8}_\d{6}-\w+/(run-\w+\.wandb|logs/debug[\w.-]*\.log|"
    r"files/(media/.+|config\.yaml|output\.log|requirements\.txt|wandb-(metadata|summary)\.json)|tmp/.+)"
)


def read_facts(path: Path) -> dict[str, Any]:
    """What a manifest says; empty where it is missing, broken or no JSON object."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def check_folder(folder: Path, verb: str, manifest: str = "manifest.json") -> None:
    """Whether a job may work in a folder: a new or empty one, or one whose manifest is of the same verb.

    Raises:
        DgnError: it holds anything else.
    """
    if not folder.is_dir():
        return  # to be made, or a file, which making it tells
    facts = read_facts(folder / manifest)
    if facts.get("verb") == verb and {"status", "started"} <= facts.keys() and not (folder / manifest).is_symlink():
        return
    names = {path.name for path in folder.iterdir()}
    if ".lock" in names and (folder / ".lock").lstat().st_size == 0:
        names.remove(".lock")
    if not names - Ledger(folder).leftovers():
        return
    other = next((name for name in (manifest, "manifest.json", "sweep.json") if name in names), manifest)
    facts = read_facts(folder / other)
    kinds = {"sweep.json": "sweep"}
    if facts.keys() >= {"verb", "status", "started"}:
        holds = f"holds a {kinds.get(other, 'run')} of dgn {facts['verb']}"
    else:
        holds = f"is not empty and holds no {kinds.get(manifest, 'run')} of dgn {verb}"
    raise DgnError(f"{str(folder)!r} {holds}: give another out=, a new or empty folder")


def missing(folder: Path) -> list[Path]:
    """Those of the folder and the folders around it that do not exist."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """What goes wrong where a run's folder is made, as a :class:`DgnError`."""
    try:
        yield
    except OSError as error:
        raise DgnError(f"can't make the run folder {str(folder)!r}: {error.strerror}; give another out=") from error
