"""``-m``: the folder of a sweep, which the same command continues, and what is said at its end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from dgn.cli.changes import VERSIONS, files_in
from dgn.cli.compose import compose, settled
from dgn.cli.keys import HYDRAS_OWN, RUN
from dgn.cli.sweeps.grid_search import mend_grid_search
from dgn.cli.sweeps.job import RECORDS, WAITING, records
from dgn.cli.sweeps.resume import hold, newest, refuse_foreign
from dgn.cli.verbs import JOINED
from dgn.cli.words import key_of, overrides_in, parse, quoted, texts_in
from dgn.errors import DgnError
from dgn.files.folders import HYDRAS, begins
from dgn.files.ledger import foreign
from dgn.runs.run import Run, now

FILE = "sweep.json"
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

    Raises:
        DgnError: the folder that was asked for holds something else, or another process works in it.
    """

    def __init__(self, verb: str, arguments: Sequence[str]) -> None:
        self.verb, self.arguments = verb, list(arguments)
        self.words = {word: key_of(word) for word in overrides_in(arguments)}
        deciding = [word for word, key in self.words.items() if key not in RUN | HYDRAS_OWN]
        facts = [verb, deciding, VERSIONS, files_in(deciding)]
        self.key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        given, resume = self._composed()
        self.started, self.continues = now(), False
        self.run, self.held = self._open(given, resume)
        self.folder = self.run.folder
        self.before = self._records()
        self._write("running")

    def _composed(self) -> tuple[Path | None, bool]:
        """The folder that ``out=`` or ``hydra.sweep.dir=`` asks for, and ``resume``, as Hydra reads them."""
        for word, key in self.words.items():
            if key in ("out", "hydra.sweep.dir") and parse(word).is_sweep_override():
                raise DgnError(f"{word!r} has several values: a sweep has one folder, and in it one of each job")
        config = compose(self.verb, self.arguments)
        mend_grid_search(config.hydra.sweeper)
        out = settled(config, "out")
        if out is None and "hydra.sweep.dir" in self.words.values():
            out = settled(config, "hydra.sweep.dir")
        _check_subfolder(config, out or settled(config, "hydra.sweep.dir") or ".")
        return None if out is None else Path(out), bool(config.get("resume", True))

    def _open(self, given: Path | None, resume: bool) -> tuple[Run, IO[bytes]]:
        if given is None:
            run, held = newest(self.verb, self.key, JOINED, FILE, resume=resume)
            self._continue(run.take_up(self.verb), run.folder, resume)
            return run, held
        refuse_foreign(given, self.verb, FILE)
        run, held = Run(given, JOINED, FILE), hold(given)
        facts = run.take_up(self.verb)
        if resume and facts and facts.get("key") != self.key:
            same = facts.get("verb") == self.verb and facts.get("overrides") == self._overrides()
            what = "this sweep from before a file that it names, or dgn or PyTorch, changed"
            raise DgnError(
                f"{str(given)!r} holds {what if same else 'another sweep'}: give another out=, "
                "or resume=false to replace it"
            )
        for name, first in HYDRAS.items():
            if os.path.lexists(given / name) and not begins(given / name, first):
                raise DgnError(foreign(given / name))
        self._continue(facts, given, resume)
        return run, held

    def _continue(self, facts: dict[str, Any], folder: Path, resume: bool) -> None:
        """Take up what an earlier call left, or forget what became of its jobs."""
        self.continues = bool(facts)  # also where it is replaced: the folder is not new
        if facts and resume:
            done = sum(record.read().get("status") == "done" for record in records(folder))
            self.started = str(facts.get("started", self.started))
            print(f"dgn: continuing the sweep {folder} ({done} jobs done)", file=sys.stderr)
        if not resume:
            _forget(folder)

    def _write(self, status: str, **more: Any) -> None:
        self.run.write_manifest({
            "verb": self.verb, "overrides": self._overrides(),
            "key": self.key, "status": status, "started": self.started, **more,
        })  # fmt: skip

    def _records(self) -> dict[int, dict[str, Any]]:
        return {record.number: record.read() for record in records(self.folder)}

    def _overrides(self) -> list[str]:
        return [word for word in self.arguments if not word.startswith("-")]

    def hydra_arguments(self) -> list[str]:
        """The command line with the folder that was chosen, and a seed for a sweeper that has none."""
        words = [word for word in self.arguments if self.words.get(word) != "hydra.sweep.dir"]
        place = next((i for i, word in enumerate(words) if word in self.words), len(words))
        folder = f"hydra.sweep.dir={quoted(str(self.folder))}"
        return [*words[:place], folder, *self._seed(), *words[place:]]  # beside others: argparse wants them together

    def _seed(self) -> list[str]:
        chosen = {key: "".join(texts_in(word)) for word, key in self.words.items() if key.startswith("hydra/sweeper")}
        key = SEEDS.get(chosen.get("hydra/sweeper", ""))
        grid = chosen.get("hydra/sweeper/sampler") == "grid"  # has no seed: its order is fixed
        return [] if key is None or key in self.words.values() or grid else [f"{key}=0"]

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
                _forget(self.folder)
                if not self.run.discard():
                    self.run.drop_hydras()
                    self.run.ledger.remove([FILE])
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
        from dgn.cli.sweeps.gather import gather

        try:
            files = gather(self.folder, table_alone=table_alone)
        except DgnError as error:
            print(f"dgn: the sweep's runs were not joined: {error}", file=sys.stderr)
            return
        for file in files:
            print(file)


def _forget(folder: Path) -> None:
    """What became of a sweep's jobs."""
    for record in records(folder):
        record.remove()
    with suppress(OSError):  # somebody's file is in it
        (folder / RECORDS).rmdir()


def _check_subfolder(config: Any, folder: str) -> None:
    """Whether each job has a folder of its own below the sweep's, as far as the first job tells."""
    from omegaconf import OmegaConf, read_write
    from omegaconf.errors import OmegaConfBaseException

    config = config.copy()
    with read_write(config.hydra.job):
        config.hydra.job.num, config.hydra.job.id = 0, "0"
    sweep = os.path.realpath(folder)
    try:
        name = str(OmegaConf.select(config, "hydra.sweep.subdir"))
    except OmegaConfBaseException:  # of what only the jobs have
        return
    if os.path.realpath(os.path.join(sweep, name)) == sweep:
        raise DgnError(
            f"hydra.sweep.subdir={name} is the sweep's own folder: each job needs one below it, as the default, "
            "${hydra.job.num}, gives"
        )


def _plain(word: str) -> str:
    return re.sub(r"[\\'\"]", "", word).lower()
