"""Which folder a job works in: a new one, or that of the same job, killed or stopped before its end."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from dgn.cli.manifest import open_tracker
from dgn.cli.tracking import Tracker
from dgn.cli.verbs import VERBS
from dgn.errors import DgnError
from dgn.files.folders import check_folder, read_facts
from dgn.files.storage import lock
from dgn.runs.run import Run, now

PATIENCE = 15.0
"""Seconds that a job waits for another process to leave its folder: one that was told to stop is still writing. The
environment's ``DGN_PATIENCE`` gives others."""


@contextmanager
def open_job(config: Any, manifest: dict[str, Any]) -> Iterator[tuple[Run, dict[str, Any]]]:
    """The job's folder, locked; the manifest of what is already there (empty: a new job, whose own is written).

    ``out=`` and a sweep's sub-folder are continued where they hold the same job. Without them, the newest unfinished
    run of the same job that no living process works on is. ``resume=false`` starts anew. The manifest's ``key`` is of
    everything that decides the results.

    Raises:
        DgnError: the folder holds something else, another process works in it, or it can't be made.
    """
    verb, given = str(config.verb), given_folder(config)
    patterns, resume = _writes(verb), config.resume
    run, held = _locked(given, verb, patterns) if given else newest(verb, manifest["key"], patterns, resume=resume)
    with held:
        before = run.take_up(verb)
        if before and (not config.resume or before["status"] == CLEARING):
            run.check_way()
            run.write_manifest({**before, "status": CLEARING})  # should this be killed, nothing of it is gone on with
            run.clear()
            before = {}
        if before and before.get("key") != manifest["key"]:
            raise DgnError(f"{str(run.folder)!r} holds another job: give another out=, or resume=false to replace it")
        if before.get("status") != "done":
            run.check_way()
        elif run.ledger.leftovers():  # killed behind its last manifest
            run.write_manifest(before)
        if not before:
            _begin(run, config, manifest)
        elif before["status"] != "done" and not run.holds("config.yaml"):  # killed behind the manifest
            _configure(run, config)
        with run.ledger:
            yield run, before


CLEARING = "clearing"
"""The status of a run whose files are being removed for another job."""


@contextmanager
def at_work(config: Any, manifest: dict[str, Any], figure: Sequence[str] = ()) -> Iterator[tuple[Run, Tracker]]:
    """The folder of a job of any other verb, locked, and its tracking; see :func:`tracked`. ``figure``: the
    files of one.

    Raises:
        DgnError: the folder holds something else, another process works in it, or it can't be made.
    """
    verb = str(config.verb)
    given, patterns = given_folder(config), _writes(verb, figure)
    run, held = _locked(given, verb, patterns) if given else newest(verb, "", patterns, resume=False)
    with held:
        run.take_up(verb)
        run.check_way()
        with tracked(config, run, manifest, begin=True) as tracker, run.ledger:
            yield run, tracker


@contextmanager
def tracked(config: Any, run: Run, manifest: dict[str, Any], *, begin: bool = False) -> Iterator[Tracker]:
    """A job's tracking, and the end of its manifest, with what was added to it meanwhile.

    However the job ends, the tracking is ended. Where it ends with an exception, Weights & Biases and the manifest say
    so; a folder in which nothing was finished is removed.
    """
    tracker: Tracker | None = None
    try:
        if begin:
            _begin(run, config, manifest)
        tracker = open_tracker(config, run)
        yield tracker
        run.write_manifest({**manifest, "status": "done", "finished": now()})
        tracker.finish()
    except BaseException as error:
        if tracker is not None:
            tracker.finish(failed=True)
        with suppress(DgnError):  # the disk may be what failed
            if not run.discard() and run.read_manifest().get("status") != "done":
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                run.write_manifest({**manifest, "status": status, "finished": now()})
        raise


def newest(
    verb: str, key: str, patterns: Sequence[str], manifest: str = "manifest.json", *, resume: bool = True
) -> tuple[Run, IO[bytes]]:
    """The newest unfinished run of a job below ``runs/VERB`` that no living process works on, else (and without
    ``resume``) a new one; locked."""
    for path in sorted((Path("runs") / verb).glob(f"*/{manifest}"), reverse=True) if resume else []:
        facts = read_facts(path)
        if facts.get("key") == key and facts.get("status") != "done" and (held := lock(path.parent)):
            run = Run(path.parent, patterns, manifest)
            if run.read_manifest().get("status") != "done":  # nor was it finished just now
                return run, held
            held.close()
    run = Run.new(verb, patterns, manifest)
    return run, hold(run.folder)


def hold(folder: Path) -> IO[bytes]:
    """The folder's lock, until it is closed; made where it is missing.

    Raises:
        DgnError: another process has it, and keeps it for :data:`PATIENCE`.
    """
    held = lock(folder, wait=_patience())
    if held is None:
        raise DgnError(f"another process is at work in {str(folder)!r}; wait for it, or give another out=")
    return held


def _patience() -> float:
    given = os.environ.get("DGN_PATIENCE", "")
    try:
        seconds = float(given or PATIENCE)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise DgnError(f"DGN_PATIENCE is {given!r}, expected seconds, 0 or more")
    return seconds


def given_folder(config: Any) -> Path | None:
    """``out=``, or the folder that the sweep has for the job; None: a new one is wanted."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return None if config.out is None else Path(str(config.out))
    place = hydra.sweep  # whose folder is out=, where that was given: it was read once, for the sweep
    return Path(hydra.runtime.output_dir) if config.out is None else Path(str(place.dir)) / str(place.subdir)


def refuse_foreign(folder: Path | None, verb: str, manifest: str = "manifest.json") -> None:
    """:func:`check_folder` before anything else is done, or said of a folder in which a process is at work."""
    if folder is not None and not (folder / ".lock").exists():
        check_folder(folder, verb, manifest)


def _writes(verb: str, figure: Sequence[str] = ()) -> list[str]:
    """Patterns of what a job writes beside its manifest."""
    return ["config.yaml", *(figure or VERBS[verb].writes or ())]


def _locked(folder: Path, verb: str, patterns: list[str]) -> tuple[Run, IO[bytes]]:
    refuse_foreign(folder, verb)
    run = Run(folder, patterns)
    return run, hold(folder)


def _begin(run: Run, config: Any, manifest: dict[str, Any]) -> None:
    """Write a job's first files, the manifest before all others: a folder without one counts as the user's. What is
    only assumed of the network is printed."""
    run.write_manifest(manifest)
    _configure(run, config)
    for line in manifest.get("assumed", []):
        print(f"dgn: {line}", file=sys.stderr)


def _configure(run: Run, config: Any) -> None:
    run.write_text("config.yaml", OmegaConf.to_yaml(config, resolve=True))
