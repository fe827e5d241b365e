"""``dgn synthesize``: preferred images of units, one run folder a job; a job that was killed continues."""

from __future__ import annotations

import hashlib
import math
import re
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dgn.ascent.rules import written_for
from dgn.cli.bar import Bar
from dgn.cli.chosen import choose_priors, choose_seeds, open_network
from dgn.cli.data import aligned
from dgn.cli.manifest import new_manifest, plain, warn
from dgn.cli.objective import check_objective, summarise
from dgn.cli.reproduce import reproduce
from dgn.cli.sweeps.resume import open_job, tracked
from dgn.cli.tracking import Tracker
from dgn.cli.trust import build_units
from dgn.drawing.letters import number
from dgn.drawing.matrix import Cell, grid
from dgn.errors import DgnError
from dgn.files.storage import digest, join_tensors, read_notes, read_tensors
from dgn.images.fit import Sight
from dgn.images.pictures import to_image
from dgn.images.reading import read_image
from dgn.network.network import Network
from dgn.priors import Prior
from dgn.report.gallery import write_page
from dgn.report.table import grid_cells, result_rows, target_cells
from dgn.runs.batches import FOLDER as PARTS
from dgn.runs.batches import Part, Parts, fingerprint
from dgn.runs.past import read_run
from dgn.runs.run import Run, now
from dgn.runs.writer import Writer
from dgn.synthesis.plan import Plan, as_begun, plan
from dgn.units.selection import select_units, take_shard

FEW = 32
"""Images of a job that keeps pictures of their way without being asked."""


def _frames(config: Any, images: int) -> int:
    """Pictures kept of each image's way: as asked for, else some where a start is given or images are few."""
    if config.frames is None:
        return 8 if config.start not in (None, "random") else 6 if images <= FEW else 0
    if int(config.frames) < 0:
        raise DgnError(f"frames is {config.frames}, expected 0 or more")
    return int(config.frames)


def run(config: Any) -> float:
    """Everything is checked before the run folder is made; each batch is kept as soon as it is climbed.

    Returns:
        The job's objective, for sweepers that optimise.
    """
    network, device = open_network(config)
    units = take_shard(select_units(build_units(plain(config)["units"], trust=config.trust), network), config.shard)
    check_objective(str(config.objective), units)
    seeds = choose_seeds(config)
    chosen_priors = choose_priors(config, network)
    frames = _frames(config, len(units) * len(seeds) * len(chosen_priors))
    manifest = new_manifest("synthesize", device, network, threads=torch.get_num_threads(), seeds=seeds, batch={})
    asked = aligned(config, network, units, manifest)
    jobs = [
        plan(
            network, asked[prior.name], prior, ascent=chosen, seeds=seeds, batch=config.batch,
            start=_start(config.start, prior, chosen.rule, network),
        ).keeping(frames)
        for prior, chosen in chosen_priors
    ]  # fmt: skip
    manifest |= {
        "ascent": {job.prior.name: asdict(job.settings) for job in jobs},
        "changed": {job.prior.name: job.changed for job in jobs},
        "starts": {job.prior.name: len(job.start) for job in jobs if job.start is not None},
    }
    entries = plain(config.prior)
    keys = [fingerprint(job, manifest["weights"]["network"], entry=entries[job.prior.name]) for job in jobs]
    manifest["weights"] |= {job.prior.name: digest(job.prior.weights()) for job in jobs if job.prior.weights()}
    manifest["key"] = hashlib.sha256(" ".join(keys).encode()).hexdigest()

    with open_job(config, manifest) as (folder, before):
        if before.get("status") == "done":
            print(f"dgn: {folder.folder} is done already", file=sys.stderr)
        else:
            manifest |= {key: before[key] for key in ("started", "batch") if key in before}
            if before:
                begun = before.get("ascent", {})
                jobs = [as_begun(job, begun.get(job.prior.name, {}).get("precision")) for job in jobs]
                manifest["ascent"] = {job.prior.name: asdict(job.settings) for job in jobs}
                manifest["continued"] = [*before.get("continued", []), now()]
            with tracked(config, folder, manifest) as tracker:
                folder.write_manifest(manifest)
                _Job(config, network, jobs, keys, folder, manifest).run(tracker)
            before = folder.read_manifest()
        if any(name.startswith(f"{PARTS}/") for name in folder.ledger.files):
            folder.clear(f"{PARTS}/")
            folder.write_manifest(before)
    print(folder.folder / "index.html")
    print(folder.folder / "grid.png")
    return float(before.get("summary", {}).get(str(config.objective), math.nan))


class _Job:
    """What the steps of one job share."""

    def __init__(
        self, config: Any, network: Network, plans: list[Plan], keys: list[str], folder: Run, manifest: dict[str, Any]
    ) -> None:
        self.config, self.network, self.plans, self.folder, self.manifest = config, network, plans, folder, manifest
        self.parts = [Parts(folder.folder, job.prior.name, key) for job, key in zip(plans, keys, strict=True)]
        self.rows: list[dict[str, Any]] = []
        self.done = {parts.prior: parts.finished() for parts in self.parts}
        self.tabled, self.began = time.monotonic(), time.perf_counter()

    def run(self, tracker: Tracker) -> None:
        """Climb what is left to climb, and write everything."""
        if "continued" in self.manifest:
            done = sum(map(len, self.done.values()))
            left = sum(-(-(len(job.rows) - self._first(job)) // self._batch(job)) for job in self.plans)
            print(f"dgn: continuing {self.folder.folder} ({done} of {done + left} batches done)", file=sys.stderr)
        try:
            with Writer() as writer:
                for job, parts in zip(self.plans, self.parts, strict=True):
                    self._climb(job, parts, writer, tracker)
        except BaseException:
            with suppress(DgnError):  # the disk may be what failed
                if self.rows:
                    self.folder.write_table(self.rows)
            raise
        self._finish(tracker)

    def _batch(self, job: Plan) -> int:
        return int(self.manifest["batch"].get(job.prior.name, job.batch))

    def _first(self, job: Plan) -> int:
        """The row behind those of the finished batches."""
        return sum(part.count for part in self.done[job.prior.name])

    def _climb(self, job: Plan, parts: Parts, writer: Writer, tracker: Tracker) -> None:
        """One prior: its finished batches' pictures where they are missing, then the batches that are left."""
        done = self.done[job.prior.name]
        for part in done:
            self._note(part, writer)

        def cut(batch: int) -> None:
            """Remembered, so that a continued job climbs in the same batches."""
            self.manifest["batch"][job.prior.name] = batch
            warn(self.manifest, [f"memory is full: prior {job.prior.name} goes on with batches of {batch}"])
            self.folder.write_manifest(self.manifest)
            bar.again()

        first, started = self._first(job), time.perf_counter()
        with Bar(job.prior.name, job.rows, self.config.progress, tracker, first=first) as bar:
            batch = self._batch(job)
            for piece in job.pieces(first=first, batch=batch, on_step=bar.step, on_cut=cut, on_read=bar.reading):
                part = parts.write(first, piece, result_rows(piece, self.network, time.perf_counter() - started))
                done.append(part)
                self._note(part, writer)
                first, started = first + part.count, time.perf_counter()

    def _note(self, part: Part, writer: Writer) -> None:
        self.rows += part.rows
        warn(self.manifest, part.warnings)
        writer.put(lambda: _write_pictures(self.folder, part))
        if time.monotonic() - self.tabled > TABLE_EVERY:
            self.tabled = time.monotonic()
            rows = list(self.rows)
            writer.put(lambda: self.folder.write_table(rows))

    def _finish(self, tracker: Tracker) -> None:
        """All batches are there: the job's own files, of which the manifest is the last."""
        folder = self.folder
        join_tensors(
            folder.folder / "codes.safetensors",
            {name: [part.path for part in done] for name, done in self.done.items()},
            "codes", {name: done[0].coordinates for name, done in self.done.items()},
        )  # fmt: skip
        folder.write_table(self.rows)
        title = f"What units of {self.network.name} want to see"
        seeds = len(self.manifest["seeds"])
        cells = [*target_cells(self.network, self.rows), *grid_cells(folder.folder, self.rows, seeds)]
        tracker.picture("grid", folder.write_picture("grid.png", grid(cells, title)))  # by its thread, beside the rest
        tracker.table("results", self.rows, folder.folder, pictures={"picture": "image"})
        summary = summarise(self.rows)
        tracker.summary(summary)
        folder.write_manifest(self.manifest)
        write_page([read_run(folder.folder)], folder.folder / "index.html", reproduce, title)
        tracker.finish()
        self.manifest |= {
            "summary": summary, "seconds": round(time.perf_counter() - self.began, 3),
            "tracking_seconds": round(tracker.cost, 3),
        }  # fmt: skip


TABLE_EVERY = 5.0
"""Seconds between two writings of the table while a job runs."""


def _write_pictures(folder: Run, part: Part) -> None:
    """The images of a batch and, where frames were kept, the way of each: frames side by side, the activation below.
    Those that are there already are left."""
    if not all(folder.holds(row["image"]) for row in part.rows):
        for image, row in zip(part.read("images"), part.rows, strict=True):
            folder.write_picture(row["image"], to_image(image))
    if not part.frame_steps:
        return
    frames, activations = part.read("frames"), part.read("frame_activations")
    for index, row in enumerate(part.rows):
        name = f"trajectory/{Path(row['image']).name}"
        if not folder.holds(name):
            cells = [
                Cell(f"step {step}", row["prior"], to_image(frame[index]), number(float(value[index])))
                for frame, step, value in zip(frames, part.frame_steps, activations, strict=True)
            ]
            title = f"{row['unit']}, seed {row['seed']}"
            folder.write_picture(name, grid(cells, title, columns=len(cells), tile=128))


def _start(given: Any, prior: Prior, rule: str, network: Network) -> torch.Tensor | None:
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
        return read_image(path, Sight(prior.size, network.fit, prior.channels, network.sight.fill).at_least(256))
    codes = read_tensors(path)
    if prior.name not in codes:
        raise DgnError(f"{str(path)!r} holds no codes of prior {prior.name!r}; it has {', '.join(codes)}")
    code = codes[prior.name]
    if row:
        first = 1 if path.name == "starts.safetensors" else 0  # facets are counted from 1
        if not first <= int(row) < len(code) + first:
            raise DgnError(f"{str(path)!r} holds {len(code)} codes of {prior.name!r}, no {row}")
        code = code[int(row) - first][None]
    climbed = written_for(prior, rule)
    coordinates = read_notes(path).get(prior.name, climbed.coordinates)
    return climbed.convert(code, coordinates)
