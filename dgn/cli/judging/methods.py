"""The images that ``dgn evaluate`` judges: made now, resumed, or read from an earlier run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dgn.ascent.settings import AscentSettings
from dgn.cli.bar import Bar
from dgn.cli.manifest import plain
from dgn.errors import DgnError
from dgn.evaluation.evaluate import Begun, make
from dgn.evaluation.reference import Made
from dgn.files.storage import digest
from dgn.files.tensors import load_tensors, save_tensors
from dgn.images.reading import read_image
from dgn.network.network import Network
from dgn.priors import Prior
from dgn.runs.batches import fingerprint
from dgn.runs.past import PastRun, read_run
from dgn.runs.run import Run
from dgn.synthesis.plan import as_begun, plan
from dgn.units.unit import Unit

FORMAT = "dgn-evaluation-1"
"""Of the files that keep a method's images."""


def synthesized(
    folder: Run,
    config: Any,
    network: Network,
    units: list[Unit],
    seeds: list[int],
    prior: Prior,
    settings: AscentSettings,
) -> Made:
    """One method's images, a batch at a time; those that the run folder holds already are taken up."""
    job = plan(network, units, prior, ascent=settings, seeds=seeds, batch=config.batch)
    key = fingerprint(job, digest(network.module.state_dict()), entry=plain(config.prior)[prior.name])
    path = folder.folder / "images" / f"{prior.name}.safetensors"
    begun, batch = Begun(), int(config.batch)
    if path.exists():
        with suppress(DgnError):  # changed or cut short: it is made anew
            tensors, meta = load_tensors(path, FORMAT)
            if meta["key"] == key:
                begun = Begun([tensors["images"]], list(meta["seconds"]), float(meta["memory"]))
                batch, job = int(meta["batch"]), as_begun(job, meta.get("precision"))
    first = sum(map(len, begun.images))

    def cut(smaller: int) -> None:
        nonlocal batch
        batch = smaller
        bar.again()

    def keep(begun: Begun) -> None:
        meta = {
            "key": key, "batch": batch, "seconds": begun.seconds, "memory": begun.memory,
            "precision": job.settings.precision,
        }  # fmt: skip
        save_tensors(path, {"images": torch.cat(begun.images)}, meta, FORMAT)

    with Bar(prior.name, job.rows, config.progress, first=first) as bar:
        pieces = job.pieces(
            first=first, batch=min(batch, job.batch), on_step=bar.step, on_cut=cut, on_read=bar.reading
        )  # fmt: skip
        return make(job, pieces, begun, keep)


def read_past(folder: Path) -> tuple[PastRun, Any]:
    """A run of ``dgn synthesize`` or ``dgn facets``, facets in the place of seeds, and its network's configuration.

    Raises:
        DgnError: it is none.
    """
    run = read_run(folder)
    for row in run.rows:
        if row.get("facet"):
            row["seed"] = str(int(row["facet"]) - 1)
    return run, OmegaConf.load(folder / "config.yaml").network


def made_by(run: PastRun, method: str, units: Mapping[str, Unit]) -> Made:
    """One prior's images; ``units`` by what the table calls them."""
    rows = [row for row in run.rows if row["prior"] == method]
    images = torch.stack([read_image(run.folder / row["image"]) for row in rows])
    seconds = [float(row.get("seconds") or "nan") for row in rows]
    return Made(
        method, images, [units[row["unit"]] for row in rows], [int(row["seed"]) for row in rows],
        seconds if any(map(math.isfinite, seconds)) else [],
    )  # fmt: skip
