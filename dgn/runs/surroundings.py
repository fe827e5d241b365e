"""What a manifest says of the machine, the versions and the command that a run was made with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide what an image looks like."""
    numbers = {"python": platform.python_version()}
    for package in ("dgn", "torch", "torchvision", "timm", "hydra-core", "numpy", "pillow"):
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            numbers[package] = "not installed"
    return numbers


def surroundings() -> dict[str, Any]:
    """Versions, machine and git revision, for the manifest."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "git": _git_revision(),
        "command": [*Path(sys.argv[0]).name.split(" "), *sys.argv[1:]],
    }


def _git_revision() -> str | None:
    """The revision of the checkout that this package runs from, with ``-dirty`` where it was changed; else None."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder.parent / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
