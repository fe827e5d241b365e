"""The gallery: one page that holds everything, to be opened from any disk without a server or a network."""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from dgn.errors import DgnError
from dgn.files.pages import seal
from dgn.files.storage import write_atomic
from dgn.runs.past import PastRun, title_of
from dgn.runs.run import row_name

MOST_IMAGES = 1000
"""Images in a gallery page, which holds them all."""

Command = Callable[[Mapping[str, str], Mapping[str, Any], int], str]
"""What makes an image again: from its row of the table, the run's manifest, and its place among its prior's rows."""


def write_page(runs: Sequence[PastRun], file: Path, command: Command, title: str | None = None) -> None:
    """Runs as one page; of more than :data:`MOST_IMAGES` images those of the first units."""
    shown, left_out = first_units(runs)
    title = title or title_of([*runs])
    if left_out:
        title += f" (the first units; {left_out} more images are in images/)"
    write_atomic(file, page(shown, title, command).encode("utf-8", "backslashreplace"))


def first_units(runs: Sequence[PastRun], most: int = MOST_IMAGES) -> tuple[list[PastRun], int]:
    """The runs with as many of the first units as have ``most`` images, and how many images that leaves out."""
    images = Counter(row["unit"] for run in runs for row in run.rows)  # in the order of their first appearance
    count, kept = 0, set[str]()
    for unit, number in images.items():
        if kept and count + number > most:
            break
        kept.add(unit)
        count += number
    shown = [replace(run, rows=[row for row in run.rows if row["unit"] in kept]) for run in runs]
    return shown, images.total() - count


def page(runs: Sequence[PastRun], title: str, command: Command) -> str:
    """The HTML of a gallery.

    Units go down, methods (prior, and run where there are several) across; every picture is inside the page, and below
    each the command that makes it again.
    """
    folders = [run.folder.resolve() for run in runs]
    times = Counter(folder.name for folder in folders)
    names = [
        run.name or (folder.name if times[folder.name] == 1 else f"{folder.parent.name}/{folder.name}")
        for run, folder in zip(runs, folders, strict=True)
    ]
    methods: dict[tuple[int, str], int] = {}
    units: dict[str, list[dict[str, Any]]] = {}
    for number, run in enumerate(runs):
        places = Counter[str]()
        for row in run.rows:
            place, file = places[row["prior"]], run.folder / row["image"]
            places[row["prior"]] += 1
            column = methods.setdefault((number, row["prior"]), len(methods))
            if not inside(run.folder, row["image"]):
                continue
            cell: dict[str, Any] = {
                "m": column, "s": row["seed"], "a": _number(row["activation"]), "p": _number(row.get("probability")),
                "i": _uri(file), "c": command(row, run.manifest, place),
            }  # fmt: skip
            strip = file.parent.parent / "trajectory" / file.name
            if strip.is_file():
                cell["t"] = _uri(strip, shrink=True)
            units.setdefault(row_name(row), []).append(cell)
    if not units:
        raise DgnError("the runs hold no image; let them finish first")
    heads = [prior if len(runs) == 1 else f"{names[number]} · {prior}" for number, prior in methods]
    data = {"title": title, "methods": heads, "units": [{"n": unit, "x": cells} for unit, cells in units.items()]}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    template = Path(__file__).with_name("gallery.html").read_text(encoding="utf-8")
    return seal(template.replace("/*DATA*/", text))


def inside(folder: Path, name: str) -> bool:
    """Whether a table's name of a picture means a file in the run's folder, and none elsewhere."""
    file = folder / name
    return file.is_file() and file.resolve().is_relative_to(folder.resolve())


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _uri(path: Path, *, shrink: bool = False) -> str:
    """A picture as a data URI: as it is, or (trajectories) as WebP."""
    data, kind = path.read_bytes(), "png"
    if shrink:
        with Image.open(path) as image:
            file = io.BytesIO()
            image.convert("RGB").save(file, "WEBP", quality=85)
        data, kind = file.getvalue(), "webp"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
