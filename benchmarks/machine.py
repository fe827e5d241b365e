"""What a benchmark runs on: a description without names, the rate of a matrix product, seconds and memory of a call."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def describe(threads: int) -> dict[str, Any]:
    """Processor, cores, versions; no name of a host."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model n")]
        model = lines[0] if lines else model
    found: dict[str, Any] = {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Floating-point operations a second of a matrix product of this precision: the limit that a step is held to."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * side**3 / min(clock(lambda: a @ b, device)["wall"] for _ in range(repeats))


def memory_rate(device: torch.device, repeats: int = 5) -> float:
    """Bytes a second that a copy of a large tensor reads and writes."""
    count = 2**30 if device.type == "cuda" else 2**25
    a, b = (torch.zeros(count, device=device, dtype=torch.bfloat16) for _ in range(2))
    b.copy_(a)
    return 2 * a.nbytes / min(clock(lambda: b.copy_(a), device)["wall"] for _ in range(repeats))


def clock(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of one call: on the wall, and of processor time over all threads."""
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    wait(device)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """MiB that a call took on top of what was there before it: of the GPU, or of the process (Linux)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls gave back to the allocator, to the system
    reset.write_text("5")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 2**10


def _status(key: str) -> float:
    """A line of the process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(key)))


def median(values: list[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, Any]:
    """:func:`describe`, and the load of the last minute (other work on the machine slows a run down)."""
    return {**describe(torch.get_num_threads()), "load": round(os.getloadavg()[0], 1)}


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
