"""Parts of compare.py: images of the same classes by each library, and photographs accentuated, as judges see them."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import clock, median, peak_memory
from rival_images import ACCENTS, METHODS, Method, Task, installed, made
from torch import Tensor

import dgn
from dgn.drawing.matrix import Cell, grid
from dgn.evaluation.evaluate import load_judges
from dgn.evaluation.instrument import measure
from dgn.evaluation.metrics import kid
from dgn.evaluation.real import load_real
from dgn.evaluation.reference import Made, activations_of_all, look_at
from dgn.images.pictures import to_image
from dgn.images.reading import read_image
from dgn.units.units import parse_units

CLASSES = [173, 279, 403, 502, 546, 604, 735, 815]
"""Every sixth of the fifty classes of docs/results/flow.md, from the fourth on."""
PHOTOGRAPHS = {"balloon": 107, "flamingo": 130}
"""Of docs/photos: the class that each is accentuated towards (a jellyfish, a flamingo)."""
CANVAS, KEPT = 128, "blocks.3.1"
METRICS = ("activation_over_mean", "top1", "top5", "nearest")
REAL = 400
"""Photographs of any class that images are compared with: of single classes there are too few that nothing saw."""


def chosen(methods: dict[str, tuple[str, Method, int]], names: list[str] | None) -> dict[str, tuple[Method, int]]:
    """Those that were asked for and can be run, with the crops that they take by default."""
    asked = {key: row for key, row in methods.items() if not names or any(key.startswith(name) for name in names)}
    there = installed([module for module, _, _ in asked.values()])
    return {key: (method, crops) for key, (module, method, crops) in asked.items() if module in there}


def images(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each class by each method: seconds, memory, and the instrument's figures."""
    methods = chosen(METHODS, options.methods)
    if not methods:
        return []
    if options.real is None:
        raise SystemExit("images needs --real FOLDER: photographs that nothing was trained on, in folders or tar files")
    network = dgn.load_network("efficientnet_lite0", device=options.device)
    units = parse_units(options.classes, network)
    judges = load_judges(options.judges, options.device, trust=True)
    real = load_real(options.real, network.class_names, sight=network.sight, most=REAL)
    reference = look_at(real, network, judges, units)
    rows: list[dict[str, Any]] = [{"method": f"{len(units)} photographs"}]
    for judge in judges:  # as many of the photographs against the others: what KID says of real ones
        seen = reference.verdicts[judge.name].features
        rows[0] |= distance(judge.name, seen[: len(units)], seen[len(units) :])
    for name, (method, default) in methods.items():
        tasks = [Task(network, label, options.image_steps, options.crops or default) for label in options.classes]
        files = [(options.pictures or Path()) / "images" / f"{name} - {unit.name}.png" for unit in units]
        row: dict[str, Any] = {"method": name, "network": network.name}
        if options.pictures and all(file.exists() for file in files):  # made already: its seconds are kept
            found = [read_image(file) for file in files]
        else:
            made(method, replace(tasks[0], steps=2))  # whatever a first call costs
            found, wall, cpu = timed(method, tasks, options)
            row |= {
                "classes": len(units), "canvas": found[0].shape[-1],
                "steps": "its own" if name == "dgn" else options.image_steps,
                "crops a step": tasks[0].crops if default else 1, "crops by default": default or 1,
                "seconds": wall, "cpu seconds": cpu,
                "memory": peak_memory(lambda m=method, t=tasks[0]: made(m, replace(t, steps=2)), options.device),
            }  # fmt: skip
            if default > tasks[0].crops:
                few, more = (timed(method, [replace(tasks[0], steps=s, crops=default)], options)[2] for s in (1, 3))
                row["cpu seconds, default crops"] = (more - few) / 2 * options.image_steps
        own = Made(name, torch.stack(found), units, [0] * len(units))
        for one in measure(own, network, judges, reference):
            if one.metric in METRICS:
                row[f"{one.metric} {one.judge}".strip()] = one.value
        for judge in judges:
            row |= distance(judge.name, judge.see(own.images).features, reference.verdicts[judge.name].features)
        rows.append(row)
        options.note(rows)
        print(json.dumps(row), flush=True)
        show(options.pictures, name, [unit.name for unit in units], found)
    return rows


def distance(judge: str, features: Tensor, real: Tensor) -> dict[str, Any]:
    """KID with its interval, in the instrument's units."""
    scale = real.double().square().mean().sqrt()
    value, low, high = kid(features / scale, real / scale)
    return {f"kid {judge}": value, f"kid {judge} interval": [low, high]}


def timed(method: Method, tasks: list[Task], options: argparse.Namespace) -> tuple[list[Tensor], float, float]:
    """An image of each task, and the median of their seconds: on the wall, and of the processor."""
    found: list[Tensor] = []
    times = [
        clock(lambda task=task: found.append(made(method, task)), options.device)  # type: ignore[misc]
        for task in tasks
    ]
    return found, median([one["wall"] for one in times]), median([one["cpu"] for one in times])


def show(folder: Path | None, row: str, names: list[str], found: list[Tensor], sheet: str = "images") -> None:
    """Keep a method's images, and draw those of all methods that are there, in the order in which they were made."""
    if folder is None:
        return
    home = folder / sheet
    home.mkdir(parents=True, exist_ok=True)
    order = home / "order.json"
    rows = [*(json.loads(order.read_text()) if order.exists() else []), [row, names]]
    rows = list({one[0]: one for one in rows}.values())
    order.write_text(json.dumps(rows))
    for name, image in zip(names, found, strict=True):
        to_image(image).save(home / f"{row} - {name}.png")
    cells = [Cell(name, one, home / f"{one} - {name}.png", "") for one, names in rows for name in names]
    grid(cells, " ").save(folder / f"{sheet}.png")


def accents(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Photographs towards a class, by each method: activation before and after, and how far they have moved."""
    methods = chosen(ACCENTS, options.methods)
    if not methods:
        return []
    network = dgn.load_network("efficientnet_lite0", device=options.device)
    units = parse_units(list(PHOTOGRAPHS.values()), network)
    judges = load_judges(options.judges, options.device, trust=True)
    folder = Path(__file__).parents[1] / "docs" / "photos"
    photos = torch.stack([read_image(folder / f"{name}.webp", CANVAS) for name in PHOTOGRAPHS])
    names, rows = [f"{name} towards {unit.name}" for name, unit in zip(PHOTOGRAPHS, units, strict=True)], []
    show(options.pictures, "photograph", names, list(photos), "accent")

    def seen(found: Tensor) -> dict[str, Any]:
        values = activations_of_all(network, found, units)
        flat: dict[str, Any] = {"activation": [float(values[unit.name][i]) for i, unit in enumerate(units)]}
        flat["pixels moved"] = float((found - photos).square().mean().sqrt())
        for judge in judges:
            verdict, before = judge.see(found), judge.see(photos)
            moved = 1 - torch.cosine_similarity(verdict.features, before.features)
            flat |= {f"rank {judge.name}": verdict.ranks(list(PHOTOGRAPHS.values())).tolist()}
            flat |= {f"moved {judge.name}": float(moved.mean())}
        return flat

    rows.append({"method": "photograph", **seen(photos)})
    for name, (method, default) in methods.items():
        tasks = [
            Task(network, label, options.image_steps, options.crops or default, photo=photo, layer=KEPT)
            for label, photo in zip(PHOTOGRAPHS.values(), photos, strict=True)
        ]
        found, wall, cpu = timed(method, tasks, options)
        rows.append(
            {
                "method": name, "steps": options.image_steps, "crops a step": tasks[0].crops if default else 1,
                "crops by default": default or 1, "seconds": wall, "cpu seconds": cpu, **seen(torch.stack(found)),
            }
        )  # fmt: skip
        options.note(rows)
        print(json.dumps(rows[-1]), flush=True)
        show(options.pictures, name, names, found, "accent")
    return rows
