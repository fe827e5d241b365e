"""Weights & Biases: one run a job. It is a guest: whatever goes wrong there, the job goes on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgn.errors import DgnError, first_line, nearest
from dgn.runs.writer import Writer

MODES = ("offline", "online", "off")

ALLOWANCE, SHARE = 0.25, 0.003
"""Seconds, and the share of a job's time besides, that curves and pictures may cost; what is beyond is left out, but
for the end of each curve."""

PATIENCE = 10
"""Seconds that the server may take to answer at the start; twice as many to take what is left at the end."""

MOST_PICTURES = 512
"""In a table."""


class Tracker:
    """Logs curves, pictures, the results table and the configuration of one job, from a thread of its own.

    Curves and the pictures of the table are thinned out where logging would cost more than :data:`SHARE` of the time;
    the summary, the grid and the table's numbers are always complete.

    Args:
        mode: ``"offline"`` (no account, no network), ``"online"``, or ``"off"``. Online falls back to offline, with a
            warning, where the server can't be reached; it never prompts.
        folder: the run folder; Weights & Biases writes into ``wandb/`` there.
        config: the whole configuration.
        begin: starts a run; by default ``wandb.init``.
        clock: what tells the time.
        how: what else it is begun with: project, entity, name, group (the sweep), job_type.

    Raises:
        DgnError: an unknown mode, or ``"online"`` without an account.
    """

    def __init__(
        self, mode: str, folder: Path, config: Mapping[str, Any], *, begin: Callable[..., Any] | None = None,
        clock: Any = time, **how: Any,
    ) -> None:  # fmt: skip
        check_mode(mode)
        self._run: Any = None
        self._clock, self._began, self._spent = clock, clock.monotonic(), 0.0
        self._writer = None if mode == "off" else Writer(most=256)
        self.cost = 0.0
        """Seconds that the job has given to it: waiting for the thread, and the processor's time in the thread."""
        # absolute: a service of Weights & Biases that was there before (of an agent) stands in another folder
        how = {"dir": str(folder.absolute()), "config": dict(config), **how}
        self._put(lambda: self._start(mode, folder, begin or _begin, how))

    def _start(self, mode: str, folder: Path, begin: Callable[..., Any], how: dict[str, Any]) -> None:
        strange = _in_its_way(folder / "wandb")
        if strange:
            _say(f"Weights & Biases did not start: {strange} is not what it wrote; the job goes on")
            return
        for attempt in dict.fromkeys((mode, "offline")):
            try:
                self._run = begin(mode=attempt, **how)
                return
            except Exception as error:
                goes_on = "the job goes on, tracked offline" if attempt == "online" else "the job goes on"
                _say(f"Weights & Biases ({attempt}) did not start: {first_line(error)}; {goes_on}")

    @property
    def on(self) -> bool:
        """Whether anything is logged."""
        return self._writer is not None

    def _put(self, work: Callable[[], None]) -> None:
        """Have the thread do it."""
        if self._writer is None:
            return

        def counted() -> None:
            began = self._clock.thread_time()
            work()
            self.cost += self._clock.thread_time() - began

        began = self._clock.monotonic()
        self._writer.put(counted)
        self.cost += self._clock.monotonic() - began

    def _guard(self, action: str, call: Callable[[Any], None], *, optional: bool = False) -> None:
        """Have the thread log something; what goes wrong ends the tracking, and nothing else."""

        def work() -> None:
            if self._run is None or (optional and self._spent > self._budget()):
                return
            began = self._clock.monotonic()
            try:
                call(self._run)
            except Exception as error:
                self._run = None
                _say(f"Weights & Biases stopped at {action}: {first_line(error)}; the job goes on")
            self._spent += self._clock.monotonic() - began

        self._put(work)

    def _budget(self) -> float:
        """Seconds that curves and pictures may have taken by now."""
        return ALLOWANCE + SHARE * (self._clock.monotonic() - self._began)

    def curves(self, prefix: str, step: int, values: Mapping[str, float], *, keep: bool = False) -> None:
        """Numbers at a step; each prefix has a step axis of its own, ``PREFIX/step``. ``keep``: never left out."""

        def log(run: Any) -> None:
            run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")
            run.log({f"{prefix}/step": step, **{f"{prefix}/{name}": value for name, value in values.items()}})

        self._guard("curves", log, optional=not keep)

    def picture(self, name: str, path: Path, caption: str = "") -> None:
        """A picture from a file."""

        def log(run: Any) -> None:
            import wandb

            run.log({name: wandb.Image(str(path), caption=caption or None)})

        self._guard("a picture", log)

    def table(
        self, name: str, rows: Sequence[Mapping[str, Any]], folder: Path = Path(), *,
        pictures: Mapping[str, str] | None = None, columns: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Rows with their pictures; of very many, with those of the first rows.

        Args:
            name: of the table.
            rows: of which each has ``columns`` (by default all of the first row).
            folder, pictures: where the pictures are, and in which key of a row the file for each heading stands.
        """
        pictures, columns = pictures or {}, list(columns or (rows[0] if rows else ()))

        def log(run: Any) -> None:
            import wandb

            began, left, shown = self._clock.monotonic(), max(ALLOWANCE, self._budget() - self._spent), 0
            table = wandb.Table(columns=[*pictures, *columns])
            for row in rows:
                images: list[Any] = []
                for file in (row[key] for key in pictures.values()):
                    there = file and shown < MOST_PICTURES and self._clock.monotonic() - began <= left
                    images.append(wandb.Image(str(folder / file)) if there else None)
                    shown += bool(there)
                table.add_data(*images, *(None if row[column] == "" else row[column] for column in columns))
            run.log({name: table})

        if rows:
            self._guard("a table", log)

    def summary(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole job, by which runs are compared."""
        self._guard("the summary", lambda run: run.summary.update(dict(values)))

    def finish(self, *, failed: bool = False) -> None:
        """End the run, marked as failed where it did; all that was logged before is written."""
        if self._writer is None:
            return
        self._guard("the end", lambda run: run.finish(exit_code=1 if failed else 0))
        began, spent = self._clock.monotonic(), self.cost
        writer, self._writer = self._writer, None
        writer.close()
        self.cost = (
            spent + self._clock.monotonic() - began
        )  # the job waits: the clock's time, the thread's is within it
        self._run = None


def _begin(**how: Any) -> Any:
    """A run of Weights & Biases that says nothing, asks nothing, and does not list all installed packages, which would
    take 0.12 seconds of each job: the versions that matter are in its configuration."""
    import wandb

    known = getattr(wandb.Settings, "model_fields", ())
    cheap = {"x_save_requirements": False} if "x_save_requirements" in known else {}
    settings = wandb.Settings(
        silent=True, console="off", init_timeout=PATIENCE, finish_timeout=2 * PATIENCE, **cheap
    )  # fmt: skip
    return wandb.init(reinit="finish_previous", settings=settings, **how)


def _in_its_way(folder: Path) -> str:
    """What Weights & Biases would replace in its folder of a run, and did not write: it makes links of these names."""
    links = (folder / name for name in ("latest-run", "debug.log", "debug-internal.log", "debug-core.log"))
    places = [path for path in links if os.path.lexists(path) and not path.is_symlink()]
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        places = [folder]
    return repr(str(places[0])) if places else ""


def check_mode(mode: str) -> None:
    """Refuse an unknown mode, and ``"online"`` where it would have to ask for an account."""
    if mode not in MODES:
        raise DgnError(f"no tracking mode {mode!r}{nearest(mode, MODES) or '; expected ' + ', '.join(MODES)}")
    if mode == "online" and not os.environ.get("WANDB_API_KEY"):
        import wandb

        if not wandb.login(prompt=False):
            raise DgnError("tracking=online needs an account: run 'wandb login', or use tracking=offline")


def _say(line: str) -> None:
    print(f"dgn: {line}", file=sys.stderr)
