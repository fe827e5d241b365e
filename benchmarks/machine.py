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


def alternate(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Each call in turn, so many rounds: the least wall-clock seconds, and the least processor seconds, of each."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: {"wall": round(min(w for w, _ in runs), 3), "cpu": round(min(p for _, p in runs), 3)}
        for name, runs in seconds.items()
    }
