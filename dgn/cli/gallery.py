"""``dgn gallery RUN...``: runs as one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgn.cli.common import plain, write_gallery
from dgn.errors import DgnError


def run(config: Any) -> None:
    """Write ``index.html`` into the run, or, of several runs, where ``out=`` says."""
    given = plain(config)["runs"]
    folders = [Path(str(folder)) for folder in (given if isinstance(given, list) else [given])]
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
    write_gallery(found, file, str(config.title) if config.title is not None else None)
    print(file)
