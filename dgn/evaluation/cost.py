"""What a computation costs: seconds, and the most memory it held at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Cost:
    """Filled when the block ends: ``seconds``, and ``memory``, the peak in bytes above what was held before it.

    ``memory`` is 0 where the system doesn't say (neither CUDA nor Linux).
    """

    seconds: float = 0.0
    memory: float = 0.0


@contextmanager
def measured(
    device: torch.device | str = "cpu",
    *,
    clock: Callable[[], float] = time.perf_counter,
    process: Path = Path("/proc/self"),
) -> Iterator[Cost]:
    """Time and peak memory of the block: of the device on CUDA; on a CPU of the process, where Linux says it."""
    cost, cuda = Cost(), torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = float(torch.cuda.memory_allocated(device))
    else:
        known = _reset_peak(process)
        before = _status(process, "VmRSS")
    started = clock()
    yield cost
    if cuda:
        torch.cuda.synchronize(device)
    cost.seconds = clock() - started
    if cuda:
        cost.memory = torch.cuda.max_memory_allocated(device) - before
    elif known:
        cost.memory = max(0.0, _status(process, "VmHWM") - before)


def _reset_peak(process: Path) -> bool:
    """Ask Linux to forget the process's peak; says whether it did."""
    try:
        (process / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(process: Path, field: str) -> float:
    """A field of the process's status, in bytes; 0 where there is none."""
    try:
        for line in (process / "status").read_text().splitlines():
            if line.startswith(field + ":"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 0.0
