"""``dgn facets``: the kinds of images that one unit answers to, and one preferred image for each."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch

from dgn.analysis.facets import check_facets, facets_of, mean_codes
from dgn.analysis.squares import Squares
from dgn.ascent.rules import written_for
from dgn.cli.bar import climb
from dgn.cli.chosen import LOOKED_AT, choose_priors, open_network
from dgn.cli.data import look_through, open_data, refuse_references
from dgn.cli.manifest import new_manifest, plain, warn
from dgn.cli.reproduce import reproduce
from dgn.cli.sweeps.resume import at_work
from dgn.cli.trust import build_units
from dgn.drawing.charts import render
from dgn.drawing.matrix import draw_matrix
from dgn.errors import DgnError
from dgn.evaluation.real import classes_of
from dgn.images.pictures import to_image
from dgn.network.network import Network
from dgn.report.facets import facets_matrix
from dgn.report.gallery import write_page
from dgn.report.table import result_rows
from dgn.runs.past import read_run
from dgn.synthesis.plan import plan
from dgn.units.unit import Unit
from dgn.units.units import parse_units


def run(config: Any) -> None:
    """Examples, clusters, starts, one ascent a facet; a figure with the real examples beside their synthesis."""
    network, device = open_network(config)
    (unit,) = parse_units([build_units(plain(config)["unit"], trust=config.trust)], network)
    climbs = choose_priors(config, network)
    refuse_references(config, "facets")
    data = open_data(config.data, network)
    if config.own_class:
        data = _of_class(data, unit, network)
    if config.examples < 1:
        raise DgnError(f"examples is {config.examples}, expected a whole number above 0")
    k, counts = min(config.examples, len(data)), {name: config[name] for name in ("members", "components", "most")}
    check_facets(k, config.facets, **counts)
    manifest = new_manifest("facets", device, network, ascent={})
    with at_work(config, manifest) as (folder, tracker):
        state, batch = folder.folder / "examples.safetensors", min(config.batch, LOOKED_AT)
        (found,), data, _ = look_through(
            config, network, [unit], data, manifest, k=k, batch=batch, state=state, boxes=False
        )  # fmt: skip
        try:
            facets = facets_of(
                network, found, data, layer=config.layer, facets=config.facets, tsne=config.tsne, seed=config.seed,
                **counts,
            )  # fmt: skip
        except DgnError as error:
            raise DgnError(f"{error} (what the search found is kept: go on with out={folder.folder})") from error
        images = facets.images
        assert images is not None
        rows: list[dict[str, Any]] = []
        matrix = facets_matrix(images, facets, config.shown)
        codes, coordinates, begun, begun_in = {}, {}, {}, {}
        for prior, chosen in climbs:
            started = time.perf_counter()
            climbed = written_for(prior, chosen.rule)
            starts = mean_codes(climbed.to(device), images, facets)
            begun[prior.name], begun_in[prior.name] = starts, climbed.coordinates
            job = plan(
                network, [unit] * facets.count, prior, ascent=chosen, seeds=[config.seed], batch=config.batch,
                start=starts,
            )  # fmt: skip
            result = climb(job, prior.name, config.progress, tracker)
            new = result_rows(result, network, time.perf_counter() - started, config.batch)
            rows += new
            codes[prior.name], coordinates[prior.name] = result.codes, result.coordinates
            manifest["ascent"][prior.name] = asdict(job.settings)
            warn(manifest, result.warnings)
            matrix.columns.append(prior.name)
            for facet, (image, row) in enumerate(zip(result.images, new, strict=True)):
                row |= {"facet": facet + 1, "image": f"images/{unit.file_name}--{prior.name}--facet{facet + 1}.png"}
                place, picture = (facet, len(matrix.columns) - 1), to_image(image)
                matrix.pictures[place], matrix.captions[place] = picture, f"{row['activation']:.1f}"
                folder.write_picture(row["image"], picture)
            folder.write_codes(codes, coordinates)
            folder.write_codes(begun, begun_in, "starts.safetensors")
            folder.write_table(rows)
        title = f"{facets.count} facets of {unit.name}"
        canvas = draw_matrix(matrix, title=title)
        for form in ("pdf", "png"):
            folder.write(f"facets.{form}", render(canvas, form))
        write_page([read_run(folder.folder)], folder.folder / "index.html", reproduce, title)
        scores = {count: None if math.isnan(score) else round(score, 4) for count, score in facets.scores.items()}
        sizes = torch.bincount(facets.labels).tolist()
        manifest |= {"facets": facets.count, "silhouettes": scores, "sizes": sizes}
        tracker.picture("facets", folder.folder / "facets.png")
        tracker.table("results", rows, folder.folder, pictures={"picture": "image"})
    print(folder.folder / "facets.png")


def _of_class(data: Squares, unit: Unit, network: Network) -> Squares:
    """Only the images that are labelled as the unit's class, as in the paper."""
    if unit.class_index is None:
        raise DgnError(f"own_class=true needs a class; {unit.name!r} is none")
    kept = data.only(lambda entries: [at == unit.class_index for at in classes_of(entries, network.class_names)])
    if not len(kept):
        raise DgnError(f"no image lies in a folder named for {unit.name!r}; leave own_class=false")
    return kept
