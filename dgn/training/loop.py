"""What every training does around its steps: progress, checkpoints, losses that end it, a clean stop."""

from __future__ import annotations

import csv
import io
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from dgn.errors import DgnError

Log = Callable[[int, dict[str, float], Path | None], None]
"""Hears of (step, losses, sample picture or None)."""


class Training(Protocol):
    """What is trained.

    Attributes:
        step, seconds: done so far, by all calls together.
        rows: of the table of losses.
    """

    step: int
    seconds: float
    rows: list[dict[str, float]]

    def update(self, batch: Any) -> dict[str, Tensor]:
        """One step; returns its losses."""

    def save(self) -> tuple[dict[str, float], Path | None]:
        """Write everything that is needed to go on; returns what was measured, and a picture."""


def drive(
    training: Training,
    batches: Iterable[Any],
    steps: int,
    batch: int,
    *,
    shown: Sequence[str],
    checkpoint_minutes: float,
    progress: bool,
    log: Log | None,
) -> None:
    """Train to the last step.

    Args:
        training: at the step where the batches begin.
        batches: one a step.
        steps, batch: in all, and samples of each.
        shown: losses beside the progress bar.
        checkpoint_minutes, progress, log: see :func:`dgn.training.trainer.train`.

    Raises:
        DgnError: a loss is no longer finite; stopped by a signal (everything is saved).
    """
    bar = tqdm(total=steps, initial=training.step, disable=not progress, unit="step", smoothing=0.05)
    started, first, before = time.monotonic(), training.step, training.seconds
    saved = started
    with _stop_signals() as stopped, bar:
        for one in batches:
            losses = training.update(one)
            bar.update()
            last = training.step == steps
            due = time.monotonic() - saved > checkpoint_minutes * 60 or stopped.is_set or last
            if training.step % 20 == 0 or due:
                speed = (training.step - first) * batch / (time.monotonic() - started)
                values = {name: float(value) for name, value in losses.items()} | {"images_per_second": speed}
                if not all(torch.tensor(list(values.values())).isfinite()):  # nothing of it is saved
                    raise DgnError(
                        f"the losses are no longer finite at step {training.step}; give a lower lr and another out=, "
                        "training.init= goes on from the weights that are there"
                    )
                training.rows.append({"step": training.step, **values})
                bar.set_postfix({name: f"{values[name]:.3f}" for name in shown})
                if log:
                    log(training.step, values, None)
            if due:
                training.seconds = before + time.monotonic() - started
                measured, picture = training.save()
                saved = time.monotonic()
                if log:
                    log(training.step, measured, picture)
            if stopped.is_set:
                raise DgnError(f"stopped at step {training.step} of {steps}; the same command resumes")


def rate(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """The learning rate's factor: linear warm-up, constant, linear cool-down to 1/50 over a share of the steps."""
    down = steps * (1 - cooldown)
    factor = min(1.0, (step + 1) / max(warmup, 1))
    if step > down:
        factor *= 0.02 + 0.98 * max(0.0, (steps - step) / max(steps - down, 1.0))
    return factor


@torch.no_grad()
def follow(average: torch.nn.Module, module: torch.nn.Module, decay: float) -> None:
    """Move averaged weights towards the current ones."""
    mine, theirs = ([p.detach() for p in each.parameters()] for each in (average, module))
    torch._foreach_lerp_(mine, theirs, 1 - decay)
    for a, b in zip(average.buffers(), module.buffers(), strict=True):
        a.copy_(b)


def optimiser_tensors(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as tensors ``NAME.INDEX.KEY``."""
    state = optimiser.state_dict()["state"]
    return {f"{name}.{index}.{key}": value for index, one in state.items() for key, value in one.items()}


def restore_optimiser(name: str, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Take up what :func:`optimiser_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in part(tensors, name).items():
        index, field = key.split(".", 1)
        state.setdefault(int(index), {})[field] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``name.``, in order of their names."""
    return {key[len(name) + 1 :]: tensors[key] for key in sorted(tensors) if key.startswith(name + ".")}


def losses_csv(rows: Sequence[dict[str, float]], columns: Sequence[str]) -> bytes:
    """The table of losses."""
    table = io.StringIO()
    writer = csv.DictWriter(table, ["step", *columns])
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue().encode()


class _Stop:
    is_set = False


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """SIGINT and SIGTERM ask for a checkpoint after the step in flight."""
    stop = _Stop()

    def ask(_signal: int, _frame: Any) -> None:
        stop.is_set = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that wasn't set in Python can't be put back
                signal.signal(number, handler)
