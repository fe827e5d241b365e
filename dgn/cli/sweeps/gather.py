"""The runs of a sweep, shards among them, as one table, grid and gallery."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
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
from dgn.report.gallery import inside, read_run, write_page
from dgn.report.table import grid_cells
from dgn.runs.run import COLUMNS, Run, now

NO_VARIANT = RUN | KEPT | MACHINE | ROWS
"""Overrides in which runs may differ under one name: the table's columns tell them apart."""


def gather(folder: Path, *, title: str | None = None, table_alone: bool = False) -> list[Path]:
    """Write ``results.csv`` (with the columns ``job`` and ``overrides``) and, unless the table is wanted alone,
    ``index.html`` and ``grid.png``; returns their paths. To be called with the folder's lock.

    Raises:
        DgnError: there is no run of ``dgn synthesize``.
    """
    runs = []
    for path in _folders(folder):
        found = read_run(path)
        if found["manifest"].get("verb") == "synthesize":
            runs.append(found)
    if not runs:
        raise DgnError(f"no run of dgn synthesize below {str(folder)!r}")
    labels = _labels(runs)
    merged: dict[str, dict[str, Any]] = {}
    for one, label in zip(runs, labels, strict=True):
        manifest = one["manifest"]
        group = merged.setdefault(label, {"folder": folder, "rows": [], "manifest": manifest, "name": label})
        for row in one["rows"]:
            job = one["folder"].name
            overrides = " ".join(manifest.get("overrides", []))
            group["rows"].append({**row, "image": f"{job}/{row['image']}", "job": job, "overrides": overrides})
    for group in merged.values():
        group["rows"] = _unit_by_unit(group["rows"])
    rows = [row for group in merged.values() for row in group["rows"]]
    title = title or f"What units of {_networks(merged)} want to see"
    picture = None if table_alone else png(_drawn(folder, list(merged.values()), rows, title))
    joined = Run(folder, JOINED[:1] if table_alone else JOINED, FILE)
    joined.take_up("gather", beside=True)
    joined.check_way()
    facts = {"verb": "gather", "status": "done", "started": now()}
    joined.write_manifest(facts)
    with joined.ledger:
        joined.write_table(rows, COLUMNS_JOINED)
        files = [folder / "results.csv"]
        if picture is not None:
            write_page(list(merged.values()), folder / "index.html", reproduce, title)
            joined.write("grid.png", picture)
            files += [folder / "index.html", folder / "grid.png"]
    joined.write_manifest(facts)
    return files


FILE, COLUMNS_JOINED = "gather.json", (*COLUMNS, "job", "overrides")


def _folders(folder: Path) -> list[Path]:
    """Those of the runs, in order; numbered ones that an earlier, larger sweep left are left out, and said to be."""
    found = sorted((path.parent for path in folder.glob("*/results.csv")), key=_order)
    jobs = {str(record.number) for record in records(folder)} if read_facts(folder / "sweep.json") else set()
    left = [path.name for path in found if jobs and path.name.isdigit() and path.name not in jobs]
    if left:
        print(f"dgn: of no job of the sweep, and not joined: {', '.join(left)}", file=sys.stderr)
    return [path for path in found if path.name not in left]


def _networks(merged: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(group["manifest"].get("network", "?")) for group in merged.values()))


def _drawn(folder: Path, merged: list[dict[str, Any]], rows: list[dict[str, Any]], title: str) -> Image.Image:
    """The grid of all runs."""
    seeds = len({row["seed"] for row in rows})
    cells = []
    for group in merged:
        there = [row for row in group["rows"] if inside(folder, row["image"])]
        cells += grid_cells(folder, there, seeds, suffix=f" · {group['name']}" if group["name"] else "")
    return grid(cells, title)


def _labels(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A label a run: overrides that differ between runs, and the run's name where these don't tell it apart."""
    variants = []
    for one in runs:
        words = [str(word) for word in one["manifest"].get("overrides", [])]
        variants.append([word for word in words if not belongs(word.lstrip("+~").split("=", 1)[0], NO_VARIANT)])
    common = set.intersection(*(set(words) for words in variants))
    labels = [" ".join(word for word in words if word not in common) for words in variants]
    seen: dict[str, set[tuple[str, str, str]]] = {}
    for index, one in enumerate(runs):
        samples = {(row["unit"], row["prior"], row["seed"]) for row in one["rows"]}
        start = any(word.startswith("start=") and ".safetensors" in word for word in variants[index])
        if start or samples & seen.get(labels[index], set()):
            labels[index] = f"{labels[index]} {one['folder'].name}".strip()
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
