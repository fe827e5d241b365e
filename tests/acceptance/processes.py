"""Commands as real processes, for the tests that kill them and wait for them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TINY = [
    "prior=[pixel,fourier]", "prior.pixel.size=16", "prior.fourier.size=16", "tracking=off", "progress=false",
    "ascent.jitter=0.1",
]  # fmt: skip


def wandb_records(log: Path) -> list[dict[str, Any]]:
    """What an offline run of Weights & Biases holds, read by its own inspector; that one is asked again where it fails,
    as it sometimes does beside other processes of its kind."""
    call = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(log)]
    for _ in range(10):
        done = subprocess.run(call, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return [json.loads(line) for line in done.stdout.splitlines()]
        time.sleep(2)
    raise AssertionError(done.stderr)


def start(*arguments: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    """The command as a process group of its own, as a terminal starts it: a shell that runs the tests in its background
    lets them, and their children, ignore Ctrl-C."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **variables}
    call = [sys.executable, "-m", "dgn", *arguments]
    return subprocess.Popen(
        call,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(condition: object, process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    """Wait for something on disk while the process lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as table:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(table)]


def alive(pattern: str) -> dict[int, str]:
    """Living processes whose environment holds a text, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if pattern in path.read_text(errors="replace") and "State:\tZ" not in (path.parent / "status").read_text():
                found[int(path.parent.name)] = (path.parent / "cmdline").read_text()
        except OSError:  # it has ended
            continue
    return found
