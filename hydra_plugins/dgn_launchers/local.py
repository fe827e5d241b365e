"""``launcher=local``: a pool of processes on this machine, one a GPU slot, each of which keeps its models loaded."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from tqdm import tqdm

from dgn.errors import DgnError, first_line

PATIENCE = 30.0
"""Seconds that a worker has to write what it has when it is told to stop."""


CONFIG = {"_target_": "hydra_plugins.dgn_launchers.local.LocalLauncher", "slots": None, "threads": None}
"""``slots``: processes side by side; null: one a GPU, or one on a machine without. More slots than GPUs share them.
``threads``: of each process; null: the processor's cores divided among the slots."""

ConfigStore.instance().store(group="hydra/launcher", name="dgn_local", node=CONFIG, provider="dgn")


class LocalLauncher(Launcher):  # type: ignore[misc]
    """Feeds jobs to workers; one that dies is replaced, and its job alone counts as failed."""

    def __init__(self, slots: int | None = None, threads: int | None = None) -> None:
        self.slots, self.threads = slots, threads

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra hands over before the launch."""
        for name in ("slots", "threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise DgnError(f"launcher.{name} is {value!r}, expected a whole number above 0, or null")
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; returns when the last one has ended."""
        from dgn.cli.sweeps.job import announce, told

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        announce(Path(str(self.config.hydra.sweep.dir)), job_overrides, initial_job_idx)
        gpus = visible_gpus()
        slots = min(self.slots or max(1, len(gpus)), len(job_overrides))
        threads = self.threads or max(1, (os.cpu_count() or 1) // slots)
        waiting = deque(enumerate(job_overrides))
        results: dict[int, JobReturn] = {}
        bar = tqdm(total=len(job_overrides), unit="job", disable=not self.config.get("progress", True))
        pool = [_Worker(self, gpus[slot % len(gpus)] if gpus else None, threads) for slot in range(slots)]
        try:
            while len(results) < len(job_overrides):
                for worker in pool:
                    if worker.job is None and waiting:
                        place, overrides = waiting.popleft()
                        job = job_config(self.context, self.config, overrides, initial_job_idx + place)
                        if "progress" in job:
                            job.progress = False  # the bars of several processes would overwrite each other
                        worker.send(place, job)
                busy = [worker for worker in pool if worker.job is not None]
                ready = connection.wait([worker.pipe for worker in busy])
                for worker in busy:
                    if worker.pipe in ready and worker.job is not None:
                        place, number = worker.job, initial_job_idx + worker.job
                        results[place] = worker.receive(number, list(job_overrides[place]))
                        bar.update()
        finally:
            bar.close()
            for worker in pool:
                worker.stop()
            for worker in pool:
                worker.join()
        for result in results.values():
            result.return_value = told(result.return_value, self.config.hydra)
        return [results[place] for place in sorted(results)]


def job_config(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    """The configuration of one job of a sweep."""
    job: DictConfig = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    return job


def run_composed(callbacks: Any, task: TaskFunction, config: DictConfig) -> JobReturn:
    """Run a job whose configuration was composed elsewhere."""
    setup_globals()
    JobRuntime.instance().set("name", "dgn")
    context: Any = HydraContext(config_loader=None, callbacks=callbacks)
    done: JobReturn = run_job(
        hydra_context=context, task_function=task, config=config, job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )  # fmt: skip
    return done


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


class _Worker:
    """One process, started with its first job."""

    def __init__(self, launcher: LocalLauncher, gpu: str | None, threads: int) -> None:
        self.arguments = (launcher.context.callbacks, launcher.task)
        self.sweep = Path(str(launcher.config.hydra.sweep.dir))
        self.variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        if gpu is not None:
            self.variables["CUDA_VISIBLE_DEVICES"] = gpu
        self.process: Any = None
        self.job: int | None = None

    def send(self, place: int, config: DictConfig) -> None:
        """Give it a job."""
        if self.process is None:
            spawn = get_context("spawn")
            self.pipe, theirs = spawn.Pipe()
            process = spawn.Process(target=work, args=(theirs, *self.arguments), name="dgn-worker")
            with _environment(self.variables):  # before the child imports anything
                process.start()
            theirs.close()
            self.process = process
        self.job = place
        with suppress(OSError):  # it is dead, which receive finds out
            self.pipe.send(config)

    def receive(self, number: int, overrides: list[str]) -> JobReturn:
        """What became of its job."""
        from dgn.cli.sweeps.job import died

        result, sound, why = JobReturn(overrides=overrides, status=JobStatus.COMPLETED), False, ""
        try:
            result.return_value, sound, why = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            result.return_value, why = float("nan"), f"its process died (exit code {self.process.exitcode})"
        if why:
            died(self.sweep, number, why)
        self.job = None
        if not sound:  # whatever broke in it, the next job gets a fresh process
            self.stop()
            self.join()
        return result

    def stop(self) -> None:
        """Tell it to end: at once, with what it has on disk, if it has a job."""
        if self.process is not None and self.process.is_alive():
            if self.job is not None:
                self.process.terminate()
            with suppress(OSError):
                self.pipe.send(None)

    def join(self) -> None:
        """Wait until it has ended; end it the hard way where that takes too long."""
        if self.process is None:
            return
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()
        self.process = None


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def work(pipe: connection.Connection, callbacks: Any, task: TaskFunction) -> None:
    """The worker's own loop: jobs in, their values out, until None or the end of the process that feeds it."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        if not stopping:  # the terminal's and the pool's signals may both come
            stopping = True
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while (config := pipe.recv()) is not None:
            done = run_composed(callbacks, task, config)
            if done.status == JobStatus.COMPLETED:
                pipe.send((done.return_value, not getattr(task, "broken", False), ""))
            else:  # what ended it came from outside of the verb
                pipe.send((float("nan"), False, first_line(done._return_value)))
    except (KeyboardInterrupt, EOFError):
        sys.exit(130)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
