"""Weights & Biases: one run a job. It is a guest: whatever goes wrong there, the job goes on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgn.errors import DgnError, nearest
from dgn.runs.writer import Writer

MODES = ("offline", "online", "off")

ALLOWANCE, SHARE = 0.25, 0.003
"""Seconds, and the share of a job's time besides, that curves and pictures may cost; what is beyond is left out, but
for the end of each curve."""


PATIENCE = 10
"""Seconds that the server may take to answer at the start; twice as many to take what is left at the end."""

COSTLY = ("x_save_requirements",)
"""Settings of Weights & Biases that are switched off, where its version has them: to write down every installed package
takes 0.12 seconds of each job. The versions that matter are in the run's configuration."""

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
        name, group, job_type: of the run; the group is the sweep.

    Raises:
        DgnError: an unknown mode, or ``"online"`` without an account.
    """

    def __init__(
        self,
        mode: str,
        folder: Path,
        config: Mapping[str, Any],
        *,
        project: str = "dgn",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
    ) -> None:
        check_mode(mode)
        self._run: Any = None
        self._writer: Writer | None = None
        self._began, self._spent = time.monotonic(), 0.0
        self.cost = 0.0
        """Seconds that the job has given to it: waiting for the thread, and the processor's time in the thread."""
        if mode == "off":
            return

        def start() -> None:
            strange = _in_its_way(folder / "wandb")
            if strange:
                _say(f"Weights & Biases did not start: {strange} is not what it wrote; the job goes on")
                return
            for attempt in dict.fromkeys((mode, "offline")):
                try:
                    import wandb

                    cheap = {name: False for name in COSTLY if name in getattr(wandb.Settings, "model_fields", ())}
                    settings = wandb.Settings(
                        silent=True, console="off", init_timeout=PATIENCE, finish_timeout=2 * PATIENCE, **cheap
                    )  # fmt: skip
                    self._run = wandb.init(
                        mode="online" if attempt == "online" else "offline", dir=str(folder), config=dict(config),
                        project=project, entity=entity, name=name, group=group, job_type=job_type,
                        reinit="finish_previous", settings=settings,
                    )  # fmt: skip
                    return
                except Exception as error:
                    goes_on = "; the job goes on, tracked offline" if attempt == "online" else "; the job goes on"
                    _say(f"Weights & Biases ({attempt}) did not start: {_line(error)}{goes_on}")

        self._writer = Writer(most=256)
        self._put(start)

    @property
    def on(self) -> bool:
        """Whether anything is logged."""
        return self._writer is not None

    def _put(self, work: Callable[[], None]) -> None:
        """Have the thread do it."""
        if self._writer is None:
            return

        def counted() -> None:
            began = time.thread_time()
            work()
            self.cost += time.thread_time() - began

        began = time.monotonic()
        self._writer.put(counted)
        self.cost += time.monotonic() - began

    def _guard(self, action: str, call: Callable[[Any], None], *, optional: bool = False) -> None:
        """Have the thread log something; what goes wrong ends the tracking, and nothing else."""

        def work() -> None:
            if self._run is None or (optional and self._spent > self._budget()):
                return
            began = time.monotonic()
            try:
                call(self._run)
            except Exception as error:
                self._run = None
                _say(f"Weights & Biases stopped at {action}: {_line(error)}; the job goes on")
            self._spent += time.monotonic() - began

        self._put(work)

    def _budget(self) -> float:
        """Seconds that curves and pictures may have taken by now."""
        return ALLOWANCE + SHARE * (time.monotonic() - self._began)

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

    def _pictures(self, folder: Path) -> Callable[[str], Any]:
        """What makes a table's pictures of files: None for no file, and from where on they are too many or too dear."""
        import wandb

        began, left, shown = time.monotonic(), max(ALLOWANCE, self._budget() - self._spent), 0

        def picture(name: str) -> Any:
            nonlocal shown
            if not name or shown >= MOST_PICTURES or time.monotonic() - began > left:
                return None
            shown += 1
            return wandb.Image(str(folder / name))

        return picture

    def table(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """The results with their images; of very many images, with those of the first rows."""

        def log(run: Any) -> None:
            import wandb

            columns = list(rows[0])
            table = wandb.Table(columns=["picture", *columns])
            picture = self._pictures(folder)
            for row in rows:
                values = [None if row[column] == "" else row[column] for column in columns]
                table.add_data(picture(row["image"]), *values)
            run.log({"results": table})

        if rows:
            self._guard("the table", log)

    def examples(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Examples of a data set: a row a unit, kind and rank, with the image and what the unit's feature sees; of very
        many images, with those of the first rows."""

        def log(run: Any) -> None:
            import wandb

            columns = ["unit", "kind", "rank", "activation", "name"]
            table = wandb.Table(columns=["image", "field", *columns])
            picture = self._pictures(folder)
            for row in rows:
                table.add_data(picture(row["image"]), picture(row["field"]), *(row[column] for column in columns))
            run.log({"examples table": table})

        if rows:
            self._guard("the table of examples", log)

    def figures(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Numbers of an evaluation: a table, and each as ``METHOD/METRIC`` (``METHOD/METRIC/JUDGE``) of the summary."""

        def log(run: Any) -> None:
            import wandb

            columns = list(rows[0])
            run.log({"figures": wandb.Table(columns=columns, data=[[row[name] for name in columns] for row in rows])})
            for row in rows:
                name = "/".join(str(row[key]) for key in ("method", "metric", "judge") if row[key])
                run.summary[name] = row["value"]

        if rows:
            self._guard("the figures", log)

    def summary(self, values: Mapping[str, float]) -> None:
        """Numbers of the whole job, by which runs are compared."""
        self._guard("the summary", lambda run: run.summary.update(dict(values)))

    def finish(self, *, failed: bool = False) -> None:
        """End the run, marked as failed where it did; all that was logged before is written."""
        if self._writer is None:
            return
        self._guard("the end", lambda run: run.finish(exit_code=1 if failed else 0))
        began, spent = time.monotonic(), self.cost
        writer, self._writer = self._writer, None
        writer.close()
        self.cost = spent + time.monotonic() - began  # the job waits: the clock's time, the thread's is within it
        self._run = None


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


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
