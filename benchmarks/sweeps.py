"""What more units cost: time, memory, and the share of Weights & Biases, from 8 to 512 units of one job.

usage: python benchmarks/sweeps.py OUT; writes OUT/sweeps.csv and OUT/sweeps.png. Each job is a process of its own;
its peak memory is the kernel's (ru_maxrss). Last, a sweep of eight jobs of 8 units in one process: what Weights &
Biases costs each of them.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

UNITS = (8, 64, 512)
JOB = [
    "prior=pixel", "prior.pixel.size=64", "ascent.input_size=64", "ascent.steps=4", "batch=8", "seed=0",
    "tracking=offline", "progress=false", "resume=false",
]  # fmt: skip


def job(folder: Path, units: int) -> dict[str, float]:
    """Run one job; seconds in all and of the job proper, peak megabytes, seconds in Weights & Biases."""
    began = time.perf_counter()
    call = [sys.executable, "-m", "dgn", "synthesize", f"units=0-{units - 1}", f"out={folder}", *JOB]
    child = os.posix_spawn(sys.executable, call, dict(os.environ))
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    seconds = time.perf_counter() - began
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        "units": units, "seconds": round(seconds, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1), "peak_mb": round(usage.ru_maxrss / 1024),
        "job_seconds": manifest["seconds"], "tracking_seconds": manifest["tracking_seconds"],
    }  # fmt: skip


def series(folder: Path, jobs: int = 8) -> list[dict[str, float]]:
    """A sweep in one process; seconds of each job, and of these in Weights & Biases."""
    own = [word for word in JOB if not word.startswith("seed=")]
    seeds = "seed=" + ",".join(map(str, range(jobs)))
    call = [sys.executable, "-m", "dgn", "synthesize", "-m", "units=0-7", f"out={folder}", *own, seeds]
    subprocess.run(call, check=True)
    found = [json.loads((folder / str(number) / "manifest.json").read_text()) for number in range(jobs)]
    return [{"seconds": one["seconds"], "tracking_seconds": one["tracking_seconds"]} for one in found]


def write(file: Path, rows: list[dict[str, float]]) -> None:
    """As CSV."""
    with file.open("w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[dict[str, float]], file: Path) -> None:
    """Time, memory and the share of Weights & Biases."""
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
    panels = (
        ("processor seconds", [row["processor_seconds"] for row in rows]),
        ("peak memory, MB", [row["peak_mb"] for row in rows]),
        ("in Weights & Biases, % of the time", [100 * row["tracking_seconds"] / row["job_seconds"] for row in rows]),
    )
    for axis, (title, values) in zip(axes, panels, strict=True):
        axis.plot(UNITS, values, "o-", color="black")
        for x, y, after in zip(UNITS, values, [*values[1:], 0], strict=True):
            side = (-4, "right") if after > 1.2 * y else (4, "left")  # beside a line that rises, not on it
            text = f"{y:.1f}" if y < 100 else f"{y:.0f}"
            axis.annotate(text, (x, y), textcoords="offset points", xytext=(side[0], 5), ha=side[1])
        axis.set(title=title, xlabel="units", xscale="log", xticks=UNITS, ylim=(0, 1.25 * max(values)))
        axis.set_xticks(UNITS, [str(count) for count in UNITS])
        axis.minorticks_off()
        axis.title.set_fontsize(10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = [job(out / str(units), units) for units in UNITS]
    write(out / "sweeps.csv", rows)
    draw(rows, out / "sweeps.png")
    jobs = series(out / "series")
    write(out / "series.csv", jobs)
    for row in [*rows, *jobs]:
        print(row)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
