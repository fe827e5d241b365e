"""Runs of earlier versions, whose manifest lists no files: which files in the folder the run's own tables name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dgn.files.storage import read_notes
from dgn.runs.patterns import present
from dgn.units.unit import file_name

HEADERS = {
    "synthesize": "unit,prior,seed,activation,probability,rank,steps,frozen_at,seconds,image",
    "facets": "unit,prior,seed,activation,probability,rank,steps,frozen_at,seconds,image",
    "ablate": "image,unit,activation,largest_drop,top,left,deletion_area,insertion_area",
    "examples": "unit,kind,rank,activation,name,index,position,box,image,field",
}
"""Of each verb's table, as those versions wrote it."""


def written(folder: Path, verb: str, patterns: Sequence[str]) -> Iterator[str]:
    """Names of the files that such a run wrote: those at its top by their names, tables by their columns, tensors below
    by their format, and pictures where a table or a finished batch names them. Pages carry a seal of their own.
    """
    named = set(_named(folder, verb))
    for name in present(folder, list(patterns)):
        path = folder / name
        if name in ("results.csv", "examples.csv"):
            ours = _rows(path, verb) is not None
        elif "/" in name and path.suffix == ".safetensors":
            ours = read_notes(path).get("format", "").startswith("dgn-")
        elif name.startswith(("images/", "trajectory/")):
            ours = name in named
        else:
            ours = path.suffix != ".html"
        if ours:
            yield name


def _named(folder: Path, verb: str) -> Iterator[str]:
    rows = _rows(folder / ("examples.csv" if verb == "examples" else "results.csv"), verb) or []
    if verb == "ablate":
        for row in rows:
            stem = f"images/{file_name(row['image'])}--{file_name(row['unit'])}"
            yield from (f"{stem}.png", f"{stem}.csv", f"{stem}--curves.csv")
        return
    for path in (folder / "parts").glob("*.safetensors"):
        notes = read_notes(path)
        if notes.get("format", "").startswith("dgn-part-"):
            with suppress(ValueError, LookupError, TypeError):  # a foreign or broken one names nothing
                rows += [row for row in json.loads(notes["meta"])["rows"] if row["image"]]
    for row in rows:
        yield from (row["image"], row.get("field", ""), f"trajectory/{Path(row['image']).name}")


def _rows(path: Path, verb: str) -> list[dict[str, str]] | None:
    """The rows of a table; None where it is missing or lacks the verb's columns."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, restval="")
            if ",".join(name for name in table.fieldnames or () if name != "facet") != HEADERS.get(verb):
                return None
            return list(table)
    except (OSError, ValueError, csv.Error):
        return None
