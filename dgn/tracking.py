"""Weights & Biases: one run a job. It is a guest: whatever goes wrong there, the job goes on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgn.errors import DgnError, nearest

MODES = ("offline", "online", "off")


class Tracker:
    """Logs curves, pictures, the results table and the configuration of one job.

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
        if mode == "off":
            return
        import wandb

        for attempt in (mode, "offline"):
            try:
                self._run = wandb.init(
                    mode="online" if attempt == "online" else "offline", dir=str(folder), config=dict(config),
                    project=project, entity=entity, name=name, group=group, job_type=job_type,
                    reinit="finish_previous", settings=wandb.Settings(silent=True, init_timeout=30, console="off"),
                )  # fmt: skip
                return
            except Exception as error:
                warnings.warn(f"Weights & Biases ({attempt}) did not start: {_line(error)}", stacklevel=2)

    def _guard(self, action: str, call: Any) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            self._run = None
            warnings.warn(f"Weights & Biases stopped at {action}: {_line(error)}", stacklevel=3)

    def curves(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step; each prefix has a step axis of its own, ``PREFIX/step``."""

        def log(run: Any) -> None:
            run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")
            run.log({f"{prefix}/step": step, **{f"{prefix}/{name}": value for name, value in values.items()}})

        self._guard("curves", log)

    def picture(self, name: str, path: Path, caption: str = "") -> None:
        """A picture from a file."""

        def log(run: Any) -> None:
            import wandb

            run.log({name: wandb.Image(str(path), caption=caption or None)})

        self._guard("a picture", log)

    def table(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """The results with their images."""

        def log(run: Any) -> None:
            import wandb

            columns = list(rows[0])
            table = wandb.Table(columns=["picture", *columns])
            for row in rows:
                values = [None if row[column] == "" else row[column] for column in columns]
                table.add_data(wandb.Image(str(folder / str(row["image"]))), *values)
            run.log({"results": table})

        if rows:
            self._guard("the table", log)

    def examples(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Examples of a data set: a row a unit, kind and rank, with the image and what the unit's feature sees."""

        def log(run: Any) -> None:
            import wandb

            columns = ["unit", "kind", "rank", "activation", "name"]
            table = wandb.Table(columns=["image", "field", *columns])
            for row in rows:
                pictures = [wandb.Image(str(folder / row[key])) if row[key] else None for key in ("image", "field")]
                table.add_data(*pictures, *(row[column] for column in columns))
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

    def finish(self, *, failed: bool = False) -> None:
        """End the run, marked as failed where it did."""
        self._guard("the end", lambda run: run.finish(exit_code=1 if failed else 0))
        self._run = None


def check_mode(mode: str) -> None:
    """Refuse an unknown mode, and ``"online"`` where it would have to ask for an account."""
    if mode not in MODES:
        raise DgnError(f"no tracking mode {mode!r}{nearest(mode, MODES) or '; expected ' + ', '.join(MODES)}")
    if mode == "online" and not os.environ.get("WANDB_API_KEY"):
        import wandb

        if not wandb.login(prompt=False):
            raise DgnError("tracking=online needs an account: run 'wandb login', or use tracking=offline")


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
