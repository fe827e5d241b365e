"""Which folder a job works in: a new one, or that of the same job, killed or stopped before its end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from dgn.cli.common import open_tracker
from dgn.errors import DgnError
from dgn.runs import Run, new_folder, now
from dgn.storage import lock
from dgn.tracking import Tracker

PATIENCE = 15.0
"""Seconds that a job waits for another process to leave its folder: one that was told to stop is still writing."""


def open_job(config: Any, key: str) -> tuple[Run, dict[str, Any], IO[bytes]]:
    """The job's folder, locked; the manifest of what is already there (empty: a new job).

    ``out=`` and a sweep's sub-folder are continued where they hold the same job. Without them, the newest unfinished
    run of the same job that no living process works on is.

    Args:
        config: of the job; ``resume=false`` starts anew.
        key: of everything that decides its results.

    Raises:
        DgnError: the folder holds another job, another process works in it, or it can't be made.
    """
    given = _given(config)
    if given is not None:
        return _in(given, key, config)
    for folder in _unfinished(str(config.verb), key) if config.resume else []:
        held = lock(folder)
        if held is not None:
            run = Run(folder)
            manifest = run.read_manifest()
            if manifest.get("status") != "done":  # nor was it finished just now
                return run, manifest, held
            held.close()
    while True:
        run = Run(new_folder(str(config.verb)))
        held = lock(run.folder)
        if held is not None and not run.read_manifest():
            return _begun(run, config, held)


@contextmanager
def at_work(config: Any, manifest: dict[str, Any]) -> Iterator[tuple[Run, Tracker]]:
    """The folder of a job of any other verb, locked, and its tracking: where :func:`open_job` would begin a new one.

    However the job ends, the lock is let go and the tracking ended. Where it ends with an exception, Weights & Biases
    and the manifest say so; a folder in which nothing was finished is removed.

    Args:
        config: of the job.
        manifest: as it begins; who does not write another at the end leaves this one.

    Raises:
        DgnError: another process works in the folder, or it can't be made.
    """
    run = Run(_given(config) or new_folder(str(config.verb)))
    with hold(run.folder):
        tracker: Tracker | None = None
        try:
            _begin(run, config)
            run.write_manifest(manifest)
            tracker = open_tracker(config, run)
            yield run, tracker
            tracker.finish()
        except BaseException as error:
            if tracker is not None:
                tracker.finish(failed=True)
            with suppress(DgnError):  # the disk may be what failed
                if not run.discard() and run.read_manifest().get("status") != "done":
                    run.write_manifest({**manifest, "status": ending(error), "finished": now()})
            raise


def ending(error: BaseException) -> str:
    """What a manifest says of a job that ended with an exception."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def hold(folder: Path) -> IO[bytes]:
    """The folder's lock, until it is closed; made where it is missing.

    Raises:
        DgnError: another process has it, and keeps it for :data:`PATIENCE`.
    """
    held = lock(folder, wait=PATIENCE)
    if held is None:
        raise DgnError(f"another process is at work in {str(folder)!r}; wait for it, or give another out=")
    return held


def _given(config: Any) -> Path | None:
    """``out=``, or the folder that the sweep has for the job; None: a new one is wanted."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return None if config.out is None else Path(str(config.out))
    return Path(hydra.runtime.output_dir) if config.out is None else Path(str(config.out)) / str(hydra.job.num)


def _in(folder: Path, key: str, config: Any) -> tuple[Run, dict[str, Any], IO[bytes]]:
    run = Run(folder)
    held = hold(folder)
    manifest = run.read_manifest()
    if config.resume and (folder / "manifest.json").exists():
        if manifest.get("key") == key:
            return run, manifest, held
        held.close()
        raise DgnError(f"{str(folder)!r} holds another job: give another out=, or resume=false to replace it")
    run.clear()
    return _begun(run, config, held)


def _begin(run: Run, config: Any) -> None:
    run.write_config(OmegaConf.to_yaml(config, resolve=True))


def _begun(run: Run, config: Any, held: IO[bytes]) -> tuple[Run, dict[str, Any], IO[bytes]]:
    """A new job's folder, with its first file; where that can't be written, the folder is let go."""
    try:
        _begin(run, config)
    except BaseException:
        held.close()
        raise
    return run, {}, held


def _unfinished(verb: str, key: str) -> list[Path]:
    """Folders of this job below ``runs/VERB`` that are not done, the newest first."""
    found = []
    for path in sorted((Path("runs") / verb).glob("*/manifest.json"), reverse=True):
        manifest = Run(path.parent).read_manifest()
        if manifest.get("key") == key and manifest.get("status") != "done":
            found.append(path.parent)
    return found


def say_continuing(folder: Path, done: int, batches: int) -> None:
    """One line on what is there already."""
    print(f"dgn: continuing {folder} ({done} of {batches} batches done)", file=sys.stderr)
