"""What several verbs need: device, threads, run folder, tracking, progress, the table of an ascent."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from dgn.ascent.settings import AscentSettings
from dgn.cli.changes import stamp
from dgn.cli.network import load_chosen, network_key
from dgn.cli.schema import PriorConfig
from dgn.cli.tracking import Tracker, check_mode
from dgn.cli.trust import build_functions, build_module
from dgn.errors import DgnError, nearest
from dgn.files.listing import printable_values
from dgn.files.storage import digest, write_atomic
from dgn.images.fit import canvas_size, parse_size
from dgn.images.pictures import to_image
from dgn.network.facts import assumptions, described
from dgn.network.fast.readback import Readback
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.network.scores import log_probabilities
from dgn.network.steady import steadiness
from dgn.priors import CANVASES, Prior, load_prior
from dgn.report.gallery import page, read_run
from dgn.report.grid import Cell
from dgn.runs.run import Run, now, surroundings, versions
from dgn.synthesis import Synthesis, check_ability, choose_ascent, default_batch, in_batches
from dgn.units.unit import Unit


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


def settle_batch(config: Any, device: str) -> None:
    """``batch=null`` becomes the device's own."""
    if "batch" in config and config.batch is None:
        config.batch = default_batch(torch.device(device))


LOOKED_AT = 32
"""Images that a network looks at together for what is not climbed, at most: nothing halves these batches."""


def open_network(config: Any) -> tuple[Network, str]:
    """The network under study on its device; the device and the tracking mode are checked first."""
    check_mode(str(config.tracking.mode))
    device = choose_device(config.device, config.threads)
    key = network_key(config.network, device)
    if key not in _NETWORKS:
        _NETWORKS.clear()
        _NETWORKS[key] = load_chosen(config.network, device)
    settle_batch(config, device)
    return _NETWORKS[key], device


_NETWORKS: dict[str, Network] = {}
"""The last network: the jobs of a sweep that run in one process load it once."""

_PRIORS: dict[str, Prior] = {}
"""The last priors, likewise."""

MOST_PRIORS = 4


def _open_prior(name: str, entry: Any, network: Network, trust: bool) -> Prior:
    values, channels, size = plain(entry), network.channels, plain(entry)["size"]
    if size is not None:
        parse_size(size, f"prior.{name}.size")
    if str(entry.path) in CANVASES:
        size = canvas_size(size, network.input_size)
    paths = [entry.path, entry.weights, *(Path(str(entry.path)) / f"{kind}.safetensors" for kind in PRIOR_FILES)]
    key = json.dumps([values, channels, size, [stamp(path) for path in paths]], sort_keys=True, default=str)
    if key not in _PRIORS or entry.module is not None:
        while len(_PRIORS) >= MOST_PRIORS:
            _PRIORS.pop(next(iter(_PRIORS)))
        module = _module(name, entry.module, trust)
        _PRIORS[key] = module if isinstance(module, Prior) else load_prior(
            entry.path, size=size, space=entry.space, channels=channels, weights=entry.weights,
            options=plain(entry.options), module=module,
        )  # fmt: skip
    prior = copy.copy(_PRIORS[key])  # its name and its settings are this job's own
    prior.name = name
    changes = build_functions(f"prior.{name}.ascent", plain(entry.ascent), trust=trust)
    prior.ascent = prior.settings_for(changes.get("rule")).with_changes(changes)
    if prior.otherwise is not None:
        prior.otherwise = prior.otherwise.with_changes({**changes, "rule": None})
    return prior


PRIOR_FILES = ("generator", "components", "flow")


def choose_seeds(config: Any) -> list[int]:
    """``seeds`` seeds from ``seed`` on."""
    if config.seeds < 1:
        raise DgnError(f"seeds is {config.seeds}, expected a whole number above 0")
    return list(range(config.seed, config.seed + config.seeds))


def choose_priors(config: Any, network: Network) -> list[tuple[Prior, AscentSettings]]:
    """The priors that were chosen, each with the settings of its ascent."""
    if not config.prior:
        raise DgnError("no prior chosen; try prior=dgn or prior=[dgn,pixel]")
    given = {key: value for key, value in plain(config.ascent).items() if key != "preset"}
    changes = build_functions("ascent", given, trust=config.trust)
    climbs = []
    for name, given in config.prior.items():
        entry = _prior_entry(str(name), given)
        prior = _open_prior(str(name), entry, network, config.trust)
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


def open_tracker(config: Any, run: Run) -> Tracker:
    """Weights & Biases for this job: grouped by sweep, named by what the job overrides."""
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    return Tracker(
        str(config.tracking.mode), run.folder, printable_values({**plain(config), "versions": versions()}),
        project=str(config.tracking.project), entity=config.tracking.entity,
        name=(hydra.job.override_dirname or None) if sweep else run.folder.name,
        group=Path(hydra.sweep.dir).name if sweep else None, job_type=str(config.verb),
    )  # fmt: skip


def plain(config: Any) -> dict[str, Any]:
    """The configuration as plain values."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}


def warn(manifest: dict[str, Any], lines: Sequence[str]) -> None:
    """Say each line once, and keep it in the manifest."""
    for line in lines:
        if line not in manifest["warnings"]:
            manifest["warnings"].append(line)
            print(f"dgn: {line}", file=sys.stderr)


def new_manifest(verb: str, device: str, network: Network, **more: Any) -> dict[str, Any]:
    """What every job's manifest says at its start."""
    return {
        "verb": verb, "status": "running", "started": now(), **surroundings(), "overrides": overrides(),
        "device": device, "network": network.name, "weights": {"network": digest(network.module.state_dict())},
        "input": described(network), "assumed": assumptions(network), "warnings": [], **more,
    }  # fmt: skip


def overrides() -> list[str]:
    """What this job was told on the command line, each sweep's value its own."""
    return [str(override) for override in HydraConfig.get().overrides.task]


def write_gallery(folders: Sequence[Path], file: Path, title: str | None = None) -> None:
    """Runs as one page; see :mod:`dgn.report.gallery`."""
    write_page([read_run(folder) for folder in folders], file, title)


def write_page(runs: list[dict[str, Any]], file: Path, title: str | None = None) -> None:
    """:func:`write_gallery` of runs that were read already."""
    left_out = shorten_runs(runs)
    networks = list(dict.fromkeys(str(run["manifest"].get("network", "?")) for run in runs))
    title = title or f"What units of {', '.join(networks)} want to see"
    if left_out:
        title += f" (the first units; {left_out} more images are in images/)"
    write_atomic(file, page(runs, title).encode("utf-8", "backslashreplace"))


MOST_IMAGES = 1000
"""Images in a gallery page, which holds them all."""


def shorten_runs(runs: list[dict[str, Any]]) -> int:
    """Leave the first units of runs that hold more than :data:`MOST_IMAGES`; returns how many images are left out."""
    total = sum(len(run["rows"]) for run in runs)
    if total <= MOST_IMAGES:
        return 0
    images: dict[str, int] = {}
    for run in runs:
        for row in run["rows"]:
            images[row["unit"]] = images.get(row["unit"], 0) + 1
    count, kept = 0, set[str]()
    for unit, number in images.items():
        if kept and count + number > MOST_IMAGES:
            break
        kept.add(unit)
        count += number
    for run in runs:
        run["rows"] = [row for row in run["rows"] if row["unit"] in kept]
    return total - count


MOST_CURVES = 32
"""Units with a curve of their own in Weights & Biases; more units share one of their mean."""


class Bar:
    """The progress bar of one prior: steps over all pieces of the batch, with the mean activation; feeds the curves.

    Activations are asked for only where somebody sees them, and read a step or more later, when they have come.

    Args:
        name, units, seeds: what climbs.
        shown: whether it is drawn.
        tracker: for the curves; None for none.
        first: row to begin at.
    """

    def __init__(
        self,
        name: str,
        units: Sequence[Unit],
        seeds: list[int],
        shown: bool,
        tracker: Tracker | None = None,
        *,
        first: int = 0,
    ) -> None:
        self.name, self.shown, self.bar = name, shown, tqdm(disable=True)
        self.tracker = tracker if tracker is not None and tracker.on else None
        self.rows = [(unit.name, seed) for unit in units for seed in seeds]
        self.first, self.past, self.piece = first, 0, (0, 0)
        self.asked: deque[tuple[Readback, int, bool]] = deque()
        self.starts = tqdm(disable=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._tell(wait=kind is None)
        self.starts.close()
        self.bar.close()

    def reading(self, done: int, count: int) -> None:
        """Codes among which starts are chosen: a bar of their own, which goes when all are read."""
        if self.starts.disable and self.shown:
            self.starts = tqdm(desc=f"{self.name:>8}, starts", total=count, unit="code", leave=False)
        self.starts.update(done - self.starts.n)
        if done == count:
            self.starts.close()
            self.starts = tqdm(disable=True)

    def step(self, i: int, steps: int, activations: torch.Tensor, _images: torch.Tensor) -> None:
        """A forward pass; a batch that was too large for memory begins again at step 0 with fewer samples."""
        self._tell(wait=i == 0)
        if i == 0:
            self.first, self.past = self.first + self.piece[0], self.past + self.piece[1]
            self.piece = (0, 0)
            ahead = -(-(len(self.rows) - self.first) // len(activations))
            if self.past == 0 and not self.bar.n:
                self.bar = tqdm(desc=f"{self.name:>8}", unit="step", disable=not self.shown)
            self.bar.total = self.past + steps * ahead
        last = i == steps - 1
        self.bar.update(self.past + i + 1 - self.bar.n)
        if (self.shown and (i % 5 == 0 or last)) or (self.tracker is not None and (i % 10 == 0 or last)):
            self.asked.append((Readback(activations), i, last))
        if last:
            self.piece = (len(activations), steps)

    def again(self, *_: object) -> None:
        """The piece did not fit into memory, perhaps only after its last step: its rows climb once more."""
        self.piece = (0, 0)

    def _tell(self, *, wait: bool) -> None:
        """Show and log what has come, in order; all that was asked for where it may be waited for."""
        while self.asked and (wait or self.asked[0][0].ready):
            found, i, last = self.asked.popleft()
            activations = found.read()
            mean = sum(activations) / len(activations)
            if self.shown:
                self.bar.set_postfix(activation=f"{mean:.2f}", refresh=False)
            if self.tracker is not None and (i % 10 == 0 or last):
                values = {"mean": mean}
                if len(self.rows) <= MOST_CURVES:
                    piece = self.rows[self.first : self.first + len(activations)]
                    for (unit, seed), value in zip(piece, activations, strict=True):
                        values[f"{unit} s{seed}"] = value
                self.tracker.curves(self.name, self.past + i, values, keep=last)


@torch.no_grad()
def result_rows(result: Synthesis, network: Network, seconds: float, batch: int | None = None) -> list[dict[str, Any]]:
    """The table's rows; probability and rank are the network's own, of output units.

    Args:
        result, network: what was climbed.
        seconds: that it took.
        batch: images that the network sees at once, fewer where memory is full; None for all of them.
    """
    classes = [unit.class_index for unit in result.units]
    logits = None
    if network.scores != "none" and any(target is not None for target in classes):
        logits = in_batches(
            lambda images: network(images.to(network.device)).float().cpu(), result.images,
            steadiness(network, [OUTPUT]).batch(batch or len(classes)),
        )  # fmt: skip
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
            "steps": result.history.shape[0], "frozen_at": "" if frozen < 0 else frozen,
            "seconds": round(seconds / len(result.units), 3),
            "image": f"images/{unit.file_name}--{result.prior}--s{seed}.png", "log_probability": log_probability,
        })  # fmt: skip
    return rows


def keep_images(folder: Run, result: Synthesis, rows: list[dict[str, Any]], seeds: int) -> list[Cell]:
    """Write the images; returns the grid's cells."""
    for image, row in zip(result.images, rows, strict=True):
        folder.write_picture(row["image"], to_image(image))
    return grid_cells(folder.folder, rows, seeds)


MOST_CELLS = 512
"""Images in a grid."""


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
        caption = f"{float(row['activation']):.1f}"
        if row["probability"] not in ("", None):
            caption += f"   p {float(row['probability']):.2f}"
        label = str(row["prior"]) if seeds == 1 else f"{row['prior']} s{row['seed']}"
        cells.append(Cell(str(row["unit"]), label + suffix, folder / str(row["image"]), caption))
    return cells
