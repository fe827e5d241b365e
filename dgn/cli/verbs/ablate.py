"""``dgn ablate``: which parts of an image does a unit need?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dgn.analysis.ablation import Ablation, Curve, ablate, curves, first_choice, patch_sizes
from dgn.cli.chosen import open_network
from dgn.cli.data import counting, paths
from dgn.cli.manifest import new_manifest, plain
from dgn.cli.sweeps.resume import at_work
from dgn.cli.trust import build_units
from dgn.drawing.charts import draw_lines, render
from dgn.drawing.heat import overlay
from dgn.drawing.matrix import draw_matrix
from dgn.errors import DgnError
from dgn.files.listing import printable
from dgn.images.reading import read_image, suffixes
from dgn.network.network import Network
from dgn.report.ablation import COLUMNS, Ablated, curve_panels, overview, results
from dgn.runs.past import read_run
from dgn.runs.run import Run
from dgn.units.unit import Unit, file_name
from dgn.units.units import parse_units


def run(config: Any) -> None:
    """One heat map, overlay and pair of curves an image, and one overview."""
    values = plain(config)
    network, device = open_network(config)
    jobs = _jobs(values, network)
    size, stride = patch_sizes(values["size"], values["stride"], network.input_size)
    manifest = new_manifest("ablate", device, network)
    with at_work(config, manifest) as (folder, tracker):
        found: list[Ablated] = []
        for name, image, unit in jobs:
            with tqdm(desc=f"{name}: patches", unit="patch", disable=not config.progress) as bar:
                one = ablate(
                    network, image, unit, size=size, stride=stride, fill=str(config.fill), seed=config.seed,
                    batch=config.batch, note=counting(bar),
                )  # fmt: skip
            both = curves(
                network, one, steps=config.curve_steps, fill=str(config.curve_fill), seed=config.seed,
                batch=config.batch,
            ) if config.curve_steps else None  # fmt: skip
            found.append((name, one, both))
            _keep(folder, name, one, both)
            folder.write_table(results(found), COLUMNS)
        canvas = draw_matrix(overview(found), title=f"What {network.name} needs: drop of the activation when covered")
        for form in ("pdf", "png"):
            folder.write(f"ablation.{form}", render(canvas, form))
        if config.curve_steps:
            folder.write("curves.png", render(draw_lines(curve_panels(found)), "png"))
        tracker.picture("ablation", folder.folder / "ablation.png")
    print(folder.folder / "ablation.png")


def _jobs(values: dict[str, Any], network: Network) -> list[tuple[str, torch.Tensor, Unit]]:
    """Images with their names and the unit to look for: the given one, that of a run's image, or the first choice.

    An image that can't be read is named and left out; only if none is left, it is an error.
    """
    files: list[Path] = []
    made_for: dict[Path, str] = {}
    for path in paths(values["image"]):
        if path.is_dir():
            inside = path
            if (path / "results.csv").is_file() and (path / "manifest.json").is_file():
                inside = path / "images"
                made_for |= {path / row["image"]: row["unit"] for row in read_run(path).rows if row["image"]}
            found = sorted(file for file in inside.iterdir() if file.suffix.lower() in suffixes())
            if not found:
                raise DgnError(f"no images in {str(inside)!r}")
            files += found
        else:
            files.append(path)
    if not files:
        raise DgnError("no image given; give image=FILE, image=FOLDER or image=[FILE,...]")
    asked = build_units(values["unit"], trust=values["trust"])
    unit = None if asked is None else parse_units([asked], network)[0]
    jobs: list[tuple[str, torch.Tensor, Unit]] = []
    stems = [printable(path.stem) for path in files]
    network.sight.check()
    for number, path in enumerate(files, 1):
        try:
            image = read_image(path, network.sight)
        except DgnError as error:
            if number == len(files) and not jobs:
                raise
            print(f"dgn: left out: {error}", file=sys.stderr)
            continue
        own = parse_units([made_for[path]], network)[0] if unit is None and path in made_for else unit
        name = stems[number - 1] if stems.count(stems[number - 1]) == 1 else f"{stems[number - 1]}-{number}"
        jobs.append((name, image, own or first_choice(network, image)))
    return jobs


def _keep(folder: Run, name: str, one: Ablation, both: tuple[Curve, Curve] | None) -> None:
    stem = f"images/{file_name(name)}--{one.unit.file_name}"
    folder.write_picture(f"{stem}.png", overlay(one.image, one.heat))
    table = "\n".join(",".join(f"{value:.6g}" for value in row) for row in one.drops.tolist()) + "\n"
    folder.write_text(f"{stem}.csv", table)
    if both is not None:
        names = ("share", "deletion", "insertion")
        columns = zip(both[0].shares, both[0].activations, both[1].activations, strict=True)
        rows = [{key: f"{value:.6g}" for key, value in zip(names, values, strict=True)} for values in columns]
        folder.write_table(rows, names, f"{stem}--curves.csv")
