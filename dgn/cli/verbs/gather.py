"""``dgn gather SWEEP``: the runs of a sweep, shards among them, as one table, grid and gallery."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dgn.cli.sweeps.gather import gather
from dgn.cli.sweeps.resume import hold
from dgn.errors import DgnError


def run(config: Any) -> None:
    """Join the runs below a folder."""
    folder = Path(str(config.sweep))
    if not folder.is_dir():
        raise DgnError(f"no folder {str(folder)!r}")
    own = not os.path.lexists(folder / ".lock")
    with hold(folder):
        try:
            for file in gather(folder, title=None if config.title is None else str(config.title)):
                print(file)
        finally:
            if own:  # the folder is as it was, whatever came of it
                (folder / ".lock").unlink(missing_ok=True)
