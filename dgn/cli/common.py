"""What several verbs need: device, threads, run folder, tracking."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dgn.cli.schema import PriorConfig
from dgn.errors import DgnError, nearest
from dgn.priors import Prior, load_prior
from dgn.runs import Run, new_folder
from dgn.settings import AscentSettings
from dgn.synthesis import choose_ascent
from dgn.tracking import Tracker


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
            options=plain(entry.options), module=_build(str(name), entry.module),
        )  # fmt: skip
        prior.name = str(name)
        prior.ascent = prior.ascent.with_changes(plain(entry.ascent))
        climbs.append((prior, choose_ascent(prior, config.ascent.preset, **changes)))
    return climbs


def _build(name: str, config: Any) -> Any:
    """The module that a ``_target_`` names, built by Hydra."""
    if config is None:
        return None
    from hydra.utils import instantiate

    try:
        return instantiate(config)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DgnError(f"prior.{name}.module can't be built: {first}") from error


def _prior_entry(name: str, given: Any) -> Any:
    """One prior's configuration, its keys and their types checked."""
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
