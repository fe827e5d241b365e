"""``dgn examples``: the images of a data set that excite units most; the same command with ``out=`` resumes."""

from __future__ import annotations

import csv
import io
from typing import Any

from PIL import Image
from tqdm import tqdm

from dgn.analysis.examples import KINDS, Example, Squares, UnitExamples, crop_box, find_examples, search_warnings
from dgn.analysis.receptive import Box
from dgn.cli.chosen import open_network
from dgn.cli.data import open_data
from dgn.cli.manifest import new_manifest, plain, warn
from dgn.cli.sweeps.resume import at_work
from dgn.errors import DgnError, nearest
from dgn.network.network import Network
from dgn.report.grid import Cell, grid
from dgn.report.table import MOST_CELLS
from dgn.runs.run import Run, now, to_image
from dgn.units.selection import select_units

NAMES = {"top": "best", "bottom": "least", "random": "random, above 0"}


def run(config: Any) -> None:
    """See the data once, then write the table, the pictures and one overview."""
    values = plain(config)
    network, device = open_network(config)
    units = select_units(values["units"], network)
    kinds = list(config.kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise DgnError(f"no kind of examples {kind!r}{nearest(kind, KINDS) or '; expected ' + ', '.join(KINDS)}")
    data = open_data(config.data, network)
    manifest = new_manifest("examples", device, network, images=len(data), warnings=[])
    with at_work(config, manifest) as (folder, tracker):
        state = folder.folder / "examples.safetensors"
        with tqdm(total=len(data), desc="images", unit="image", disable=not config.progress) as bar:
            found, data, broken = find_examples(
                network, units, data, k=config.k, batch=config.batch, workers=config.data.workers, state=state,
                note=lambda seen, _total: bar.update(seen - bar.n),
            )  # fmt: skip
        warn(manifest, search_warnings(found, data, broken, network))
        rows, cells, left_out = _keep(folder, found, data, network, kinds)
        folder.write_text("examples.csv", _table(rows))
        title = f"What excites units of {network.name}"
        if left_out:
            title += f" (the first units; {left_out} more are in images/)"
        picture = folder.write_picture("examples.png", grid(cells, title, columns=12))
        folder.write_manifest({
            **manifest, "status": "done", "finished": now(), "broken_images": broken, "unread": data.unread,
            "units": [{"unit": u.unit.name, "mean": u.mean, "std": u.std, "positive": u.positive} for u in found],
        })  # fmt: skip
        tracker.picture("examples", picture)
        tracker.examples(rows, folder.folder)
    print(picture)


def _keep(
    folder: Run, found: list[UnitExamples], data: Squares, network: Network, kinds: list[str]
) -> tuple[list[dict[str, Any]], list[Cell], int]:
    """Write each example's square and, where it is smaller, the part that its unit's feature sees.

    Returns:
        The table's rows, the overview's cells, and how many units have none, as there are enough.
    """
    rows: list[dict[str, Any]] = []
    cells: list[Cell] = []
    height, width = network.input_size
    left_out = 0
    for one in found:
        shown = len(cells) < MOST_CELLS
        left_out += not shown
        for kind in kinds:
            examples: list[Example] = getattr(one, kind)
            for rank, example in enumerate(examples, 1):
                square = data.tensors([example.index])[0]
                name = f"images/{one.unit.file_name}--{kind}--{rank}.png"
                folder.write_picture(name, to_image(square))
                label = f"{one.unit.name}: {NAMES[kind]}"
                if shown:
                    cells.append(Cell(f"{rank}", label, to_image(square), f"{example.activation:.2f}"))
                part = ""
                if example.box is not None and _area(example.box) < height * width:
                    part = f"images/{one.unit.file_name}--{kind}--{rank}--field.png"
                    seen = to_image(crop_box(square, example.box, network.input_size))
                    folder.write_picture(part, seen)
                    box = f"{example.box[3] - example.box[1]} x {example.box[2] - example.box[0]} px"
                    if shown and _area(example.box) < height * width / 2:  # more would show the same picture twice
                        cells.append(Cell(f"{rank}", f"{label}, receptive field", _padded(seen), box))
                rows.append({
                    "unit": one.unit.name, "kind": kind, "rank": rank, "activation": round(example.activation, 5),
                    "name": example.name, "index": example.index,
                    "position": "" if example.position is None else "{},{}".format(*example.position),
                    "box": "" if example.box is None else "{},{},{},{}".format(*example.box),
                    "image": name, "field": part,
                })  # fmt: skip
    return rows, cells, left_out


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _padded(image: Image.Image) -> Image.Image:
    """On a white square: fields at an edge are no squares."""
    side = max(image.size)
    sheet = Image.new("RGB", (side, side), (255, 255, 255))
    sheet.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return sheet


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    columns = list(rows[0]) if rows else ["unit"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
