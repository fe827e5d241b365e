"""Runs that are there: their tables and manifests, read back."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgn.errors import DgnError


@dataclass
class PastRun:
    """What a run of ``dgn synthesize`` or ``dgn facets`` holds; ``name`` tells it from others."""

    folder: Path
    rows: list[dict[str, Any]]
    manifest: dict[str, Any]
    name: str = ""

    def column(self, name: str) -> list[str]:
        """Each value once, in the table's order."""
        return list(dict.fromkeys(row[name] for row in self.rows))

    @property
    def overrides(self) -> list[str]:
        """What it was told on the command line."""
        return [str(word) for word in self.manifest.get("overrides", [])]


def read_run(folder: Path) -> PastRun:
    """A run folder's table and manifest.

    Raises:
        DgnError: no such folder, or none of images with their units.
    """
    table, manifest = folder / "results.csv", folder / "manifest.json"
    if not table.is_file() or not manifest.is_file():
        raise DgnError(f"{str(folder)!r} is no folder of a dgn run: it lacks results.csv or manifest.json")
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        facts = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DgnError(f"the run {str(folder)!r} can't be read: {error}") from error
    lacking = {"unit", "prior", "seed", "activation", "image"} - set(rows[0] if rows else ())
    if rows and lacking:
        raise DgnError(f"{str(table)!r} has no columns {', '.join(sorted(lacking))}: not of dgn synthesize")
    return PastRun(folder, rows, facts)


def title_of(runs: list[PastRun]) -> str:
    """Of a grid or a page of several runs."""
    networks = dict.fromkeys(str(run.manifest.get("network", "?")) for run in runs)
    return f"What units of {', '.join(networks)} want to see"
