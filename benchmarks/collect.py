"""What several evaluations found, kept together: a benchmark's methods can be measured in any order, on any day."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

from dgn.cli.main import main as dgn
from dgn.images.pictures import to_image

COLUMNS = {
    ("top1", "efficientnet_lite0"): "lite0, top-1",
    ("top5", "efficientnet_lite0"): "top-5",
    ("top1", "efficientnet_lite2"): "lite2, top-1",
    ("top5", "efficientnet_lite2"): "top-5",
    ("top1", "mobilenet_v1_0.75_192"): "MobileNet, top-1",
    ("top5", "mobilenet_v1_0.75_192"): "top-5",
    ("kid", "mobilenet_v1_0.75_192"): "KID",
    ("nearest", "mobilenet_v1_0.75_192"): "nearest real",
    ("activation_over_best", ""): "activation / best real",
    ("psnr", ""): "PSNR",
    ("seconds", ""): "s an image",
}


def run(*arguments: str) -> None:
    """One command of dgn; ends the program where it fails."""
    code = dgn(list(arguments))
    if code:
        raise SystemExit(code)


def known(results: Path) -> set[str]:
    """Methods that the folder holds figures of."""
    file = results / "figures.csv"
    return {row["method"] for row in csv.DictReader(file.open())} if file.exists() else set()


def merge(results: Path, evaluated: Path, order: list[str]) -> None:
    """Add an evaluation's rows to ``figures.csv`` and write ``table.md`` anew, a row a method, in this order."""
    results.mkdir(parents=True, exist_ok=True)
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for file in (results / "figures.csv", evaluated / "figures.csv"):
        if file.exists():
            with file.open() as lines:
                for row in csv.DictReader(lines):
                    rows[row["method"], row["metric"], row["judge"]] = row
    with (results / "figures.csv").open("w") as file:
        writer = csv.DictWriter(file, list(next(iter(rows.values()))), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())
    found = {method for method, _, _ in rows}
    shown = [key for key in COLUMNS if any((method, *key) in rows for method in order)]
    lines = ["| | " + " | ".join(COLUMNS[key] for key in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for method in [name for name in order if name in found]:
        cells = [_cell(rows.get((method, *key)), key[0]) for key in shown]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    (results / "table.md").write_text("\n".join(lines) + "\n")


def _cell(row: dict[str, str] | None, metric: str) -> str:
    if row is None:
        return ""
    value, low, high = (float(row[key]) for key in ("value", "low", "high"))
    if metric in ("top1", "top5"):
        return f"{value:.0%} ({low:.0%} to {high:.0%})"
    return f"{value:.1f}" if metric in ("seconds", "psnr") else f"{value:.2f}"


def strip(results: Path, evaluated: Path, method: str, every: int) -> None:
    """Every so manieth image of a method side by side, as ``METHOD.webp``."""
    images = load_file(evaluated / "images" / f"{method}.safetensors")["images"][::every].float() / 255
    side = images.shape[3]
    sheet = Image.new("RGB", (side * len(images), side))
    for place, image in enumerate(images):
        sheet.paste(to_image(image).convert("RGB"), (place * side, 0))
    sheet.save(results / f"{method}.webp", quality=80, method=6)


def compose(results: Path, methods: dict[str, str], columns: list[str], title: str) -> None:
    """The strips of several methods below each other, each with what it is called, as ``figure.webp``."""
    from dgn.drawing.charts import render
    from dgn.drawing.matrix import Matrix, draw_matrix

    shown = [method for method in methods if (results / f"{method}.webp").exists()]
    matrix = Matrix([methods[method] for method in shown], columns)
    for row, method in enumerate(shown):
        with Image.open(results / f"{method}.webp") as sheet:
            side = sheet.height
            for column in range(min(len(columns), sheet.width // side)):
                matrix.pictures[row, column] = sheet.crop((column * side, 0, (column + 1) * side, side))
    with Image.open(io.BytesIO(render(draw_matrix(matrix, title=title), "png", dpi=160))) as picture:
        picture.convert("RGB").save(results / "figure.webp", quality=82, method=6)
