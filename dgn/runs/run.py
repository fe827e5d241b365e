"""The run folder: its layout, and how things get into it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save
from torch import Tensor

from dgn.errors import DgnError
from dgn.files.folders import HYDRAS, begins, check_folder, making, missing, read_facts, remove_logs
from dgn.files.ledger import JOURNAL, Ledger, foreign
from dgn.files.storage import write_atomic
from dgn.images.pictures import png

COLUMNS = (
    "unit", "prior", "seed", "activation", "probability", "rank", "steps", "frozen_at", "seconds", "image",
)  # fmt: skip
"""Columns of ``results.csv``: one row a unit x prior x seed. ``probability`` and ``rank`` (1: the network's first
choice) are the network's own, for units of its output; empty for others. ``steps`` are those that were asked for."""


def row_name(row: Mapping[str, Any]) -> str:
    """What a row of a table is called: the unit, with the facet that it is of."""
    return f"{row['unit']}, facet {row['facet']}" if row.get("facet") else str(row["unit"])


class Run:
    """A folder that holds what one job made. Every file is written under a temporary name and renamed; none that dgn
    did not write is ever replaced or removed.

    Args:
        folder: made where it is missing.
        patterns: of the names that the job writes, beside its manifest.
        manifest: the name of its manifest.
    """

    def __init__(self, folder: Path, patterns: Sequence[str] = (), manifest: str = "manifest.json") -> None:
        self.folder, self.patterns, self.manifest = folder, list(patterns), manifest
        self._made = missing(folder)
        with making(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(folder)

    @classmethod
    def new(cls, verb: str, patterns: Sequence[str] = (), manifest: str = "manifest.json") -> Run:
        """``runs/VERB/DATE_TIME``, below the current folder; with a number added where another process has it already.

        Raises:
            DgnError: it can't be made.
        """
        stamp, number = datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), 1
        folder = Path("runs") / verb / stamp
        while True:
            around = missing(folder)
            with making(folder):
                try:
                    folder.mkdir(parents=True)
                    break
                except FileExistsError:
                    number += 1
                    folder = folder.with_name(f"{stamp}-{number}")
        run = cls(folder, patterns, manifest)
        run._made = around
        return run

    def take_up(self, verb: str, *, beside: bool = False) -> dict[str, Any]:
        """The manifest of an earlier call, whose files count as this run's from now on; empty in a new folder. Call it
        while holding the folder's lock.

        Args:
            verb: that works in it.
            beside: the folder may hold other things.

        Raises:
            DgnError: the folder holds something else, see :func:`check_folder`.
        """
        facts = self.read_manifest()
        if not beside:
            check_folder(self.folder, verb, self.manifest)
        elif os.path.lexists(self.folder / self.manifest) and facts.get("verb") != verb:
            raise DgnError(foreign(self.folder / self.manifest))
        self.ledger = Ledger(self.folder, facts.get("files", {}))
        if facts:
            self.ledger.vouch(self.manifest)
        self.ledger.tidy()
        return facts

    def check_way(self) -> None:
        """Look for what would be in the way later, before anything is computed.

        Raises:
            DgnError: a file that dgn did not write, or that was changed since, has one of the names that it writes.
        """
        for pattern in self.patterns:
            first = self.folder / pattern.partition("/")[0]
            if "/" in pattern and (first.is_symlink() or (first.exists() and not first.is_dir())):
                raise DgnError(foreign(first))
            for path in sorted(self.folder.glob(pattern)):
                if not self.ledger.ours(self.ledger.name(path)):
                    raise DgnError(foreign(path))

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """``manifest.json``: what is needed to make the run again, what it writes, and what it has written."""
        with self.ledger.lock:
            files = {name: digest for name, digest in sorted(self.ledger.files.items()) if name != self.manifest}
            facts = {**manifest, "writes": self.patterns, "files": files}
            self.write(self.manifest, (json.dumps(facts, indent=1) + "\n").encode())
            self.ledger.fold()

    def write_table(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS, name: str = "results.csv"
    ) -> Path:
        """A table as CSV, with facets where there are some; what a row holds besides the columns is left out."""
        if any(row.get("facet") for row in rows) and "facet" not in columns:
            columns = [columns[0], "facet", *columns[1:]]
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return self.write_text(name, table.getvalue())

    def write_codes(
        self, codes: Mapping[str, Tensor], coordinates: Mapping[str, str], name: str = "codes.safetensors"
    ) -> None:
        """One tensor a prior, rows as in the table; the metadata say in which coordinates each is written."""
        tensors = {prior: code.detach().cpu().contiguous() for prior, code in codes.items()}
        self.write(name, save(tensors, dict(coordinates)))

    def write_picture(self, name: str, image: Image.Image) -> Path:
        """A PNG; returns its path."""
        return self.write(name, png(image))

    def write_text(self, name: str, text: str) -> Path:
        """A text file; returns its path."""
        return self.write(name, text.encode())

    def write(self, name: str, data: bytes) -> Path:
        """A file under the run folder; returns its path."""
        with self.ledger:
            write_atomic(self.folder / name, data)
        return self.folder / name

    def holds(self, name: str) -> bool:
        """Whether the run has written a file, and it is there."""
        return name in self.ledger.files and (self.folder / name).is_file()

    def read_manifest(self) -> dict[str, Any]:
        """What the manifest says; empty where it is missing or broken."""
        return read_facts(self.folder / self.manifest)

    def clear(self, folder: str = "") -> None:
        """Remove what this run wrote, or what of it lies in one of its folders; other files stay."""
        self.ledger.remove(name for name in set(self.ledger.files) - {self.manifest} if name.startswith(folder))

    def discard(self) -> bool:
        """Remove the folder, and the empty ones that were made around it, if no result is in it; whether it was."""
        files = (path for path in self.folder.rglob("*") if not path.is_dir() and path.suffix != ".part")
        results = (path for path in files if path.relative_to(self.folder).parts[0] not in {JOURNAL, *BEGINNINGS})
        if not self._made or any(results):
            return False
        self.ledger.remove([*self.ledger.files])
        self.ledger.fold()
        self.drop_hydras()
        remove_logs(self.folder / "wandb")
        with suppress(OSError):  # somebody's file is in it, or another run has moved in
            if (self.folder / ".lock").stat().st_size == 0:
                (self.folder / ".lock").unlink()
        with suppress(OSError):  # of a launcher that handed out no job
            (self.folder / ".submitit").rmdir()
        with suppress(OSError):
            for path in self._made:
                path.rmdir()
        return not self.folder.exists()

    def drop_hydras(self) -> None:
        """Remove what Hydra wrote about a sweep that did not begin."""
        for name, first in HYDRAS.items():
            if begins(self.folder / name, first):
                (self.folder / name).unlink()


BEGINNINGS = ("config.yaml", "manifest.json", "sweep.json", ".lock", "wandb", "multirun.yaml")
"""What a run folder holds before its job has made anything."""


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
