"""Runs jobs of dgn in forked processes that have torch imported already, and kills them at random moments.

usage: killing.py ROOT KILLS SEED ARGUMENT...; writes ROOT/report.json. Jobs are ``synthesize ARGUMENT... out=DIR``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch.export.pt2_archive._package  # reads the network's file; two seconds that no job needs to spend again

from dgn.cli.main import main


def start(arguments: list[str], log: Path) -> int:
    """Fork a process that runs one command; returns its id."""
    child = os.fork()
    if child:
        return child
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 70
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int) -> int:
    """How it ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ended(child: int) -> bool:
    """Whether it has; :func:`wait` can still say how."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def count(folder: Path) -> int:
    """Batches that are there, while a process may be adding to them or removing them at its end."""
    try:
        return sum(name.endswith(".safetensors") and name[0] != "." for name in os.listdir(folder / "parts"))
    except FileNotFoundError:
        return 0


def parts(folder: Path) -> dict[str, int]:
    """Finished batches, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "parts").glob("[!.]*.safetensors")}


def run(root: Path, kills: int, seed: int, arguments: list[str]) -> None:
    rng = random.Random(seed)
    torch.set_num_threads(1)
    command = ["synthesize", *arguments]
    main(
        [*command, "objective=none"]
    )  # refused, but what it imports and loads stays (autograd does not survive a fork)
    began = time.monotonic()
    whole = wait(start([*command, f"out={root}/whole"], root / "whole.log"))
    length = time.monotonic() - began
    report: dict[str, list] = {"codes": [whole], "killed_with": [], "redone": [], "said": []}
    number, done = 0, 0
    while done < kills:
        folder, log = root / f"killed{number}", root / f"killed{number}.log"
        while True:
            before, seen = parts(folder), log.stat().st_size if log.exists() else 0
            child = start([*command, f"out={folder}"], log)
            if done < kills and rng.random() < 0.9:
                aim = len(before) + rng.randrange(4)  # batches, so that a slow machine is killed where a fast one is
                while count(folder) < aim and not ended(child):
                    time.sleep(0.002)
                time.sleep(rng.uniform(0.0, 0.2 * length))
                os.kill(child, signal.SIGKILL)
            code = wait(child)
            text = log.read_text()[seen:]
            if before and "continuing" in text:
                report["said"].append(f"({len(before)} of " in text)
            after = parts(folder)
            if after:  # not finished: what was there has not been written again
                report["redone"] += [name for name in before if after.get(name) != before[name]]
            if code == -signal.SIGKILL:
                done += 1
                report["killed_with"].append(len(after))
                continue
            report["codes"].append(code)
            break
        number += 1
    (root / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
