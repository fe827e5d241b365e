"""The kinds of figures: what is synthesised, measured and shown by each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dgn.analysis.ablation import ablate, curves, first_choice
from dgn.analysis.atlas import atlas
from dgn.analysis.facets import cluster, late_features, mean_codes
from dgn.analysis.results import Example
from dgn.ascent.rules import written_for
from dgn.cli.bar import climb
from dgn.cli.chosen import LOOKED_AT, choose_priors
from dgn.cli.data import counting, look_through, open_data, paths, refuse_references
from dgn.cli.manifest import warn
from dgn.drawing.charts import Lines
from dgn.drawing.heat import overlay
from dgn.drawing.matrix import Matrix
from dgn.drawing.mosaic import Mosaic
from dgn.errors import DgnError
from dgn.images.fit import Sight
from dgn.images.pictures import to_image
from dgn.images.reading import read_image
from dgn.network.network import Network
from dgn.priors import Prior
from dgn.report.ablation import Ablated, curve_panels, overview
from dgn.report.facets import facets_matrix
from dgn.report.table import result_rows
from dgn.synthesis.plan import plan
from dgn.synthesis.result import Synthesis
from dgn.units.units import parse_units

Rows = list[dict[str, Any]]
Made = tuple[Matrix | Mosaic | list[Lines], Rows, str]
"""What is drawn, the table behind it, and the title where none is given."""


@dataclass
class Studio:
    """What a figure is made with: its configuration's own keys are ``values``."""

    config: Any
    network: Network
    values: dict[str, Any]
    manifest: dict[str, Any]

    def climb(
        self, label: str, entry: dict[str, Any], units: list[Any], start_of: Callable[[Prior], Tensor] | None = None,
        *, seeds: list[int] | None = None, frames: int = 0,
    ) -> Iterator[tuple[Synthesis, Rows]]:  # fmt: skip
        """Synthesise units with each prior of a row (``prior``, ``ascent``, ``seed``, where no seeds are given)."""
        config = OmegaConf.merge(self.config, {"ascent": entry.get("ascent") or {}})
        OmegaConf.update(config, "prior", entry["prior"], merge=False)
        refuse_references(config, "figure")
        for prior, settings in choose_priors(config, self.network):
            job = plan(
                self.network, units, prior, ascent=settings, seeds=seeds or [int(entry.get("seed", config.seed))],
                batch=config.batch, start=start_of and start_of(written_for(prior, settings.rule)),
            ).keeping(frames)  # fmt: skip
            self.manifest.setdefault("precision", {})[f"{label}: {prior.name}"] = job.settings.precision
            result = climb(job, label, config.progress)
            warn(self.manifest, result.warnings)
            rows = result_rows(result, self.network, 0.0, config.batch)
            unsaid = ("image", "seconds")  # of no meaning here, and never the same twice
            yield result, [{key: value for key, value in row.items() if key not in unsaid} for row in rows]

    def best_examples(self, units: list[Any], k: int) -> tuple[Tensor, list[list[Example]]]:
        """The best real examples of each unit: as the network sees them, ``[U * k, C, H, W]``, unit by unit."""
        batch, data = min(self.config.batch, LOOKED_AT), open_data(self.config.data, self.network)
        asked = parse_units(units, self.network)
        found, data, _ = look_through(self.config, self.network, asked, data, self.manifest, k=k, batch=batch)
        for one in found:
            one.check()
        return data.tensors([example.index for one in found for example in one.top]), [one.top for one in found]

    def shown(self, image: Tensor, unit: Any, entry: dict[str, Any]) -> Tensor | Image.Image:
        """An image, or with ``ablate`` what the unit loses when a part of it is covered, laid over it."""
        if not entry.get("ablate"):
            return image
        one = ablate(self.network, image, unit, batch=min(int(self.config.batch), LOOKED_AT))
        return overlay(one.image, one.heat)

    def images(self, sight: Sight) -> list[tuple[str, Tensor]]:
        """The images that the figure is about, as they are to be seen, by their names."""
        given = paths(self.values.get("images"))
        if not given:
            raise DgnError("this figure shows images of yours: give figure.images=[FILE,...]")
        return [(path.stem, read_image(path, sight)) for path in given]


def _matrix(studio: Studio) -> Made:
    """Rows of methods (or layers, or seeds), columns of units."""
    values, table = studio.values, Rows()
    units, entries = values.get("units") or [], {str(label): entry or {} for label, entry in values["rows"].items()}
    across = max(len(entry.get("units") or units) for entry in entries.values())
    columns = [unit.name for unit in parse_units(units, studio.network)] if units else [""] * across
    matrix = Matrix(list(entries), columns)

    def put(row: int, column: int, image: Tensor | Image.Image, facts: dict[str, Any]) -> None:
        matrix.pictures[row, column] = to_image(image) if isinstance(image, Tensor) else image
        matrix.captions[row, column] = f"{facts['activation']:.1f}"
        table.append({"row": matrix.rows[row], **facts})

    for row, (label, entry) in enumerate(entries.items()):
        own = entry.get("units") or units
        if entry.get("examples"):
            rank = int(entry["examples"])
            squares, found = studio.best_examples(own, rank)
            for column, (square, best) in enumerate(zip(squares.split(rank), found, strict=True)):
                one = best[-1]
                put(row, column, studio.shown(square[-1], own[column], entry), {
                    "unit": columns[column], "prior": "real", "seed": "", "activation": round(one.activation, 5),
                    "example": one.name,
                })  # fmt: skip
            continue
        for result, rows in studio.climb(label, entry, own):
            for column, (image, facts) in enumerate(zip(result.images, rows, strict=True)):
                put(row, column, image, facts)
                if not units:  # each row has units of its own
                    layer, _, index = facts["unit"].rpartition(":")
                    matrix.names[row, column] = f"unit {index}" if layer else index
    if values.get("transposed") and studio.config.width == "page":  # a column is too narrow for so many
        matrix = matrix.transposed()
    return matrix, table, ""


def _facets(studio: Studio) -> Made:
    """Each facet's real examples beside its mean image and its synthesis."""
    values, table = studio.values, Rows()
    unit = parse_units([values["unit"]], studio.network)[0]
    images, _ = studio.best_examples([values["unit"]], int(values["examples"]))
    facets = cluster(late_features(studio.network, images), values.get("facets"), seed=int(studio.config.seed))
    matrix = facets_matrix(images, facets, int(values.get("shown", 4)))
    for label, entry in values["rows"].items():
        starts = lambda prior: mean_codes(prior, images, facets)  # noqa: E731
        for result, rows in studio.climb(label, entry, [unit] * facets.count, starts):
            matrix.columns.append(str(label))
            for row, (image, facts) in enumerate(zip(result.images, rows, strict=True)):
                matrix.pictures[row, len(matrix.columns) - 1] = to_image(image)
                table.append({"facet": row + 1, "row": label, **facts, "silhouette": round(facets.silhouette, 4)})
    return matrix, table, f"Facets of {unit.name}"


def _ablation(studio: Studio) -> Made:
    """Images, and what the unit loses when a part of them is covered."""
    values, network, config, table = studio.values, studio.network, studio.config, Rows()
    how: dict[str, Any] = {"seed": int(config.seed), "batch": min(int(config.batch), LOOKED_AT)}
    found: list[Ablated] = []
    for name, image in studio.images(network.sight):  # as dgn ablate reads them
        unit = first_choice(network, image) if values.get("unit") is None else values["unit"]
        size, stride, fill = values.get("size"), values.get("stride"), str(values["fill"])
        with tqdm(desc=f"{name}: patches", unit="patch", disable=not config.progress) as bar:
            one = ablate(network, image, unit, size=size, stride=stride, fill=fill, note=counting(bar), **how)
        both = curves(network, one, **how) if values.get("curves") else None
        found.append((name, one, both))
        facts = {"image": name, "unit": one.unit.name}
        table += [
            {**facts, "curve": curve.kind, "share": round(share, 5), "activation": round(value, 5)}
            for curve in both or () for share, value in zip(curve.shares, curve.activations, strict=True)
        ] or [
            {**facts, "activation": round(one.activation, 5), "top": y * one.stride[0], "left": x * one.stride[1],
             "drop": round(drop, 5)}
            for y, row in enumerate(one.drops.tolist()) for x, drop in enumerate(row)
        ]  # fmt: skip
    return curve_panels(found) if values.get("curves") else overview(found), table, ""


def _convergence(studio: Studio) -> Made:
    """Activation of the images on the way, mean over units and seeds, the band from the lowest to the highest quarter.

    Read at the network's own size without transformations, as results are: what a method's own loop sees is smaller or
    transformed, and can't be compared. Of several starts, the way of the one that went on, from its race's end.
    """
    values, table = studio.values, Rows()
    panel = Lines(str(values.get("panel", "")), "step", "activation")
    seeds, frames = list(range(int(values.get("seeds", 2)))), int(values.get("frames", 24))
    for label, entry in values["rows"].items():
        for result, _ in studio.climb(label, entry, values["units"], seeds=seeds, frames=frames):
            steps, way = result.frame_steps, result.frame_activations
            low, high = way.quantile(torch.tensor([0.25, 0.75]), dim=1).tolist()
            panel.curves[str(label)], panel.bands[str(label)] = (steps, way.mean(1).tolist()), (low, high)
            table += [
                {"row": label, "unit": unit.name, "seed": seed, "step": step, "activation": round(value, 5)}
                for unit, seed, column in zip(result.units, result.seeds, way.T.tolist(), strict=True)
                for step, value in zip(steps, column, strict=True)
            ]
    return [panel], table, ""


def _start(studio: Studio) -> Made:
    """The way from real images to what a unit prefers."""
    values, table = studio.values, Rows()
    images, matrix = studio.images(studio.network.sight.at_least(256)), Matrix([], ["image"])
    for name, image in images:
        for label, entry in values["rows"].items():
            frames, begin = int(values.get("frames", 7)), lambda _: image  # noqa: B023
            for result, _ in studio.climb(label, entry, [values["unit"]], begin, frames=frames):
                row = len(matrix.rows)
                matrix.rows.append(f"{name}, {label}" if len(images) > 1 else str(label))
                matrix.columns = ["image"] + [f"step {step}" for step in result.frame_steps]
                matrix.pictures[row, 0] = to_image(image)
                way = zip(result.frames[:, 0], result.frame_steps, result.frame_activations[:, 0].tolist(), strict=True)
                for column, (frame, step, value) in enumerate(way, 1):
                    matrix.pictures[row, column], matrix.captions[row, column] = to_image(frame), f"{value:.1f}"
                    table.append({"image": name, "row": label, "step": step, "activation": round(value, 5)})
    return matrix, table, f"Towards {parse_units([values['unit']], studio.network)[0].name}"


ATLAS_KEYS: dict[str, tuple[type, ...]] = {
    "position": (str,), "method": (str,), "grid": (int, type(None)), "fewest": (int,), "whiten": (bool,),
    "cosine": (float, int),
}  # fmt: skip
"""Keys of an atlas, of the names that :func:`dgn.atlas` knows, and what they may be."""


def _atlas(studio: Studio) -> Made:
    """What a layer makes of many images, in a plane; of several rows or priors, one atlas beside another."""
    values, config, table = studio.values, studio.config, Rows()
    asked = {key: values[key] for key in ATLAS_KEYS if key in values}
    for key, value in asked.items():
        if not isinstance(value, ATLAS_KEYS[key]) or (isinstance(value, bool) and bool not in ATLAS_KEYS[key]):
            raise DgnError(f"figure.{key} is {value!r}, expected {ATLAS_KEYS[key][0].__name__}")
    if not values.get("layer"):
        raise DgnError("an atlas needs a layer: give figure.layer=NAME")
    if not values["rows"]:
        raise DgnError("an atlas needs a prior: give figure.rows.NAME={prior: {dgn: {path: dgn}}}")
    data = open_data(config.data, studio.network)
    with tqdm(total=len(data), desc="images", unit="image", disable=not config.progress) as bar:
        found = atlas(
            studio.network, str(values["layer"]), data, seed=int(config.seed), workers=config.data.workers,
            batch=min(int(config.batch), LOOKED_AT), note=counting(bar), **asked,
        )  # fmt: skip
    warn(studio.manifest, found.notes)
    print(found.words)
    studio.manifest["atlas"] = {"method": found.method, "grid": found.grid, "cells": len(found.cells)}
    made: dict[str, Tensor] = {}
    for label, entry in values["rows"].items():
        for result, rows in studio.climb(str(label), entry, found.units):
            name = f"{label}, {result.prior}" if str(label) in made else str(label)
            made[name] = result.images
            table += [{"row": name, **cell.facts(), **facts} for cell, facts in zip(found.cells, rows, strict=True)]
    return found.mosaic(made), table, found.words


MAKERS: dict[str, Callable[[Studio], Made]] = {
    "matrix": _matrix, "facets": _facets, "ablation": _ablation, "convergence": _convergence, "start": _start,
    "atlas": _atlas,
}  # fmt: skip
"""Kinds of figures: what ``kind`` in ``conf/figure/`` may be."""
