"""The gallery: one page that holds everything, to be opened from any disk without a server or a network."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dgn.errors import DgnError
from dgn.files.pages import seal
from dgn.resources import resource


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


NOT_OF_ONE_IMAGE = (
    "units", "shard", "prior", "out", "tracking", "progress", "frames", "batch", "resume", "objective", "launcher",
)  # fmt: skip


def reproduce(row: Mapping[str, str], manifest: Mapping[str, Any], place: int = 0) -> str:
    """The command that makes one image again: the run's own overrides, with this unit, prior and seed alone.

    Args:
        row: of ``results.csv``.
        manifest: of the run.
        place: of the row among those of its prior.
    """
    if manifest.get("verb") != "synthesize":
        return shlex.join(["dgn", str(manifest.get("verb", "synthesize")), *manifest.get("overrides", [])])
    unit = row["unit"].replace("\\", "\\\\").replace("'", "\\'")
    kept: list[str] = []
    settings = manifest.get("ascent", {}).get(row["prior"], {})
    alone = not settings.get("diversity")  # seeds that are to differ can't be made alone
    for override in manifest.get("overrides", []):
        key = override.lstrip("+~").split("=", 1)[0]
        if key in NOT_OF_ONE_IMAGE or key.startswith(("launcher.", "hydra")):
            continue
        if key in ("seed", "seeds") and alone:
            continue
        if key == "start" and alone and manifest.get("starts", {}).get(row["prior"], 1) > 1:
            path = override.rstrip("'\"")
            number = place if path.endswith(".safetensors") else place + 1  # facets are counted from 1
            override = f"{path}@{number}{override[len(path) :]}"
        if key.startswith("prior.") and key.split(".")[1] != row["prior"]:
            continue
        kept.append(override)
    known = (resource("conf") / "prior" / f"{row['prior']}.yaml").is_file()
    chosen = f"prior={row['prior']}" if known else "prior=[]"
    return shlex.join(
        ["dgn", "synthesize", f"units=['{unit}']", chosen, *([f"seed={row['seed']}"] if alone else []), *kept]
    )


def page(runs: Sequence[Mapping[str, Any]], title: str) -> str:
    """The HTML of a gallery.

    Units go down, methods (prior, and run where there are several) across; every picture is inside the page.

    Args:
        runs: see :func:`read_run`.
        title: heading.
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
                "i": _uri(file), "c": reproduce(row, run["manifest"], place[row["prior"]]),
            }  # fmt: skip
            strip = file.parent.parent / "trajectory" / file.name
            if strip.is_file():
                cell["t"] = _uri(strip, shrink=True)
            units.setdefault(row["unit"], []).append(cell)
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
