"""``dgn examples``: the images of a data set that excite units most; the same command with ``out=`` resumes."""

from __future__ import annotations

from typing import Any

from dgn.analysis.results import KINDS, Example, Examples, example_cells, example_row, field_of
from dgn.cli.chosen import open_network
from dgn.cli.data import look_through, open_data
from dgn.cli.manifest import new_manifest, plain
from dgn.cli.sweeps.resume import at_work
from dgn.cli.trust import build_units
from dgn.drawing.matrix import MOST_CELLS, Cell, grid
from dgn.errors import DgnError, nearest
from dgn.images.pictures import to_image
from dgn.runs.run import Run
from dgn.units.selection import select_units


def run(config: Any) -> None:
    """See the data once, then write the table, the pictures and one overview."""
    values = plain(config)
    network, device = open_network(config)
    units = select_units(build_units(values["units"], trust=config.trust), network)
    kinds = list(config.kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise DgnError(f"no kind of examples {kind!r}{nearest(kind, KINDS) or '; expected ' + ', '.join(KINDS)}")
    data = open_data(config.data, network)
    manifest = new_manifest("examples", device, network, images=len(data))
    with at_work(config, manifest) as (folder, tracker):
        state = folder.folder / "examples.safetensors"
        found = look_through(config, network, units, data, manifest, k=config.k, batch=config.batch, state=state)
        rows, cells, left_out = _keep(folder, found, kinds)
        folder.write_table(rows, list(rows[0]) if rows else ["unit"], "examples.csv")
        title = f"What excites units of {network.name}"
        if left_out:
            title += f" (the first units; {left_out} more are in images/)"
        picture = folder.write_picture("examples.png", grid(cells, title, columns=12))
        manifest |= {"broken_images": found.broken, "unread": data.unread, "units": [
            {"unit": one.unit.name, "mean": one.mean, "std": one.std, "positive": one.positive} for one in found.units
        ]}  # fmt: skip
        tracker.picture("examples", picture)
        tracker.table(
            "examples table", rows, folder.folder, pictures={"image": "image", "field": "field"},
            columns=("unit", "kind", "rank", "activation", "name"),
        )  # fmt: skip
    print(picture)


def _keep(folder: Run, found: Examples, kinds: list[str]) -> tuple[list[dict[str, Any]], list[Cell], int]:
    """Write each example's square and, where it is smaller, the part that its unit's feature sees.

    Returns:
        The table's rows, the overview's cells, and how many units have none, as there are enough.
    """
    rows: list[dict[str, Any]] = []
    cells: list[Cell] = []
    left_out = 0
    for one in found.units:
        shown = len(cells) < MOST_CELLS
        left_out += not shown
        for kind in kinds:
            examples: list[Example] = getattr(one, kind)
            for rank, example in enumerate(examples, 1):
                square = found.data.tensors([example.index])[0]
                stem = f"images/{one.unit.file_name}--{kind}--{rank}"
                folder.write_picture(f"{stem}.png", to_image(square))
                part = field_of(square, example, found.data)
                if part is not None:
                    folder.write_picture(f"{stem}--field.png", part)
                if shown:
                    cells += example_cells(one.unit, kind, rank, example, found.data)
                files = {"image": f"{stem}.png", "field": "" if part is None else f"{stem}--field.png"}
                rows.append(example_row(one.unit, kind, rank, example) | files)
    return rows, cells, left_out
