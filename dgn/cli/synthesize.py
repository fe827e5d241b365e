"""``dgn synthesize``: preferred images of units, one run folder a job."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dgn.ascent.rules import IN_RAW_CODE
from dgn.cli.common import (
    Bar,
    choose_priors,
    choose_seeds,
    keep_images,
    new_manifest,
    open_network,
    open_run,
    open_tracker,
    plain,
    result_rows,
    write_gallery,
)
from dgn.errors import DgnError
from dgn.images import read_image
from dgn.priors import Prior
from dgn.report.grid import Cell, grid
from dgn.runs import Run, now, to_image
from dgn.storage import digest, read_notes, read_tensors
from dgn.synthesis import Synthesis, synthesize
from dgn.tracking import Tracker
from dgn.units import parse_units


def run(config: Any) -> None:
    """Everything is checked before the run folder is made; results are written after each prior."""
    values = plain(config)
    network, device = open_network(config)
    units = parse_units(values["units"], network)
    seeds = choose_seeds(config)
    climbs = choose_priors(config, network.channels)
    starts = [_start(config.start, prior, chosen.rule) for prior, chosen in climbs]
    frames = (0 if config.start in (None, "random") else 8) if config.frames is None else int(config.frames)
    if frames < 0:
        raise DgnError(f"frames is {frames}, expected 0 or more")

    folder = open_run(config)
    tracker: Tracker | None = None
    manifest = new_manifest(
        "synthesize", device, network, threads=torch.get_num_threads(), seeds=seeds, ascent={}, warnings=[]
    )
    try:
        tracker = open_tracker(config, folder)
        rows: list[dict[str, Any]] = []
        cells: list[Cell] = []
        codes: dict[str, torch.Tensor] = {}
        coordinates: dict[str, str] = {}
        for (prior, chosen), start in zip(climbs, starts, strict=True):
            started = time.perf_counter()
            with Bar(prior.name, units, seeds, config.batch, config.progress, tracker) as bar:
                result = synthesize(
                    network, units, prior, ascent=chosen, seeds=seeds, batch=config.batch, start=start,
                    frames=frames, on_step=bar.step,
                )  # fmt: skip
            seconds = time.perf_counter() - started
            new = result_rows(result, network, seconds)
            cells += keep_images(folder, result, new, len(seeds))
            if frames:
                _strips(folder, result, new)
            rows += new
            codes[prior.name], coordinates[prior.name] = result.codes, result.coordinates
            manifest["ascent"][prior.name] = asdict(chosen)
            if prior.weights():
                manifest["weights"][prior.name] = digest(prior.weights())
            manifest["warnings"] += result.warnings
            for line in result.warnings:
                print(f"dgn: {line}", file=sys.stderr)
            folder.write_codes(codes, coordinates)
            folder.write_table(rows)
            folder.write_manifest(manifest)
        title = f"What units of {network.name} want to see"
        picture = folder.write_picture("grid.png", grid(cells, title))
        folder.write_manifest({**manifest, "status": "done", "finished": now()})
        write_gallery([folder.folder], folder.folder / "index.html", title)
        tracker.picture("grid", picture)
        tracker.table(rows, folder.folder)
        tracker.finish()
    except BaseException:
        if tracker is not None:
            tracker.finish(failed=True)
        if (folder.folder / "results.csv").exists():
            folder.write_manifest({**manifest, "status": "failed", "finished": now()})
        folder.discard()
        raise
    print(folder.folder / "index.html")
    print(picture)


def _start(given: Any, prior: Prior, rule: str) -> torch.Tensor | None:
    """Where to begin: an image, codes of a past run (``FILE`` or ``FILE@ROW``), a facets run (``FOLDER@FACET``)."""
    if given is None or str(given) == "random":
        return None
    name, _, row = str(given).partition("@") if re.search(r"@\d+$", str(given)) else (str(given), "", "")
    path = Path(name)
    if path.is_dir():
        path = path / "starts.safetensors"
        if not path.is_file():
            raise DgnError(f"{name!r} is no folder of a dgn facets run: it lacks starts.safetensors")
    if path.suffix != ".safetensors":
        return read_image(path, max(256, *prior.size))
    codes = read_tensors(path)
    if prior.name not in codes:
        raise DgnError(f"{str(path)!r} holds no codes of prior {prior.name!r}; it has {', '.join(codes)}")
    code = codes[prior.name]
    if row:
        first = 1 if path.name == "starts.safetensors" else 0  # facets are counted from 1
        if not first <= int(row) < len(code) + first:
            raise DgnError(f"{str(path)!r} holds {len(code)} codes of {prior.name!r}, no {row}")
        code = code[int(row) - first][None]
    climbed = prior.raw() if rule in IN_RAW_CODE else prior
    return climbed.convert(code, read_notes(path).get(prior.name, climbed.coordinates))


def _strips(folder: Run, result: Synthesis, rows: list[dict[str, Any]]) -> None:
    """The way of each image: its frames side by side, the activation below each."""
    for index, row in enumerate(rows):
        cells = [
            Cell(f"step {step}", result.prior, to_image(frame[index]), f"{float(result.history[step, index]):.1f}")
            for frame, step in zip(result.frames, result.frame_steps, strict=True)
        ]
        picture = grid(cells, f"{row['unit']}, seed {row['seed']}", columns=len(cells), tile=128)
        folder.write_picture(f"trajectory/{Path(row['image']).name}", picture)
