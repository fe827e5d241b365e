"""``-m``: the folder of a sweep, which the same command continues, and what is said at its end."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from dgn.cli.changes import VERSIONS, files_in
from dgn.cli.job import RECORDS, WAITING, records
from dgn.errors import DgnError
from dgn.runs import Run, new_folder, now
from dgn.storage import lock, write_atomic

FILE = "sweep.json"
NOT_DECIDING = ("resume", "progress", "launcher", "hydra/launcher", "hydra.launcher", "out", "hydra.sweep.dir")
"""Overrides that don't change the results; a sweep goes on with others."""
SEEDS = {"optuna": "hydra.sweeper.sampler.seed"}
"""Of sweepers that optimise: where their seed stands. Without one they propose other values each time, and a sweep of
theirs could not go on. (Those of Nevergrad and Ax can't be imported by Python 3.11 and later.)"""
ALONE = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info", "-p", "--package", "--resolve")


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for several jobs."""
    flags = {word.split("=", 1)[0] for word in arguments if word.startswith("-")}
    return bool(flags & {"-m", "--multirun"}) and not flags & set(ALONE)


class Sweep:
    """A sweep's folder: ``sweep.json``, ``jobs/NUMBER.json``, and one folder a job.

    Args:
        verb, arguments: the command line.

    Raises:
        DgnError: the folder that was asked for holds another sweep, or another process works in it.
    """

    def __init__(self, verb: str, arguments: Sequence[str]) -> None:
        self.verb, self.arguments = verb, list(arguments)
        deciding = [word for word in arguments if key_of(word) not in NOT_DECIDING and not word.startswith("-")]
        facts = [verb, deciding, VERSIONS, files_in(deciding)]
        self.key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        given = [word.split("=", 1)[1].strip("'\"") for word in arguments if key_of(word) in ("out", "hydra.sweep.dir")]
        resume = "resume=false" not in [word.lower() for word in arguments]
        self.started, self.continues = now(), False
        self.run, self.held = self._open(Path(given[-1]) if given else None, resume)
        self.folder = self.run.folder
        if not resume:
            shutil.rmtree(self.folder / RECORDS, ignore_errors=True)
        self.before = self._records()
        self._write("running")

    def _open(self, given: Path | None, resume: bool) -> tuple[Run, IO[bytes]]:
        if given is not None:
            run, held = Run(given), lock(given)
            if held is None:
                raise DgnError(f"another process is at work in {str(given)!r}; wait for it, or give another out=")
            facts = read_sweep(given)
            if resume and facts and facts.get("key") != self.key:
                same = facts.get("verb") == self.verb and facts.get("overrides") == self._overrides()
                what = "this sweep from before a file that it names, or dgn or PyTorch, changed"
                raise DgnError(
                    f"{str(given)!r} holds {what if same else 'another sweep'}: give another out=, "
                    "or resume=false to replace it"
                )
            self._continue(facts, given)
            return run, held
        for path in sorted((Path("runs") / self.verb).glob(f"*/{FILE}"), reverse=True) if resume else []:
            facts = read_sweep(path.parent)
            if facts.get("key") == self.key and facts.get("status") != "done":
                held = lock(path.parent)
                if held is not None:
                    self._continue(facts, path.parent)
                    return Run(path.parent), held
        while True:
            run = Run(new_folder(self.verb))
            held = lock(run.folder)
            if held is not None and not read_sweep(run.folder):
                return run, held

    def _continue(self, facts: dict[str, Any], folder: Path) -> None:
        if facts:
            done = sum(record.read().get("status") == "done" for record in records(folder))
            self.started, self.continues = str(facts.get("started", self.started)), True
            print(f"dgn: continuing the sweep {folder} ({done} jobs done)", file=sys.stderr)

    def _write(self, status: str, **more: Any) -> None:
        facts = {
            "verb": self.verb, "overrides": self._overrides(),
            "key": self.key, "status": status, "started": self.started, **more,
        }  # fmt: skip
        write_atomic(self.folder / FILE, (json.dumps(facts, indent=1) + "\n").encode())

    def _records(self) -> dict[int, dict[str, Any]]:
        return {record.number: record.read() for record in records(self.folder)}

    def _overrides(self) -> list[str]:
        return [word for word in self.arguments if not word.startswith("-")]

    def hydra_arguments(self) -> list[str]:
        """The command line with the folder that was chosen, and a seed for a sweeper that has none."""
        path = str(self.folder).replace("\\", "\\\\").replace("'", "\\'")
        words = [word for word in self.arguments if key_of(word) != "hydra.sweep.dir"]
        place = next((i for i, word in enumerate(words) if "=" in word and not word.startswith("-")), len(words))
        return [
            *words[:place],
            f"hydra.sweep.dir='{path}'",
            *self._seed(),
            *words[place:],
        ]  # beside others: argparse wants them together

    def _seed(self) -> list[str]:
        given = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in self._overrides())}
        key = SEEDS.get(given.get("hydra/sweeper", ""))
        grid = given.get("hydra/sweeper/sampler") == "grid"  # has no seed and needs none
        return [] if key is None or key in given or grid else [f"{key}=0"]

    def end(self, *, interrupted: bool = False, broken: bool = False) -> str:
        """Write down how it ended, join what there is; returns the line about failed jobs, empty where none failed.

        Args:
            interrupted: jobs that wait did not fail.
            broken: it did not come to its end.
        """
        facts = self._records()
        waiting = [number for number, fact in facts.items() if fact.get("status") == WAITING]
        idle = all(number in waiting or fact == self.before.get(number) for number, fact in facts.items())
        if not facts or (idle and (interrupted or broken)):  # it did not begin
            if not self.continues:
                (self.folder / FILE).unlink(missing_ok=True)
                shutil.rmtree(self.folder / RECORDS, ignore_errors=True)
                self.run.discard()
            self.held.close()
            return ""
        failed = {number: fact for number, fact in facts.items() if fact.get("status") != "done"}
        if interrupted:
            failed = {number: fact for number, fact in failed.items() if number not in waiting}
        status = "interrupted" if interrupted else "failed" if failed or broken else "done"
        unwritten = ""
        try:
            self._write(status, jobs=len(facts), failed=sorted(failed), finished=now())
        except DgnError as error:  # a full disk: which jobs failed is said all the same
            unwritten = str(error)
        if self.verb == "synthesize":
            self._gather(table_alone=interrupted)
        self.held.close()
        if not failed:
            return unwritten
        words = []
        for number, fact in failed.items():
            lost = "its process died, or the disk is full"  # nothing was written of its end
            why = fact.get("error") or ("interrupted" if fact.get("status") == "interrupted" else lost)
            words.append(f"{number} ({self._own(fact.get('overrides', []))}): {why}")
        again = shlex.join(["dgn", self.verb, *self.arguments])
        return f"{len(failed)} of the sweep's {len(facts)} jobs failed: {'; '.join(words)}. To run just those: {again}"

    def _own(self, overrides: Sequence[str]) -> str:
        """What a job's overrides have that not all jobs have."""
        shared = {_plain(word) for word in self.arguments}
        return " ".join(word.replace("\\", "") for word in overrides if _plain(word) not in shared)

    def _gather(self, *, table_alone: bool) -> None:
        from dgn.cli.gather import gather

        try:
            files = gather(self.folder, table_alone=table_alone)
        except DgnError as error:
            print(f"dgn: the sweep's runs were not joined: {error}", file=sys.stderr)
            return
        for file in files:
            print(file)


def read_sweep(folder: Path) -> dict[str, Any]:
    """What ``sweep.json`` says; empty where there is none."""
    try:
        facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _plain(word: str) -> str:
    return re.sub(r"[\\'\"]", "", word).lower()


def key_of(word: str) -> str:
    """What an override sets; of launchers' keys, the group."""
    key = word.lstrip("+~").split("=", 1)[0]
    for group in ("launcher", "hydra.launcher"):
        if key.startswith(group + "."):
            return group
    return key
