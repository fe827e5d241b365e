"""``dgn gallery RUN...``: runs as one self-contained page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dgn.cli.data import paths
from dgn.cli.manifest import plain
from dgn.cli.reproduce import reproduce
from dgn.errors import DgnError
from dgn.files.pages import is_page
from dgn.report.gallery import write_page
from dgn.runs.past import read_run


def run(config: Any) -> None:
    """Write ``index.html`` into the run, or, of several runs, where ``out=`` says."""
    folders = paths(plain(config)["runs"])
    if not folders:
        raise DgnError("runs=[] names no run: give one or more run folders, as in dgn gallery runs/synthesize/MINE")
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise DgnError(f"no folder {str(folder)!r}")
        inside = sorted(
            (path.parent for path in folder.glob("*/results.csv")),
            key=lambda path: (len(path.name), path.name) if path.name.isdigit() else (99, path.name),
        )
        found += [folder] if (folder / "manifest.json").is_file() or not inside else inside
    out = Path(str(config.out)) if config.out is not None else folders[0]
    file = out if out.suffix == ".html" else out / ("index.html" if len(found) == 1 else "gallery.html")
    if os.path.lexists(file) and not is_page(file):
        raise DgnError(f"{str(file)!r} is not a page that dgn wrote, and dgn never replaces it: give another out=")
    write_page([*map(read_run, found)], file, reproduce, str(config.title) if config.title is not None else None)
    print(file)
