"""Submitit's launchers, but for how jobs are waited for, stopped and missed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig

from dgn.errors import DgnError, first_line

PATIENCE = 30.0
"""Seconds that jobs have to write what they have when they are told to stop; Slurm's own default."""

GRACE = {"slurm": 15.0, "local": 0.0}
"""Seconds after the end of a job in which what it wrote may still be on its way through a network's file system."""

LOOK_EVERY = 0.5

LEAST = {
    "timeout_min": ("minutes", 1), "array_parallelism": ("at_once", 1), "cpus_per_task": ("cpus", 1),
    "mem_gb": ("memory", 1), "gpus_per_node": ("gpus", 0),
}  # fmt: skip
"""The plugin's keys: what ``launcher`` calls them, and the least that they can be."""


class SlurmLauncher(BaseSubmititLauncher):  # type: ignore[misc]
    """Waits for all jobs; one that is killed, out of time or on a lost machine fails alone."""

    _EXECUTOR = "slurm"

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra hands over before the launch."""
        for key, (name, least) in LEAST.items():
            value = self.params.get(key)
            if value is not None and value < least:
                raise DgnError(f"launcher.{name} is {value}, expected {least} or more")
        delay, minutes = self.params.get("signal_delay_s"), self.params.get("timeout_min")
        if delay and minutes:  # submitit's two minutes would end a job of two before it begins
            self.params["signal_delay_s"] = min(delay, 15 * minutes)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; returns when the last one has ended."""
        from dgn.cli.sweeps.job import Record, announce, told

        sweep = Path(str(self.config.hydra.sweep.dir))
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        given = [
            (list(words), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, words in zip(numbers, job_overrides, strict=True)
        ]
        jobs: dict[int, Any] = {}
        try:
            try:
                executor = self._executor()
                announce(sweep, job_overrides, initial_job_idx)
                with _deaf_children():
                    jobs.update(zip(numbers, executor.map_array(self, *zip(*given, strict=True)), strict=True))
            except DgnError:
                raise
            except Exception as error:
                raise DgnError(f"the jobs can't go to {self._EXECUTOR}: {first_line(error)}") from error
            self._wait(sweep, dict(jobs))
        except BaseException:
            self._cancel(jobs.values())
            raise
        results = [JobReturn(overrides=list(words), status=JobStatus.COMPLETED) for words in job_overrides]
        for result, number in zip(results, numbers, strict=True):
            result.return_value = told(Record(sweep, number).value(), self.config.hydra)
        return results

    def _executor(self) -> Any:
        import submitit

        shared = {field.name for field in fields(BaseQueueConf)}
        values = {key if key in shared else f"{self._EXECUTOR}_{key}": value for key, value in self.params.items()}
        at_start = {key: values.pop(key) for key in list(values) if key.endswith("_max_num_timeout")}
        executor = submitit.AutoExecutor(values.pop("submitit_folder"), cluster=self._EXECUTOR, **at_start)
        executor.update_parameters(**values)
        return executor

    def _wait(self, sweep: Path, running: dict[int, Any]) -> None:
        """Until each has written how it ended, or has gone without."""
        from dgn.cli.sweeps.job import Record, died

        gone: dict[int, float] = {}
        while running:
            for number, job in list(running.items()):
                if not job.done():
                    continue
                status = Record(sweep, number).read().get("status")
                returned = job.paths.result_pickle.exists()  # without, "done" may be of an earlier call
                late = time.monotonic() - gone.setdefault(number, time.monotonic())
                if status in ("failed", "interrupted") or (status == "done" and returned):
                    del running[number]
                elif late >= GRACE[self._EXECUTOR]:
                    state = "" if job.state in ("FINISHED", "COMPLETED", "UNKNOWN") else f" ({job.state})"
                    died(sweep, number, f"its process died{state}; its log is {job.paths.stderr}")
                    del running[number]
            if running:
                time.sleep(LOOK_EVERY)

    def _cancel(self, jobs: Collection[Any]) -> None:
        """Stop all jobs, and wait until they have written what they have."""
        end, told = time.monotonic() + PATIENCE, False
        while time.monotonic() < end and (left := [job for job in jobs if not job.done()]):
            if not told:
                told = self._stop(left)
            time.sleep(LOOK_EVERY)

    def _stop(self, jobs: Sequence[Any]) -> bool:
        """Send the signal; whether once is enough."""
        subprocess.call(["scancel", *{job.job_id.split("_")[0] for job in jobs}])  # the array, not each job of it
        return True

    def __call__(self, *given: Any) -> JobReturn:
        """One job, in a process of submitit's."""
        with _stoppable_job():
            return super().__call__(*given)


class SlurmLocalLauncher(SlurmLauncher):
    """The same with submitit's processes on this machine."""

    _EXECUTOR = "local"

    def _stop(self, jobs: Sequence[Any]) -> bool:
        for job in jobs:  # submitit's own way leaves a job one second
            with suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        return False  # it may have come before the job could hear it


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that start here don't hear a terminal's Ctrl-C: it is the launcher that stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _stoppable_job() -> Iterator[None]:
    """SIGTERM, which submitit ignores, ends a job as Ctrl-C does; submitit's signal before the time is up, as an error.

    Handlers stay: the process ends with the job.
    """
    from submitit.core.job_environment import JobEnvironment
    from submitit.core.utils import UncompletedJobError

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is on its way
        raise KeyboardInterrupt

    soon = JobEnvironment._usr_sig()
    requeue: Any = signal.getsignal(soon)

    def out_of_time(number: int, frame: Any) -> None:
        try:
            requeue(number, frame)
        except UncompletedJobError as error:
            raise DgnError(f"its time, launcher.minutes, is almost up: {first_line(error).rstrip('.')}") from None

    signal.signal(signal.SIGTERM, stop)
    signal.signal(soon, out_of_time)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)
