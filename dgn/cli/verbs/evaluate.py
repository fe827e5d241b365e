"""``dgn evaluate``: how good are a run's or a prior's images? One table; the same command resumes with ``out=``."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from tqdm import tqdm

from dgn.analysis.squares import Squares
from dgn.ascent.settings import AscentSettings
from dgn.cli.common import Bar, choose_device, choose_priors, choose_seeds, new_manifest, plain, settle_batch, warn
from dgn.cli.network import load_chosen
from dgn.cli.sweeps.resume import at_work
from dgn.cli.tracking import check_mode
from dgn.cli.trust import build_units
from dgn.cli.verbs.blind import scored, write_sheets
from dgn.cli.verbs.copies import compare_with_training
from dgn.errors import DgnError
from dgn.evaluation.cost import measured
from dgn.evaluation.evaluate import Evaluation, assess, look_at_real, most_frequent
from dgn.evaluation.instrument import COMMON_SIZE, METRICS, Figure, Made, best_examples
from dgn.evaluation.judges import load_judge
from dgn.evaluation.real import load_real
from dgn.files.listing import counted
from dgn.files.storage import digest, write_atomic
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.priors import Prior
from dgn.priors.checkpoint import load_tensors, save_tensors
from dgn.report.panels import panels
from dgn.report.trade import trade
from dgn.runs.batches import fingerprint
from dgn.runs.run import Run, now
from dgn.synthesis import as_begun, plan
from dgn.units.unit import Unit, layers_of
from dgn.units.units import parse_units

FORMAT = "dgn-evaluation-1"
"""Of the files that keep a method's images."""


def run(config: Any) -> None:
    """Make or read the images of each method, look at them with the judges, write the table and its figure."""
    check_mode(str(config.tracking.mode))
    if config.blind is not None and scored(Path(str(config.blind))):
        return
    values = plain(config)
    device = choose_device(config.device, config.threads)
    settle_batch(config, device)
    past = None if config.run is None else _past(Path(str(config.run)))
    chosen = config.network if past is None else OmegaConf.create(past["network"])
    network = load_chosen(chosen, device)
    judges = [load_judge(str(name), device=device) for name in config.judges]
    if not judges:
        raise DgnError("no judge given; try judges=[efficientnet_lite2]")
    for judge in judges:
        if not judge.names(network):
            print(
                f"dgn: judge {judge.name} has other classes than {network.name}: no transfer is measured by it",
                file=sys.stderr,
            )
    root = Path(str(config.data.root))
    training = None
    if config.data.training is not None:
        if config.data.photos is None:
            raise DgnError(
                "data.training needs data.photos=FOLDER: photographs that were not trained on, to compare with"
            )
        training = Squares(Path(str(config.data.training)), judges[-1].network.sight)
    if past is not None:
        specs = list(dict.fromkeys(row["unit"] for row in past["rows"]))
        units = parse_units(specs, network)
        by_spec = dict(zip(specs, units, strict=True))
        methods = past["methods"]
        climbs = []
        seeds = sorted({int(row["seed"]) for row in past["rows"]})
    else:
        units = parse_units(
            build_units(values["units"], trust=config.trust) or most_frequent(root, network, config.classes), network
        )
        seeds = choose_seeds(config)
        climbs = choose_priors(config, network)
        methods = [prior.name for prior, _ in climbs]

    manifest = new_manifest("evaluate", device, network, judges=[judge.name for judge in judges], methods=methods)
    with at_work(config, manifest) as (folder, tracker):
        with tqdm(desc="real images", unit="image", disable=not config.progress) as bar:

            def begin(passes: int) -> Callable[[int], object]:
                bar.total = passes
                return bar.update

            reference = look_at_real(
                root, network, judges, units, per_class=config.data.per_class, most=config.data.most_photos,
                seed=config.seed, begin=begin,
            )  # fmt: skip
        photos = reference.real
        warn(manifest, counted(photos.broken, "images could not be read"))
        warn(manifest, steadiness(network, layers_of(units)).notes(network))
        if config.data.photos is not None:  # read before anything climbs: a wrong path is told at once
            photos = load_real(Path(str(config.data.photos)), network.class_names, most=config.data.most_photos)
        real = best_examples(reference, units, len(seeds))
        made = [real]
        if past is not None:
            made += [_read_past(past, method, by_spec) for method in methods]
        for prior, settings in climbs:
            made.append(_synthesized(folder, config, network, units, seeds, prior, settings))
        found = assess(network, judges, reference, made, photos, [prior for prior, _ in climbs])
        if training is not None and len(made) > 1:
            copies, lines = compare_with_training(
                folder, training, judges[-1], made[1:], photos.images, config.progress
            )
            found.figures += copies
            warn(manifest, lines)
        if config.blind is not None:
            write_sheets(Path(str(config.blind)), made[1:], photos, config.seed)
        _write(folder, found, _by_temperature(config, climbs))
        folder.write_manifest({**manifest, "status": "done", "finished": now()})
        tracker.picture("panels", folder.folder / "panels.png")
        tracker.picture("grid", folder.folder / "grid.png")
        tracker.figures(found.rows())
    print((folder.folder / "table.md").read_text())
    print(folder.folder / "panels.png")


def _synthesized(
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
    rows = [(unit, seed) for unit in units for seed in seeds]
    images: list[torch.Tensor] = []
    first, batch, memory = 0, int(config.batch), 0.0
    seconds: list[float] = []
    if path.exists():
        with suppress(DgnError):  # changed or cut short: it is made anew
            tensors, meta = load_tensors(path, FORMAT)
            if meta["key"] == key:
                images, first = [tensors["images"]], len(tensors["images"])
                batch, seconds, memory = int(meta["batch"]), list(meta["seconds"]), float(meta["memory"])
                job = as_begun(job, meta.get("precision"))

    def cut(smaller: int) -> None:
        nonlocal batch
        batch = smaller
        bar.again()

    if first < len(rows):
        with Bar(prior.name, units, seeds, config.progress, first=first) as bar:
            pieces = job.pieces(
                first=first, batch=min(batch, job.batch), on_step=bar.step, on_cut=cut, on_read=bar.reading
            )
            while first < len(rows):
                with measured(network.device) as cost:
                    piece = next(pieces)
                images.append((piece.images * 255).round().byte())
                first += len(piece.images)
                seconds += [cost.seconds / len(piece.images)] * len(piece.images)
                memory = max(memory, cost.memory / len(piece.images) / 2**20)
                meta = {
                    "key": key, "batch": batch, "seconds": seconds, "memory": memory,
                    "precision": job.settings.precision,
                }  # fmt: skip
                save_tensors(path, {"images": torch.cat(images)}, meta, FORMAT)
    made = torch.cat(images).float() / 255
    return Made(prior.name, made, [u for u, _ in rows], [s for _, s in rows], seconds, memory)


def _past(folder: Path) -> dict[str, Any]:
    """What a run of ``dgn synthesize`` or ``dgn facets`` holds."""
    if not (folder / "results.csv").is_file() or not (folder / "config.yaml").is_file():
        raise DgnError(
            f"{str(folder)!r} is no folder of a dgn synthesize or facets run: it lacks results.csv or config.yaml"
        )
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    config = OmegaConf.load(folder / "config.yaml")
    if OmegaConf.select(config, "verb") == "facets":  # facets of the one unit take the place of seeds
        for row in rows:
            row["seed"] = str(int(row["unit"].rpartition(" ")[2]) - 1)
            row["unit"] = str(OmegaConf.select(config, "unit"))
    methods = list(dict.fromkeys(row["prior"] for row in rows))
    return {"folder": folder, "rows": rows, "network": config.network, "methods": methods}


def _read_past(past: dict[str, Any], method: str, by_spec: dict[str, Unit]) -> Made:
    """One prior's images of a past run."""
    rows = [row for row in past["rows"] if row["prior"] == method]
    images = []
    for row in rows:
        try:
            with Image.open(past["folder"] / row["image"]) as picture:
                pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
                images.append(pixels.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255)
        except OSError as error:
            raise DgnError(f"can't read {str(past['folder'] / row['image'])!r}: {error}") from error
    seconds = [float(row["seconds"] or "nan") for row in rows]
    return Made(
        method, torch.stack(images), [by_spec[row["unit"]] for row in rows], [int(row["seed"]) for row in rows],
        seconds if any(map(math.isfinite, seconds)) else [],
    )  # fmt: skip


def _by_temperature(config: Any, climbs: list[tuple[Prior, AscentSettings]]) -> dict[str, list[tuple[str, str]]]:
    """Priors that are the same but for the temperature of their samples, coldest first: method and label."""
    lines: dict[str, list[tuple[float, str]]] = {}
    for prior, settings in climbs:
        if settings.rule == "sample":
            same = {**plain(config.prior[prior.name]), "ascent": replace(settings, temperature=1.0)}
            same |= {"size": (prior.sampled() or prior).size, "space": None}  # what was not told is the prior's own
            lines.setdefault(repr(same), []).append((settings.temperature, prior.name))
    return {
        min((name for _, name in points), key=len): [
            (name, f"T {temperature:g}") for temperature, name in sorted(points)
        ]
        for points in lines.values()
        if len({temperature for temperature, _ in points}) > 1
    }


def _csv(figures: list[Figure]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Figure.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(f).items()} for f in figures)
    return text.getvalue()


def _write(folder: Run, found: Evaluation, lines: dict[str, list[tuple[str, str]]]) -> None:
    folder.write_text("figures.csv", _csv(found.figures))
    if found.differences:
        folder.write_text("differences.csv", _csv(found.differences))
    folder.write_text("table.md", str(found))
    folder.write_picture("grid.png", found.grid(tile=COMMON_SIZE))
    for form in ("png", "pdf"):
        write_atomic(folder.folder / f"panels.{form}", panels(found.figures, METRICS, form))
        picture = trade(found.figures, METRICS, lines, form)
        if picture is not None:
            write_atomic(folder.folder / f"trade.{form}", picture)
