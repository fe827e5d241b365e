"""What several verbs need: device, threads, run folder, tracking, progress, the table of an ascent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from dgn.cli.schema import PriorConfig
from dgn.cli.trust import build_module
from dgn.errors import DgnError, nearest
from dgn.network import Network
from dgn.network_sources import load_network
from dgn.priors import Prior, load_prior
from dgn.report.gallery import page, read_run
from dgn.report.grid import Cell
from dgn.runs import Run, new_folder, now, surroundings, to_image
from dgn.settings import AscentSettings
from dgn.storage import digest, write_atomic
from dgn.synthesis import Synthesis, check_ability, choose_ascent
from dgn.tracking import Tracker, check_mode
from dgn.units import Unit


def choose_device(name: str, threads: int | None) -> str:
    """``auto`` is CUDA where there is one; an unknown or absent device is refused."""
    if threads is not None:
        if threads < 1:
            raise DgnError(f"threads is {threads}, expected a whole number above 0")
        torch.set_num_threads(threads)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise DgnError(f"no device {name!r}; expected auto, cpu, cuda or cuda:INDEX") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise DgnError(f"device={name} was asked for, but this machine has no CUDA; use device=cpu")
    return name


def open_network(config: Any) -> tuple[Network, str]:
    """The network under study on its device; the device and the tracking mode are checked first."""
    check_mode(str(config.tracking.mode))
    device = choose_device(config.device, config.threads)
    chosen = config.network
    return load_network(chosen.name, weights=chosen.weights, input_size=chosen.input_size, device=device), device


def choose_seeds(config: Any) -> list[int]:
    """``seeds`` seeds from ``seed`` on."""
    if config.seeds < 1:
        raise DgnError(f"seeds is {config.seeds}, expected a whole number above 0")
    return list(range(config.seed, config.seed + config.seeds))


def choose_priors(config: Any, channels: int) -> list[tuple[Prior, AscentSettings]]:
    """The priors that were chosen, each with the settings of its ascent."""
    if not config.prior:
        raise DgnError("no prior chosen; try prior=dgn or prior=[dgn,pixel]")
    changes = {key: value for key, value in plain(config.ascent).items() if key != "preset"}
    climbs = []
    for name, given in config.prior.items():
        entry = _prior_entry(str(name), given)
        prior = load_prior(
            entry.path, size=entry.size, space=entry.space, channels=channels, weights=entry.weights,
            options=plain(entry.options), module=_module(str(name), entry.module, config.trust),
        )  # fmt: skip
        prior.name = str(name)
        prior.ascent = prior.ascent.with_changes(plain(entry.ascent))
        chosen = choose_ascent(prior, config.ascent.preset, **changes)
        check_ability(prior, chosen)
        climbs.append((prior, chosen))
    return climbs


def _module(name: str, config: Any, trust: bool) -> Any:
    """The module of a prior that names one; see :mod:`dgn.cli.trust`."""
    if config is None:
        return None
    values = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    return build_module(f"prior.{name}.module", values, trust=trust)


def _prior_entry(name: str, given: Any) -> Any:
    """One prior's configuration, its name, its keys and their types checked."""
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", name):  # files are called by it
        raise DgnError(f"no prior can be called {name[:80]!r}: a name has up to 64 letters, digits and _")
    if not isinstance(given, DictConfig) or given.get("path") is None:
        raise DgnError(f"prior.{name} has no path; give prior.{name}.path=PATH, the name or path of a prior")
    known = [field.name for field in fields(PriorConfig)]
    for key in given:
        if key not in known:
            raise DgnError(f"no key 'prior.{name}.{key!s}'{nearest(str(key), known)}")
    try:
        return OmegaConf.merge(OmegaConf.structured(PriorConfig), given)
    except OmegaConfBaseException as error:
        raise DgnError(f"prior.{name}: {str(error).splitlines()[0]}") from None


def open_run(config: Any) -> Run:
    """The job's run folder: ``out=``, the sweep's sub-folder, or a new one under ``runs/``."""
    hydra = HydraConfig.get()
    if config.out is not None:
        folder = Path(str(config.out))
        if hydra.mode == RunMode.MULTIRUN:
            folder = folder / str(hydra.job.num)
    elif hydra.mode == RunMode.MULTIRUN:
        folder = Path(hydra.runtime.output_dir)
    else:
        folder = new_folder(str(config.verb))
    run = Run(folder)
    run.write_config(OmegaConf.to_yaml(config, resolve=True))
    return run


def open_tracker(config: Any, run: Run) -> Tracker:
    """Weights & Biases for this job: grouped by sweep, named by what the job overrides."""
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    return Tracker(
        str(config.tracking.mode), run.folder, plain(config), project=str(config.tracking.project),
        entity=config.tracking.entity, name=(hydra.job.override_dirname or None) if sweep else run.folder.name,
        group=Path(hydra.sweep.dir).name if sweep else None, job_type=str(config.verb),
    )  # fmt: skip


def plain(config: Any) -> dict[str, Any]:
    """The configuration as plain values."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def new_manifest(verb: str, device: str, network: Network, **more: Any) -> dict[str, Any]:
    """What every job's manifest says at its start."""
    return {
        "verb": verb, "status": "running", "started": now(), **surroundings(), "overrides": overrides(),
        "device": device, "network": network.name, "weights": {"network": digest(network.module.state_dict())}, **more,
    }  # fmt: skip


def overrides() -> list[str]:
    """What this job was told on the command line, each sweep's value its own."""
    return [str(override) for override in HydraConfig.get().overrides.task]


def write_gallery(folders: Sequence[Path], file: Path, title: str | None = None) -> None:
    """Runs as one page; see :mod:`dgn.report.gallery`."""
    runs = [read_run(folder) for folder in folders]
    networks = list(dict.fromkeys(str(run["manifest"].get("network", "?")) for run in runs))
    write_atomic(file, page(runs, title or f"What units of {', '.join(networks)} want to see").encode())


MOST_CURVES = 32
"""Units with a curve of their own in Weights & Biases; more units share one of their mean."""


class Bar:
    """The progress bar of one prior: steps over all pieces of the batch, with the mean activation; feeds the curves."""

    def __init__(
        self, name: str, units: list[Unit], seeds: list[int], batch: int, shown: bool, tracker: Tracker
    ) -> None:
        self.name, self.tracker, self.shown = name, tracker, shown
        self.rows = [(unit.name, seed) for unit in units for seed in seeds]
        self.batch, self.first, self.bar = batch, 0, tqdm(disable=True)

    def __enter__(self) -> Bar:
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
def result_rows(result: Synthesis, network: Network, seconds: float) -> list[dict[str, Any]]:
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


def keep_images(folder: Run, result: Synthesis, rows: list[dict[str, Any]], seeds: int) -> list[Cell]:
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
