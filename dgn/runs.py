"""The run folder: its layout, and how things get into it."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from dgn.errors import DgnError
from dgn.storage import write_atomic

COLUMNS = (
    "unit", "prior", "seed", "activation", "probability", "rank", "steps", "frozen_at", "seconds", "image",
)  # fmt: skip
"""Columns of ``results.csv``: one row a unit x prior x seed. ``probability`` and ``rank`` (1: the network's first
choice) are the network's own, for units of its output; empty for others."""


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, on the CPU; uint8 ones as they are."""
    if images.dtype == torch.uint8:
        return images.cpu()
    return (images.detach().clamp(0, 1) * 255).round().byte().cpu()


def to_image(image: Tensor) -> Image.Image:
    """``[C, H, W]`` in [0, 1], or uint8, as a picture: grey for one channel, RGB for three; else their mean, grey."""
    pixels = to_bytes(image)
    if pixels.shape[0] == 3:
        return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return Image.fromarray((pixels if pixels.shape[0] == 1 else pixels.float().mean(0, keepdim=True).byte())[0].numpy())


def png(image: Image.Image) -> bytes:
    """The picture as PNG."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


class Run:
    """A folder that holds what one job made. Every file is written under a temporary name and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = _NEW.pop(folder, []) or _missing(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DgnError(f"can't make the run folder {str(folder)!r}: {error.strerror}; give another out=") from error

    def write_config(self, text: str) -> None:
        """``config.yaml``: the whole configuration, resolved."""
        write_atomic(self.folder / "config.yaml", text.encode())

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """``manifest.json``: what is needed to make the run again."""
        write_atomic(self.folder / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())

    def write_table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
        """``results.csv``; what a row holds besides the columns is left out."""
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.folder / "results.csv", table.getvalue().encode())

    def write_codes(
        self, codes: Mapping[str, Tensor], coordinates: Mapping[str, str], name: str = "codes.safetensors"
    ) -> None:
        """One tensor a prior, rows as in the table; the metadata say in which coordinates each is written."""
        tensors = {prior: code.detach().cpu().contiguous() for prior, code in codes.items()}
        write_atomic(self.folder / name, save(tensors, dict(coordinates)))

    def write_picture(self, name: str, image: Image.Image) -> Path:
        """A PNG under the run folder; returns its path."""
        path = self.folder / name
        write_atomic(path, png(image))
        return path

    def write_text(self, name: str, text: str) -> Path:
        """A text file under the run folder; returns its path."""
        write_atomic(self.folder / name, text.encode())
        return self.folder / name

    def read_manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` says; empty where it is missing or broken."""
        try:
            facts = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def clear(self) -> None:
        """Remove what a job of ``dgn synthesize`` wrote; other files stay."""
        for name in ("parts", "images", "trajectory"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("manifest.json", "results.csv", "codes.safetensors", "grid.png", "index.html"):
            (self.folder / name).unlink(missing_ok=True)
        self.sweep_up()

    def sweep_up(self) -> None:
        """Remove files that a killed process was writing."""
        for path in self.folder.rglob(".*.part"):
            path.unlink(missing_ok=True)

    def has_results(self) -> bool:
        """Whether there is more than what any job writes at its beginning."""
        for path in self.folder.rglob("*"):
            if path.relative_to(self.folder).parts[0] not in BEGINNINGS and path.is_file() and path.suffix != ".part":
                return True
        return False

    def discard(self) -> bool:
        """Remove the folder and the empty ones around it that were made for it, if no result is in it.

        Returns:
            Whether it was.
        """
        if not self._made or self.has_results():
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another run has moved in
            for path in self._made[1:]:
                path.rmdir()
        return True


BEGINNINGS = ("config.yaml", "manifest.json", ".lock", "wandb", "multirun.yaml")
"""What a run folder holds before its job has made anything."""

_NEW: dict[Path, list[Path]] = {}
"""Folders of :func:`new_folder` that no :class:`Run` has taken yet, each with those around it that were made for it."""


def _missing(folder: Path) -> list[Path]:
    """The folder, and those around it, that do not exist."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def new_folder(verb: str) -> Path:
    """Make ``runs/VERB/DATE_TIME``, below the current folder; with a number added where another process has it already.

    Raises:
        DgnError: it can't be made.
    """
    stamp, number = datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), 1
    folder = Path("runs") / verb / stamp
    while True:
        missing = _missing(folder)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{stamp}-{number}")
        except OSError as error:
            raise DgnError(f"can't make the run folder {str(folder)!r}: {error.strerror}; give another out=") from error
        else:
            _NEW[folder] = missing
            return folder


@cache
def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what an image looks like."""
    found = {"python": platform.python_version()}
    for package in ("dgn", "torch", "torchvision", "timm", "hydra-core", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def surroundings() -> dict[str, Any]:
    """Versions, machine and git revision, for the manifest."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "git": _git_revision(),
        "command": [*Path(sys.argv[0]).name.split(" "), *sys.argv[1:]],
    }


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_revision() -> str | None:
    """The revision of the checkout that this package runs from, with ``-dirty`` where it was changed; else None."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
