"""The gallery: one page that holds everything, to be opened from any disk without a server or a network."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dgn.errors import DgnError
from dgn.files.pages import seal
from dgn.files.storage import write_atomic
from dgn.runs.run import row_name


def read_run(folder: Path) -> dict[str, Any]:
    """A run folder's table and manifest.

    Raises:
        DgnError: no such folder, or none of ``dgn synthesize``.
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
    needed = {"unit", "prior", "seed", "activation", "image"}
    if rows and not needed <= set(rows[0]):
        raise DgnError(
            f"{str(table)!r} has no columns {', '.join(sorted(needed - set(rows[0])))}: not of dgn synthesize"
        )
    return {"folder": folder, "rows": rows, "manifest": facts}


Command = Callable[[Mapping[str, str], Mapping[str, Any], int], str]
"""What makes an image again: from its row of the table, the run's manifest, and its place among its prior's rows."""


def page(runs: Sequence[Mapping[str, Any]], title: str, command: Command) -> str:
    """The HTML of a gallery.

    Units go down, methods (prior, and run where there are several) across; every picture is inside the page, and below
    each the command that makes it again.
    """
    folders = [Path(run["folder"]).resolve() for run in runs]
    plain = [folder.name for folder in folders]
    names = [
        str(
            run.get("name") or (folder.name if plain.count(folder.name) == 1 else f"{folder.parent.name}/{folder.name}")
        )
        for run, folder in zip(runs, folders, strict=True)
    ]
    methods: dict[tuple[int, str], int] = {}
    units: dict[str, list[dict[str, Any]]] = {}
    missing = []
    for number, run in enumerate(runs):
        place: dict[str, int] = {}
        for row in run["rows"]:
            key = (number, row["prior"])
            place[row["prior"]] = place.get(row["prior"], -1) + 1
            column = methods.setdefault(key, len(methods))
            file = Path(run["folder"]) / row["image"]
            if not inside(Path(run["folder"]), row["image"]):
                missing.append(str(row["image"]))
                continue
            cell: dict[str, Any] = {
                "m": column, "s": row["seed"], "a": _number(row["activation"]), "p": _number(row.get("probability")),
                "i": _uri(file), "c": command(row, run["manifest"], place[row["prior"]]),
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
        value = float(text) if text not in (None, "") else None
        return value if value is not None and math.isfinite(value) else None
    except ValueError:
        return None


def _uri(path: Path, *, shrink: bool = False) -> str:
    """A picture as a data URI: as it is, or (trajectories) as WebP."""
    data, kind = path.read_bytes(), "png"
    if shrink:
        with Image.open(path) as image:
            file = io.BytesIO()
            image.convert("RGB").save(file, "WEBP", quality=85)
        data, kind = file.getvalue(), "webp"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def write_gallery(folders: Sequence[Path], file: Path, command: Command, title: str | None = None) -> None:
    """Runs as one page; see :mod:`dgn.report.gallery`."""
    write_page([read_run(folder) for folder in folders], file, command, title)


def write_page(runs: list[dict[str, Any]], file: Path, command: Command, title: str | None = None) -> None:
    """:func:`write_gallery` of runs that were read already."""
    left_out = shorten_runs(runs)
    networks = list(dict.fromkeys(str(run["manifest"].get("network", "?")) for run in runs))
    title = title or f"What units of {', '.join(networks)} want to see"
    if left_out:
        title += f" (the first units; {left_out} more images are in images/)"
    write_atomic(file, page(runs, title, command).encode("utf-8", "backslashreplace"))


MOST_IMAGES = 1000
"""Images in a gallery page, which holds them all."""


def shorten_runs(runs: list[dict[str, Any]]) -> int:
    """Leave the first units of runs that hold more than :data:`MOST_IMAGES`; returns how many images are left out."""
    total = sum(len(run["rows"]) for run in runs)
    if total <= MOST_IMAGES:
        return 0
    images: dict[str, int] = {}
    for run in runs:
        for row in run["rows"]:
            images[row["unit"]] = images.get(row["unit"], 0) + 1
    count, kept = 0, set[str]()
    for unit, number in images.items():
        if kept and count + number > MOST_IMAGES:
            break
        kept.add(unit)
        count += number
    for run in runs:
        run["rows"] = [row for row in run["rows"] if row["unit"] in kept]
    return total - count
