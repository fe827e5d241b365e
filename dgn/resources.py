"""Where ``conf/`` and ``pretrained/`` are: beside the modules in a wheel, beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

from dgn.errors import DgnError


def resource(name: str) -> Path:
    """The folder ``name`` that came with dgn."""
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise DgnError(f"dgn was installed without its folder {name!r}; install it again")
