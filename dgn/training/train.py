"""One door to both trainings: of a generator, and of a flow of its codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dgn.errors import DgnError, nearest
from dgn.resources import resource
from dgn.training.flow import FlowSettings, train_flow
from dgn.training.loop import Log
from dgn.training.settings import TrainSettings
from dgn.training.trainer import train as train_generator


def train(
    data: str | Path,
    out: str | Path,
    training: str | TrainSettings | FlowSettings = "spatial64",
    *,
    network: str = "efficientnet_lite0",
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    compile: bool | None = None,
    checkpoint_minutes: float = 5.0,
    progress: bool = True,
    log: Log | None = None,
    **changes: Any,
) -> Path:
    """Train a generator that inverts a layer of a network, or a flow of a generator's codes; or go on with what ``out``
    holds. ``dgn.load_prior(out)`` is the prior that comes of it.

    Args:
        data: a folder of images, a folder of tar shards, or one tar file.
        out: folder for the weights, the state to resume from, losses, samples and a report.
        training: the name of a recipe in ``conf/training/``, or settings of one's own.
        network: of a recipe: whose layer is inverted, by name.
        seed: of a recipe.
        device: ``"auto"`` is a GPU where there is one.
        workers: processes that decode images.
        compile: ``torch.compile`` what is trained; None: on a GPU.
        checkpoint_minutes: time between two checkpoints.
        progress: show a progress bar.
        log: see :data:`dgn.training.loop.Log`.
        changes: single settings of a recipe, e.g. ``steps=2000``.

    Returns:
        Path of the checkpoint.

    Raises:
        DgnError: unknown recipe or setting; see :func:`dgn.training.trainer.train`.
    """
    if isinstance(training, str):
        settings = settings_of({**recipe(training), **changes}, network, seed)
    elif changes:
        raise DgnError(f"{next(iter(changes))} changes a recipe: put it into the settings that you give")
    else:
        settings = training
    settings.check()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    given: dict[str, Any] = {
        "device": device, "compile": device.startswith("cuda") if compile is None else compile, "workers": workers,
        "checkpoint_minutes": checkpoint_minutes, "progress": progress, "log": log,
    }  # fmt: skip
    if isinstance(settings, FlowSettings):
        return train_flow(Path(data), Path(out), settings, **given)
    return train_generator(Path(data), Path(out), settings, **given)


def recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe by name.

    Raises:
        DgnError: there is none of that name.
    """
    from omegaconf import OmegaConf

    known = {path.stem: path for path in sorted((resource("conf") / "training").glob("*.yaml"))}
    if name not in known:
        raise DgnError(f"no training {name!r}{nearest(name, known) or '; expected one of ' + ', '.join(known)}")
    values = OmegaConf.to_container(OmegaConf.load(known[name]))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def settings_of(values: Mapping[str, Any], network: str, seed: int) -> TrainSettings | FlowSettings:
    """The settings that a recipe describes: of a flow where it has a ``prior``, else of a generator for the network.

    Raises:
        DgnError: a key that the training doesn't have.
    """
    chosen: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if value is not None
    }
    kind = FlowSettings if "prior" in chosen else TrainSettings
    stray = [key for key in chosen if key not in kind.__dataclass_fields__]
    if stray:
        what = "a flow (training.prior=...)" if kind is FlowSettings else "a generator (no training.prior)"
        raise DgnError(f"training.{stray[0]} is no key of the training of {what}")
    if kind is TrainSettings:
        chosen["network"] = network
    return kind(seed=seed, **chosen)
