"""``dgn synthesize``: preferred images of units, one run folder a job."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from dgn.cli.common import choose_device, choose_priors, choose_seeds, open_run, open_tracker, plain
from dgn.network import Network
from dgn.network_sources import load_network
from dgn.report.grid import Cell, grid
from dgn.report.page import page
from dgn.runs import Run, now, surroundings, to_image
from dgn.storage import digest
from dgn.synthesis import Synthesis, synthesize
from dgn.tracking import Tracker, check_mode
from dgn.units import Unit, parse_units

MOST_CURVES = 32
"""Units with a curve of their own in Weights & Biases; more units share one of their mean."""


def run(config: Any) -> None:
    """Everything is checked before the run folder is made; results are written after each prior."""
    check_mode(str(config.tracking.mode))
    values = plain(config)
    device = choose_device(config.device, config.threads)
    network = load_network(
        config.network.name, weights=config.network.weights, input_size=config.network.input_size, device=device
    )
    units = parse_units(values["units"], network)
    seeds = choose_seeds(config)
    climbs = choose_priors(config, network.channels)

    folder = open_run(config)
    tracker: Tracker | None = None
    manifest: dict[str, Any] = {
        "verb": "synthesize", "status": "running", "started": now(), **surroundings(), "device": device,
        "threads": torch.get_num_threads(), "network": network.name, "seeds": seeds,
        "weights": {"network": digest(network.module.state_dict())},
        "ascent": {}, "warnings": [],
    }  # fmt: skip
    try:
        tracker = open_tracker(config, folder)
        rows: list[dict[str, Any]] = []
        cells: list[Cell] = []
        codes: dict[str, torch.Tensor] = {}
        for prior, chosen in climbs:
            started = time.perf_counter()
            with _Bar(prior.name, units, seeds, config.batch, config.progress, tracker) as bar:
                result = synthesize(
                    network, units, prior, ascent=chosen, seeds=seeds, batch=config.batch, on_step=bar.step
                )
            seconds = time.perf_counter() - started
            new = _rows(result, network, seconds)
            cells += _keep(folder, result, new, len(seeds))
            rows += new
            codes[prior.name] = result.codes
            manifest["ascent"][prior.name] = asdict(chosen)
            if prior.weights():
                manifest["weights"][prior.name] = digest(prior.weights())
            manifest["warnings"] += result.warnings
            for line in result.warnings:
                print(f"dgn: {line}", file=sys.stderr)
            folder.write_codes(codes)
            folder.write_table(rows)
            folder.write_manifest(manifest)
        title = f"What units of {network.name} want to see"
        picture = folder.write_picture("grid.png", grid(cells, title))
        folder.write_text("index.html", page(rows, title, shlex.join(manifest["command"])))
        folder.write_manifest({**manifest, "status": "done", "finished": now()})
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
    print(picture)


class _Bar:
    """The progress bar of one prior: steps over all pieces of the batch, with the mean activation; feeds the curves."""

    def __init__(
        self, name: str, units: list[Unit], seeds: list[int], batch: int, shown: bool, tracker: Tracker
    ) -> None:
        self.name, self.tracker, self.shown = name, tracker, shown
        self.rows = [(unit.name, seed) for unit in units for seed in seeds]
        self.batch, self.first, self.bar = batch, 0, tqdm(disable=True)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def step(self, i: int, steps: int, activations: torch.Tensor, _images: torch.Tensor) -> None:
        if i == 0 and self.first == 0:
            pieces = -(-len(self.rows) // self.batch)
            self.bar = tqdm(total=steps * pieces, desc=f"{self.name:>8}", unit="step", disable=not self.shown)
        last = i == steps - 1
        if i % 5 == 0 or last:
            self.bar.set_postfix(activation=f"{float(activations.mean()):.2f}")
        self.bar.update()
        if i % 10 == 0 or last:
            values = {"mean": float(activations.mean())}
            if len(self.rows) <= MOST_CURVES:
                piece = self.rows[self.first : self.first + len(activations)]
                for (unit, seed), value in zip(piece, activations.tolist(), strict=True):
                    values[f"{unit} s{seed}"] = value
            self.tracker.curves(self.name, self.first // self.batch * steps + i, values)
        if last:
            self.first += len(activations)


@torch.no_grad()
def _rows(result: Synthesis, network: Network, seconds: float) -> list[dict[str, Any]]:
    """The table's rows; probability and rank are the network's own, of output units."""
    classes = [unit.class_index for unit in result.units]
    logits = network(result.images.to(network.device)).float().cpu() if any(c is not None for c in classes) else None
    rows = []
    for index, (unit, seed, target) in enumerate(zip(result.units, result.seeds, classes, strict=True)):
        probability: float | str = ""
        rank: int | str = ""
        if logits is not None and target is not None and logits.dim() == 2:
            probability = round(float(logits[index].softmax(0)[target]), 6)
            rank = int((logits[index] > logits[index, target]).sum()) + 1
        frozen = int(result.frozen_at[index])
        rows.append({
            "unit": unit.name, "prior": result.prior, "seed": seed,
            "activation": round(float(result.activations[index]), 5), "probability": probability, "rank": rank,
            "steps": result.history.shape[0], "frozen_at": "" if frozen < 0 else frozen,
            "seconds": round(seconds / len(result.units), 3),
            "image": f"images/{unit.file_name}--{result.prior}--s{seed}.png",
        })  # fmt: skip
    return rows


def _keep(folder: Run, result: Synthesis, rows: list[dict[str, Any]], seeds: int) -> list[Cell]:
    """Write the images; returns the grid's cells."""
    cells = []
    for image, row in zip(result.images, rows, strict=True):
        picture = to_image(image)
        folder.write_picture(row["image"], picture)
        caption = f"{row['activation']:.1f}"
        if row["probability"] != "":
            caption += f"   p {row['probability']:.2f}"
        label = result.prior if seeds == 1 else f"{result.prior} s{row['seed']}"
        cells.append(Cell(row["unit"], label, picture, caption))
    return cells
