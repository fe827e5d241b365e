"""The table of an ascent, and the grid's cells that are made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dgn.drawing.letters import number
from dgn.drawing.matrix import Cell
from dgn.images.pictures import to_image
from dgn.images.reading import read_image
from dgn.memory import in_batches
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.network.scores import log_probabilities
from dgn.network.steady import steadiness
from dgn.runs.run import row_name
from dgn.synthesis.result import Synthesis
from dgn.units.units import class_unit


@torch.no_grad()
def result_rows(result: Synthesis, network: Network, seconds: float, batch: int | None = None) -> list[dict[str, Any]]:
    """The table's rows; probability and rank are the network's own, of output units."""
    classes = [unit.class_index for unit in result.units]
    logits = None
    if network.scores != "none" and any(target is not None for target in classes):
        logits = in_batches(
            lambda images: network(images.to(network.device)).float().cpu(), result.images,
            steadiness(network, [OUTPUT]).batch(batch or len(classes)),
        )  # fmt: skip
    steps = sum(stage.steps for _, stage in result.settings.stages())
    rows = []
    for index, (unit, seed, target) in enumerate(zip(result.units, result.seeds, classes, strict=True)):
        probability: float | str = ""
        rank: int | str = ""
        log_probability: float | None = None
        if logits is not None and target is not None and logits.dim() == 2:
            log_probability = float(log_probabilities(logits[index], network.scores)[target])
            probability = round(math.exp(log_probability), 6)
            rank = int((logits[index] > logits[index, target]).sum()) + 1
        frozen = int(result.frozen_at[index])
        rows.append({
            "unit": unit.name, "prior": result.prior, "seed": seed,
            "activation": round(float(result.activations[index]), 5), "probability": probability, "rank": rank,
            "steps": steps, "frozen_at": "" if frozen < 0 else frozen,
            "seconds": round(seconds / len(result.units), 3),
            "image": f"images/{unit.file_name}--{result.prior}--s{seed}.png", "log_probability": log_probability,
        })  # fmt: skip
    return rows


def grid_cells(folder: Path, rows: Sequence[Mapping[str, Any]], seeds: int, suffix: str = "") -> list[Cell]:
    """The grid's cells, whose images are read from their files one by one when it is drawn.

    Args:
        folder: in which the images are.
        rows: of the table.
        seeds: how many there are; of several, each has a row of its own.
        suffix: to the row's name.
    """
    cells = []
    for row in rows:
        caption = number(float(row["activation"]))
        if row["probability"] not in ("", None):
            caption += f", p {float(row['probability']):.2f}"
        label = str(row["prior"]) if seeds == 1 else f"{row['prior']} s{row['seed']}"
        cells.append(Cell(row_name(row), label + suffix, folder / str(row["image"]), caption))
    return cells


def target_cells(network: Network, rows: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The images with which outputs are compared, of those units that are in the table: a row above the images made."""
    units, texts = {str(row["unit"]) for row in rows}, len(network.targets.texts)
    named = {class_unit(texts + at, network).name: Path(path) for at, path in enumerate(network.targets.images)}
    return [
        Cell(name, "image", to_image(read_image(path, network.sight)), "")
        for name, path in named.items() if name in units and path.is_file()
    ]  # fmt: skip
