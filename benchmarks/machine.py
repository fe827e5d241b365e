"""What a benchmark ran on, and how loaded that machine was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Processor, threads, versions, and the load of the last minute (other work on the machine slows a run down)."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "?")
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def alternate(
    calls: Mapping[str, Callable[[], object]], rounds: int, minutes: float = 5.0
) -> dict[str, dict[str, float]]:
    """Each call in turn, so many rounds: the least wall-clock seconds, and the least processor seconds, of each.

    A round that would not end within the minutes isn't begun, but for the first.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    started = time.perf_counter()
    for done in range(rounds):
        if done and (time.perf_counter() - started) * (done + 1) / done > minutes * 60:
            break
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: {"wall": round(min(w for w, _ in runs), 3), "cpu": round(min(p for _, p in runs), 3), "runs": len(runs)}
        for name, runs in seconds.items()
    }  # fmt: skip
