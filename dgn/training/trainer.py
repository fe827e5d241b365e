"""One training from its first step, or from where it was left, to its last."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dgn.arguments import check_workers
from dgn.errors import DgnError
from dgn.guest import guest
from dgn.training.decoder import GeneratorTraining
from dgn.training.flow import FlowTraining
from dgn.training.recipes import recipe, settings_of
from dgn.training.settings import FlowSettings, TrainSettings
from dgn.training.state import Machine

Log = Callable[[int, dict[str, float], Path | None], None]
"""Hears of (step, losses, sample picture or None)."""


@guest
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
    """Train a generator that inverts a layer of a network, or a flow of a generator's codes; or go on with the training
    that ``out`` holds. ``dgn.load_prior(out)`` is the prior that comes of it.

    Args:
        data: a folder of images, a folder of tar shards, or one tar file.
        out: folder for ``generator.safetensors`` and ``components.safetensors``, of a flow also ``flow.safetensors``
            and ``codes-*.npy`` (of the images, made once); ``losses.csv``, ``samples/``, ``state.safetensors`` (to
            resume from) and ``report.json``.
        training: everything that decides the outcome: the name of a recipe in ``conf/training/``, or settings of one's
            own, whose class says what is trained.
        network: of a recipe: whose layer is inverted, by name.
        seed: of a recipe.
        device: ``"cpu"`` or ``"cuda"``, ``"auto"`` a GPU where there is one; channels-last on both, bf16 where it pays.
        workers: processes that decode images.
        compile: ``torch.compile`` what is trained; None: where it pays, see :func:`compiles`.
        checkpoint_minutes: time between two checkpoints.
        progress: show progress bars.
        log: called with (step, losses, sample picture or None) at every logged step.
        changes: single settings of a recipe, e.g. ``steps=2000``.

    Returns:
        Path of the generator or the flow.

    Raises:
        DgnError: an unknown recipe or setting, bad data, settings that don't fit each other, a state that is not this
            training's, losses that are no longer finite, or a signal that stopped it (everything is saved).
    """
    if isinstance(training, str):
        settings = settings_of({**recipe(training), **changes}, network, seed)
    elif changes:
        raise DgnError(f"{next(iter(changes))} changes a recipe: put it into the settings that you give")
    else:
        settings = training
    settings.check()
    check_workers(workers)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = compiles(device, isinstance(settings, FlowSettings)) if compile is None else compile
    machine = Machine(device, workers, fast, progress)
    job: GeneratorTraining | FlowTraining
    if isinstance(settings, FlowSettings):
        job = FlowTraining(settings, Path(data), Path(out), machine)
    else:
        job = GeneratorTraining(settings, Path(data), Path(out), machine)
    _run(job, checkpoint_minutes, log)
    return job.finish()


def compiles(device: str, flow: bool) -> bool:
    """Whether ``torch.compile`` pays: on CUDA, and on a CPU for flows where PyTorch finds a C++ compiler.

    A flow makes 232 codes a second on a thread with AMX instead of 98; a generator's convolutions gain nothing there.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return device.startswith("cuda") or (flow and shutil.which(compiler) is not None)


def _run(training: GeneratorTraining | FlowTraining, checkpoint_minutes: float, log: Log | None) -> None:
    """The steps that are left; every twentieth is logged, and each with a checkpoint."""
    settings, first, before = training.settings, training.step, training.seconds
    bar = tqdm(
        total=settings.steps, initial=first, disable=not training.machine.progress, unit="step", smoothing=0.05
    )  # fmt: skip
    started = saved = time.monotonic()
    with _stop_signals() as signals, bar:
        for batch in training.batches():
            losses = training.update(batch)
            bar.update()
            stops = bool(signals)
            due = stops or training.step == settings.steps or time.monotonic() - saved > checkpoint_minutes * 60
            if training.step % 20 == 0 or due:
                training.seconds = before + time.monotonic() - started
                speed = (training.step - first) * settings.batch / (training.seconds - before)
                values = {name: float(value) for name, value in losses.items()} | {"images_per_second": speed}
                if not torch.tensor(list(values.values())).isfinite().all():  # nothing of it is saved
                    raise DgnError(
                        f"the losses are no longer finite at step {training.step}; lower training.lr and give "
                        "another out=; training.init=FOLDER starts from the weights saved there"
                    )
                bar.set_postfix({name: f"{values[name]:.3f}" for name in training.shown})
                values |= training.measure() if due else {}
                training.rows.append({"step": training.step, **values})
                picture = training.save() if due else None
                saved = time.monotonic() if due else saved
                if log:
                    log(training.step, values, picture)
            if stops:
                raise DgnError(f"stopped at step {training.step} of {settings.steps}; the same command resumes")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted here, and ask for a checkpoint after the step in flight."""
    noted: list[int] = []

    def note(number: int, _frame: Any) -> None:
        noted.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that wasn't set in Python can't be put back
                signal.signal(number, handler)
