"""What is said of a job: its configuration as plain values, its manifest, its warnings, its tracking."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from dgn.cli.tracking import Tracker
from dgn.files.listing import printable_values
from dgn.files.storage import digest
from dgn.network.facts import assumptions, described
from dgn.network.network import Network
from dgn.runs.run import Run, now
from dgn.runs.surroundings import surroundings, versions


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
    weights = {"network": digest(network.module.state_dict())}
    weights |= {f"network.dictionaries.{name}": layer.digest for name, layer in network.derived.items() if layer.digest}
    return {
        "verb": verb, "status": "running", "started": now(), **surroundings(), "overrides": overrides(),
        "device": device, "network": network.name, "weights": weights,
        "input": described(network), "assumed": assumptions(network), "warnings": [], **more,
    }  # fmt: skip


def overrides() -> list[str]:
    """What this job was told on the command line, each sweep's value its own."""
    return [str(override) for override in HydraConfig.get().overrides.task]
