"""One job of a verb, in the process in which a launcher runs it. In a sweep the end of each job is written down."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from dgn.cli.changes import made_from
from dgn.cli.compose import explain
from dgn.cli.settle import settle
from dgn.errors import DgnError, of_machine, unexpected
from dgn.files.folders import read_facts
from dgn.files.ledger import foreign
from dgn.files.storage import write_atomic
from dgn.runs.run import now

RECORDS, WAITING = "jobs", "waiting"


class Task:
    """What Hydra calls for each job; can be sent to other processes.

    Attributes:
        stopped: the line of a single job that ended with an error.
        broken: whether something other than a user's mistake went wrong in this process.
        unread: whether nobody reads what it prints any more.
    """

    def __init__(self, verb: str) -> None:
        self.verb, self.stopped, self.broken, self.unread = verb, "", False, False

    def __call__(self, config: Any) -> float | None:
        """Run the job; in a sweep, one that is done already is not run again, and no error stops the others."""
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN:
            record = Record(Path(str(hydra.sweep.dir)), int(hydra.job.num))
            return told(self._in_sweep(config, record, [str(word) for word in hydra.overrides.task]), hydra)
        try:
            return self._run(config)
        except Exception as error:  # a closed pipe, too: raised through Hydra it would not be quiet
            self.unread, self.stopped = isinstance(error, BrokenPipeError), self._line(error)
            return None

    def _run(self, config: Any) -> float | None:
        settle(config)
        if "tracking" in config:  # a job with a folder
            from dgn.cli.sweeps.resume import given_folder, refuse_foreign

            refuse_foreign(given_folder(config), self.verb)
        if str(config.verb) != self.verb:
            raise DgnError(f"verb={config.verb}: the verb is the first word, {self.verb!r}, and no key")
        value = importlib.import_module(f"dgn.cli.verbs.{self.verb}").run(config)
        return None if value is None else float(value)

    def _in_sweep(self, config: Any, record: Record, words: list[str]) -> float | None:
        facts: dict[str, Any] = {"overrides": words, "made_from": None}
        with suppress(OmegaConfBaseException):  # the job will say so
            facts["made_from"] = made_from(config)
        before = record.read()
        if before.get("status") == "done" and facts.items() <= before.items():
            return record.value()
        record.write({**facts, "status": "running", "started": now()})
        try:
            value = self._run(config)
        except Exception as error:
            line = " ".join(self._line(error).split())
            record.write({**facts, "status": "failed", "error": line, "finished": now()})
            print(f"dgn: job {record.number}: {line}", file=sys.stderr)
            return math.nan
        except KeyboardInterrupt:
            record.write({**facts, "status": "interrupted", "finished": now()})
            raise
        plain = value if value is None or math.isfinite(value) else str(value)  # JSON has no NaN
        record.write({**facts, "status": "done", "value": plain, "finished": now()})
        return value

    def _line(self, error: Exception) -> str:
        if isinstance(error, BrokenPipeError):
            return "nobody read what it printed"
        if isinstance(error, OSError) and (line := of_machine(error)):
            return line
        if isinstance(error, DgnError):
            return str(error)
        if isinstance(error, OmegaConfBaseException):
            return explain(error, self.verb)
        self.broken = True
        return unexpected(error)


def told(value: float | None, hydra: Any) -> float | None:
    """The value of a job for its sweeper: NaN for a failed job; None for Optuna, which NaN would stop."""
    optuna = "optuna" in str(hydra.sweeper.get("_target_", "")).lower()
    return None if optuna and value is not None and not math.isfinite(value) else value


class Record:
    """``SWEEP/jobs/NUMBER.json``: what became of one job of a sweep."""

    def __init__(self, sweep: Path, number: int) -> None:
        self.path, self.number = sweep / RECORDS / f"{number}.json", number

    def read(self) -> dict[str, Any]:
        """Empty where the job has not begun."""
        facts = read_facts(self.path)
        return facts if {"overrides", "status"} <= facts.keys() else {}

    def remove(self) -> None:
        """Forget the job; a file that is no record stays."""
        if self.read() and not self.path.is_symlink():
            self.path.unlink()

    def value(self) -> float | None:
        """What the job returned; NaN of one that is not done."""
        facts = self.read()
        told = facts.get("value") if facts.get("status") == "done" else math.nan
        return None if told is None else float(told)

    def write(self, facts: dict[str, Any]) -> None:
        """Replace what it says.

        Raises:
            DgnError: a file of somebody else's has its name, or the disk is full.
        """
        if os.path.lexists(self.path) and (self.path.is_symlink() or not self.read()):
            raise DgnError(foreign(self.path))
        write_atomic(self.path, (json.dumps(facts, indent=1) + "\n").encode())


def announce(sweep: Path, jobs: Sequence[Sequence[str]], first: int) -> None:
    """Write down the jobs that a launcher is about to hand out, so that one that dies before it begins is missed."""
    for number, words in enumerate(jobs, first):
        record = Record(sweep, number)
        before = record.read()
        if before.get("status") != "done" or before.get("overrides") != list(words):
            record.write({"overrides": list(words), "status": WAITING})


def died(sweep: Path, number: int, why: str) -> None:
    """Say and write down that a job's process ended before the job did."""
    print(f"dgn: job {number}: {why}", file=sys.stderr)
    record = Record(sweep, number)
    with suppress(DgnError):  # a full disk: it stays one that is not done
        record.write({**record.read(), "status": "failed", "error": why, "finished": now()})


def records(sweep: Path) -> list[Record]:
    """Those of all jobs that have begun or were handed out, in order."""
    numbers = [int(path.stem) for path in (sweep / RECORDS).glob("*.json") if path.stem.isdigit()]
    return [Record(sweep, number) for number in sorted(numbers)]
