"""``dgn gather SWEEP``: the runs of a sweep, shards among them, as one table, grid and gallery."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgn.cli.common import MOST_CELLS, grid_cells, write_page
from dgn.errors import DgnError
from dgn.report.gallery import inside, read_run
from dgn.report.grid import grid
from dgn.runs import COLUMNS, Run

NO_VARIANT = (
    "units", "shard", "seed", "seeds", "prior", "out", "tracking", "tracking.mode", "progress", "resume", "launcher",
    "threads", "device", "batch", "objective", "frames",
)  # fmt: skip
"""Overrides in which runs may differ under one name: the table's columns tell them apart."""


def run(config: Any) -> None:
    """Join the runs below a folder."""
    folder = Path(str(config.sweep))
    if not folder.is_dir():
        raise DgnError(f"no folder {str(folder)!r}")
    for file in gather(folder, title=None if config.title is None else str(config.title)):
        print(file)


def gather(folder: Path, *, title: str | None = None, table_alone: bool = False) -> list[Path]:
    """Write ``results.csv`` (with the columns ``job`` and ``overrides``), ``index.html`` and ``grid.png``.

    Args:
        folder: with a run folder a job, finished or not.
        title: of grid and gallery.
        table_alone: leave out grid and gallery.

    Returns:
        The files.

    Raises:
        DgnError: there is no run of ``dgn synthesize``.
    """
    runs = []
    for path in sorted((path.parent for path in folder.glob("*/results.csv")), key=_order):
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
    joined = Run(folder)
    joined.write_table(rows, (*COLUMNS, "job", "overrides"))
    table = folder / "results.csv"
    if table_alone:
        return [table]
    networks = list(dict.fromkeys(str(one["manifest"].get("network", "?")) for one in runs))
    title = title or f"What units of {', '.join(networks)} want to see"
    seeds = len({row["seed"] for row in rows})
    cells = []
    for label, group in merged.items():
        there = [row for row in group["rows"] if inside(folder, row["image"])]
        cells += grid_cells(folder, there, seeds, suffix=f" · {label}" if label else "")
    lines = len({cell.row for cell in cells})
    picture = joined.write_picture("grid.png", grid(cells, title, most_units=max(8, min(64, MOST_CELLS // lines))))
    page = folder / "index.html"
    write_page(list(merged.values()), page, title)
    return [table, page, picture]


def _labels(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What sets each run apart from the others: the overrides that not all have; its name where those don't."""
    variants = []
    for one in runs:
        words = [str(word) for word in one["manifest"].get("overrides", [])]
        variants.append([word for word in words if word.lstrip("+~").split("=", 1)[0] not in NO_VARIANT])
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
