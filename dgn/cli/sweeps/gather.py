"""The runs of a sweep, shards among them, as one table, grid and gallery."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dgn.cli.keys import KEPT, MACHINE, ROWS, RUN, belongs
from dgn.cli.reproduce import reproduce
from dgn.cli.sweeps.job import records
from dgn.cli.verbs import JOINED
from dgn.drawing.matrix import grid
from dgn.errors import DgnError
from dgn.files.folders import read_facts
from dgn.images.pictures import png
from dgn.report.gallery import inside, write_page
from dgn.report.table import grid_cells
from dgn.runs.past import PastRun, read_run, title_of
from dgn.runs.run import COLUMNS, Run, now

NO_VARIANT = RUN | KEPT | MACHINE | ROWS
"""Overrides in which runs may differ under one name: the table's columns tell them apart."""


FILE, COLUMNS_JOINED = "gather.json", (*COLUMNS, "job", "overrides")


def gather(folder: Path, *, title: str | None = None, table_alone: bool = False) -> list[Path]:
    """Write ``results.csv`` (with the columns ``job`` and ``overrides``) and, unless the table is wanted alone,
    ``index.html`` and ``grid.png``; returns their paths. To be called with the folder's lock.

    Raises:
        DgnError: there is no run of ``dgn synthesize``.
    """
    runs = [run for run in map(read_run, _folders(folder)) if run.manifest.get("verb") == "synthesize"]
    if not runs:
        raise DgnError(f"no run of dgn synthesize below {str(folder)!r}")
    merged: dict[str, PastRun] = {}
    for run, label in zip(runs, _labels(runs), strict=True):
        group = merged.setdefault(label, PastRun(folder, [], run.manifest, label))
        job = {"job": run.folder.name, "overrides": " ".join(run.overrides)}
        group.rows += [{**row, "image": f"{run.folder.name}/{row['image']}", **job} for row in run.rows]
    for group in merged.values():
        group.rows = _unit_by_unit(group.rows)
    rows, title = [row for group in merged.values() for row in group.rows], title or title_of(runs)
    picture = None if table_alone else png(_drawn([*merged.values()], len({row["seed"] for row in rows}), title))
    joined = Run(folder, JOINED[:1] if table_alone else JOINED, FILE)
    joined.take_up("gather", beside=True)
    for name, digest in read_facts(folder / "sweep.json").get("files", {}).items():
        joined.ledger.files.setdefault(name, digest)  # the sweep has read the notes of a call that was cut short
    joined.check_way()
    facts = {"verb": "gather", "status": "done", "started": now()}
    joined.write_manifest(facts)
    with joined.ledger:
        files = [joined.write_table(rows, COLUMNS_JOINED)]
        if picture is not None:
            write_page([*merged.values()], folder / "index.html", reproduce, title)
            files += [folder / "index.html", joined.write("grid.png", picture)]
    joined.write_manifest(facts)
    return files


def _folders(folder: Path) -> list[Path]:
    """Those of the runs, in order; numbered ones that an earlier, larger sweep left are left out, and said to be."""
    found = sorted((path.parent for path in folder.glob("*/results.csv")), key=_order)
    jobs = {str(record.number) for record in records(folder)} if read_facts(folder / "sweep.json") else set()
    left = [path.name for path in found if jobs and path.name.isdigit() and path.name not in jobs]
    if left:
        print(f"dgn: of no job of the sweep, and not joined: {', '.join(left)}", file=sys.stderr)
    return [path for path in found if path.name not in left]


def _drawn(merged: list[PastRun], seeds: int, title: str) -> Image.Image:
    """The grid of all runs."""
    cells = []
    for group in merged:
        there = [row for row in group.rows if inside(group.folder, row["image"])]
        cells += grid_cells(group.folder, there, seeds, suffix=f" · {group.name}" if group.name else "")
    return grid(cells, title)


def _labels(runs: Sequence[PastRun]) -> list[str]:
    """A label a run: overrides that differ between runs, and the run's name where these don't tell it apart."""
    variants = [
        [word for word in run.overrides if not belongs(word.lstrip("+~").split("=", 1)[0], NO_VARIANT)] for run in runs
    ]
    common = set.intersection(*map(set, variants))
    labels = [" ".join(word for word in words if word not in common) for words in variants]
    seen: dict[str, set[tuple[str, str, str]]] = {}
    for index, run in enumerate(runs):
        samples = {(row["unit"], row["prior"], row["seed"]) for row in run.rows}
        start = any(word.startswith("start=") and ".safetensors" in word for word in variants[index])
        if start or samples & seen.get(labels[index], set()):
            labels[index] = f"{labels[index]} {run.folder.name}".strip()
        seen.setdefault(labels[index], set()).update(samples)
    return labels


def _unit_by_unit(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of one run: by prior, then by unit, those of shards in turn, as they were dealt out."""
    priors = list(dict.fromkeys(row["prior"] for row in rows))
    units: dict[str, dict[str, int]] = {}
    places: dict[str, int] = {}
    for row in rows:
        of_job = units.setdefault(row["job"], {})
        place = of_job.setdefault(row["unit"], len(of_job))
        shard = re.search(r"(?:^| )shard=(\d+)/(\d+)", row["overrides"])
        places.setdefault(row["unit"], place * int(shard[2]) + int(shard[1]) - 1 if shard else place)
    return sorted(rows, key=lambda row: (priors.index(row["prior"]), places[row["unit"]], row["unit"]))


def _order(path: Path) -> tuple[int, str]:
    return (int(path.name), "") if path.name.isdigit() else (1 << 62, path.name)
