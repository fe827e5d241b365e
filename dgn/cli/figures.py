"""The kinds of figures: what is synthesised, measured and drawn for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dgn.analysis.ablation.ablation import Curve, ablate, curves, first_choice
from dgn.analysis.examples import find_examples, search_warnings
from dgn.analysis.facets import cluster, late_features, mean_codes, mean_images
from dgn.ascent.rules import written_for
from dgn.cli.chosen import LOOKED_AT, choose_priors
from dgn.cli.data import open_data
from dgn.cli.manifest import warn
from dgn.drawing.charts import Lines, draw_lines
from dgn.drawing.matrix import WIDTHS, Matrix, draw_matrix
from dgn.errors import DgnError
from dgn.images.fit import Sight
from dgn.images.pictures import to_image
from dgn.images.reading import read_image
from dgn.network.network import Network
from dgn.report.ablation import curve_panels, overview
from dgn.report.table import result_rows
from dgn.synthesis.plan import plan
from dgn.synthesis.result import Synthesis, join
from dgn.units.units import parse_units

Rows = list[dict[str, Any]]


@dataclass
class Studio:
    """What a figure is made with."""

    config: Any
    network: Network
    values: dict[str, Any]
    bar: Any
    manifest: dict[str, Any]

    def climb(self, entry: dict[str, Any], units: list[Any], **more: Any) -> list[tuple[Synthesis, Rows]]:
        """Synthesise units with each prior of an entry (``prior``, ``ascent``, ``seed``)."""
        config = OmegaConf.merge(self.config, {"ascent": entry.get("ascent") or {}})
        OmegaConf.update(config, "prior", entry["prior"], merge=False)
        results = []
        start_of = more.pop("start_of", None)
        for prior, settings in choose_priors(config, self.network):
            self.bar.set_description(f"{entry.get('label', prior.name)}")
            steps = settings.total_steps * -(-len(units) * len(more.get("seeds") or [0]) // self.config.batch)
            self.bar.total = (self.bar.total or 0) + steps
            climbed = written_for(prior, settings.rule)
            start = None if start_of is None else start_of(climbed)
            job = plan(
                self.network, units, prior, ascent=settings, seed=int(entry.get("seed", self.config.seed)),
                batch=self.config.batch, start=start, **more,
            )  # fmt: skip
            name = f"{entry['label']}: {prior.name}" if "label" in entry else prior.name
            self.manifest.setdefault("precision", {})[name] = job.settings.precision
            result = join(list(job.pieces(on_step=lambda *_: self.bar.update(), on_read=self._reading())))
            warn(self.manifest, result.warnings)
            rows = result_rows(result, self.network, 0.0, self.config.batch)
            for row in rows:
                for key in ("image", "seconds"):  # of no meaning here, and never the same twice
                    row.pop(key)
            results.append((result, rows))
        return results

    def _reading(self) -> Callable[[int, int], None]:
        """Counts codes on the bar while starts are chosen among them."""
        before = 0

        def note(done: int, count: int) -> None:
            nonlocal before
            if before == 0 or done < before:  # also a batch that was halved while it chose
                self.bar.total, before = self.bar.total + count, 0
            self.bar.update(done - before)
            before = done if done < count else 0  # the next batch chooses anew

        return note

    def best_examples(self, units: list[Any], k: int) -> tuple[torch.Tensor, list[list[Any]]]:
        """The best real examples of each unit: as the network sees them, ``[U * k, C, H, W]``, unit by unit."""
        parsed = parse_units(units, self.network)
        data = open_data(self.config.data, self.network)
        self.bar.total = (self.bar.total or 0) + len(data)
        self.bar.set_description("real images")
        done = 0

        def note(seen: int, _total: int) -> None:
            nonlocal done
            self.bar.update(seen - done)
            done = seen

        found, data, broken = find_examples(
            self.network, parsed, data, k=k, batch=min(self.config.batch, LOOKED_AT), workers=self.config.data.workers,
            note=note,
        )  # fmt: skip
        warn(self.manifest, search_warnings(found, data, broken, self.network))
        for one in found:
            one.check()
        squares = data.tensors([example.index for one in found for example in one.top])
        return squares, [one.top for one in found]

    def image(self, sight: Sight) -> tuple[list[Path], list[torch.Tensor]]:
        """The images that the figure is about, as they are to be seen."""
        given = self.values.get("images")
        if not given:
            raise DgnError("this figure shows images of yours: give figure.images=[FILE,...]")
        paths = [Path(str(path)) for path in (given if isinstance(given, list) else [given])]
        return paths, [read_image(path, sight) for path in paths]


def _matrix(studio: Studio) -> tuple[Any, Rows]:
    """Rows of methods (or layers, or seeds), columns of units."""
    values = studio.values
    units = values.get("units") or []
    entries: list[dict[str, Any]] = [{"label": label, **(entry or {})} for label, entry in values["rows"].items()]
    across = max(len(entry.get("units") or units) for entry in entries)
    columns = [unit.name for unit in parse_units(units, studio.network)] if units else [""] * across
    matrix = Matrix([str(entry["label"]) for entry in entries], columns)
    table: Rows = []
    for row, entry in enumerate(entries):
        own = entry.get("units") or units
        if entry.get("examples"):
            squares, found = studio.best_examples(own, 1)
            for column, (square, top) in enumerate(zip(squares, found, strict=True)):
                matrix.pictures[row, column] = to_image(square)
                matrix.captions[row, column] = f"{top[0].activation:.1f}"
                table.append({
                    "row": entry["label"], "unit": columns[column], "prior": "real", "seed": "",
                    "activation": round(top[0].activation, 5), "example": top[0].name,
                })  # fmt: skip
            continue
        for result, rows in studio.climb(entry, own):
            for column, (image, facts) in enumerate(zip(result.images, rows, strict=True)):
                matrix.pictures[row, column] = to_image(image)
                matrix.captions[row, column] = f"{facts['activation']:.1f}"
                if not units:  # each row has units of its own
                    layer, _, index = facts["unit"].rpartition(":")
                    matrix.names[row, column] = f"unit {index}" if layer else index
                table.append({"row": entry["label"], **facts})
    if values.get("transposed") and studio.config.width == "page":  # a column is too narrow for so many
        matrix = matrix.transposed()
    points = float(values.get("points", 7.0))
    width = WIDTHS[studio.config.width]
    return draw_matrix(matrix, width=width, title=str(values.get("title", "")), points=points), table


def _facets(studio: Studio) -> tuple[Any, Rows]:
    """Each facet's real examples beside its mean image and its synthesis."""
    values = studio.values
    unit = parse_units([values["unit"]], studio.network)[0]
    images, _ = studio.best_examples([values["unit"]], int(values["examples"]))
    facets = cluster(late_features(studio.network, images), values.get("facets"), seed=int(studio.config.seed))
    shown = min(int(values.get("shown", 4)), max(len(members) for members in facets.nearest))
    matrix = Matrix([f"facet {i + 1}" for i in range(facets.count)], [f"real {i + 1}" for i in range(shown)] + ["mean"])
    means = mean_images(images, facets)
    table: Rows = []
    for row, members in enumerate(facets.nearest):
        for column, index in enumerate(members[:shown]):
            matrix.pictures[row, column] = to_image(images[index])
        matrix.pictures[row, shown] = to_image(means[row])
    for label, entry in values["rows"].items():
        for result, rows in studio.climb(
            {"label": label, **entry}, [unit] * facets.count, start_of=lambda prior: mean_codes(prior, images, facets)
        ):
            matrix.columns.append(str(label))
            for row, (image, facts) in enumerate(zip(result.images, rows, strict=True)):
                matrix.pictures[row, len(matrix.columns) - 1] = to_image(image)
                table.append({"facet": row + 1, "row": label, **facts, "silhouette": round(facets.silhouette, 4)})
    title = str(values.get("title", "")) or f"Facets of {unit.name}"
    return draw_matrix(matrix, width=WIDTHS[studio.config.width], title=title), table


def _ablation(studio: Studio) -> tuple[Any, Rows]:
    """Images, and what the unit loses when a part of them is covered."""
    values, network = studio.values, studio.network
    paths, images = studio.image(network.sight)  # as dgn ablate reads them
    batch = min(int(studio.config.batch), LOOKED_AT)
    found = []
    table: Rows = []
    for path, image in zip(paths, images, strict=True):
        unit = first_choice(network, image) if values.get("unit") is None else values["unit"]
        studio.bar.set_description(path.stem)
        one = ablate(
            network, image, unit, size=values.get("size"), stride=values.get("stride"), fill=str(values["fill"]),
            seed=int(studio.config.seed), batch=batch, note=lambda *_: studio.bar.update(),
        )  # fmt: skip
        both: tuple[Curve, Curve] | None = None
        if values.get("curves"):
            both = curves(network, one, seed=int(studio.config.seed), batch=batch)
            for curve in both:
                for share, value in zip(curve.shares, curve.activations, strict=True):
                    table.append({
                        "image": path.stem, "unit": one.unit.name, "curve": curve.kind, "share": round(share, 5),
                        "activation": round(value, 5),
                    })  # fmt: skip
        else:
            for y, row in enumerate(one.drops.tolist()):
                for x, drop in enumerate(row):
                    table.append({
                        "image": path.stem, "unit": one.unit.name, "activation": round(one.activation, 5),
                        "top": y * one.stride[0], "left": x * one.stride[1], "drop": round(drop, 5),
                    })  # fmt: skip
        found.append((path.stem, one, both))
    if values.get("curves"):
        return draw_lines(curve_panels(found), width=WIDTHS[studio.config.width]), table
    return draw_matrix(overview(found), width=WIDTHS[studio.config.width], title=str(values.get("title", ""))), table


def _convergence(studio: Studio) -> tuple[Any, Rows]:
    """Activation of the images on the way, mean over units and seeds, the band from the lowest to the highest quarter.

    Read at the network's own size without transformations, as results are: what a method's own loop sees is smaller or
    transformed, and can't be compared. Of several starts, the way of the one that went on, from its race's end.
    """
    values = studio.values
    panel = Lines(str(values.get("panel", "")), "step", "activation")
    table: Rows = []
    seeds = list(range(int(values.get("seeds", 2))))
    for label, entry in values["rows"].items():
        for result, _ in studio.climb(
            {"label": label, **entry}, values["units"], seeds=seeds, frames=int(values.get("frames", 24))
        ):
            steps, way = result.frame_steps, result.frame_activations
            quarters = way.quantile(torch.tensor([0.25, 0.75]), dim=1).tolist()
            panel.curves[str(label)] = (steps, way.mean(1).tolist())
            panel.bands[str(label)] = (quarters[0], quarters[1])
            for unit, seed, column in zip(result.units, result.seeds, way.T.tolist(), strict=True):
                for step, value in zip(steps, column, strict=True):
                    table.append({
                        "row": label, "unit": unit.name, "seed": seed, "step": step, "activation": round(value, 5)
                    })  # fmt: skip
    return draw_lines([panel], width=WIDTHS[studio.config.width], title=str(values.get("title", ""))), table


def _start(studio: Studio) -> tuple[Any, Rows]:
    """The way from real images to what a unit prefers."""
    values = studio.values
    paths, images = studio.image(studio.network.sight.at_least(256))
    frames = int(values.get("frames", 7))
    matrix = Matrix([], ["image"])
    table: Rows = []
    for path, image in zip(paths, images, strict=True):
        for label, entry in values["rows"].items():
            for result, _ in studio.climb(
                {"label": label, **entry}, [values["unit"]], start_of=lambda _prior, image=image: image, frames=frames
            ):
                row = len(matrix.rows)
                matrix.rows.append(f"{path.stem}, {label}" if len(paths) > 1 else str(label))
                matrix.columns = ["image"] + [f"step {step}" for step in result.frame_steps]
                matrix.pictures[row, 0] = to_image(image)
                way = zip(result.frames[:, 0], result.frame_steps, result.frame_activations[:, 0].tolist(), strict=True)
                for column, (frame, step, value) in enumerate(way, 1):
                    matrix.pictures[row, column] = to_image(frame)
                    matrix.captions[row, column] = f"{value:.1f}"
                    table.append({"image": path.stem, "row": label, "step": step, "activation": round(value, 5)})
    unit = parse_units([values["unit"]], studio.network)[0].name
    title = str(values.get("title", "")) or f"Towards {unit}"
    return draw_matrix(matrix, width=WIDTHS[studio.config.width], title=title), table


MAKERS: dict[str, Callable[[Studio], tuple[Any, Rows]]] = {
    "matrix": _matrix, "facets": _facets, "ablation": _ablation, "convergence": _convergence, "start": _start,
}  # fmt: skip
"""Kinds of figures: what ``kind`` in ``conf/figure/`` may be."""
