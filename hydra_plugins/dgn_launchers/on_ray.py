"""``launcher=ray``: the jobs of a sweep as tasks of an existing Ray cluster, each with whole or fractional GPUs."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from dgn.errors import DgnError, first_line

CONFIG = {
    "_target_": "hydra_plugins.dgn_launchers.on_ray.RayLauncher",
    "address": "auto", "gpus": 1.0, "cpus": 1.0, "init": {},
}  # fmt: skip
"""``address``: of the cluster (``auto``: the one that RAY_ADDRESS or this machine knows; ``local``: one of its own).
``gpus``, ``cpus``: of each job. ``init``: further keywords of ``ray.init``. Jobs run in the folder in which the sweep
was started: a cluster of several machines needs it on all."""

ConfigStore.instance().store(group="hydra/launcher", name="dgn_ray", node=CONFIG, provider="dgn")


class RayLauncher(Launcher):  # type: ignore[misc]
    """One task a job; a task that dies fails alone."""

    def __init__(
        self,
        address: str = "auto",
        gpus: float = 1.0,
        cpus: float = 1.0,
        init: Any = None,
    ) -> None:
        self.address, self.resources = address, {"num_gpus": gpus, "num_cpus": cpus}
        self.init: Any = OmegaConf.to_container(init, resolve=True) if isinstance(init, DictConfig) else init or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra hands over before the launch."""
        for name, value in self.resources.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise DgnError(f"launcher.{name.removeprefix('num_')} is {value!r}, expected a number, 0 or more")
        if not isinstance(self.address, str):
            raise DgnError(f"launcher.address is {self.address!r}, expected a Ray cluster's address, auto or local")
        if not isinstance(self.init, dict):
            raise DgnError(f"launcher.init is {self.init!r}, expected keywords of ray.init: +launcher.init.KEY=VALUE")
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; returns when the last one has ended."""
        try:
            import ray
        except ImportError:
            raise DgnError("launcher=ray needs Ray: pip install 'dgn[ray]'") from None

        from dgn.cli.sweeps.job import announce, died, told
        from hydra_plugins.dgn_launchers.local import job_config

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        sweep = Path(str(self.config.hydra.sweep.dir))
        before = signal.getsignal(signal.SIGTERM)
        try:
            task = ray.remote(max_retries=0, **self.resources)(run_task)
            ray.init(address=self.address, **{"logging_level": "error", "log_to_driver": True, **self.init})
        except Exception as error:
            ray.shutdown()
            raise DgnError(f"launcher=ray can't start the jobs: {first_line(error)}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray ends the process without a word to its jobs
        results = [JobReturn(overrides=list(words), status=JobStatus.COMPLETED) for words in job_overrides]
        running: dict[Any, int] = {}
        try:
            announce(sweep, job_overrides, initial_job_idx)
            for place, words in enumerate(job_overrides):
                job = job_config(self.context, self.config, words, initial_job_idx + place)
                running[task.remote(os.getcwd(), self.context.callbacks, self.task, job)] = place
            while running:
                (ended,), _ = ray.wait(list(running), num_returns=1)
                place = running.pop(ended)
                try:
                    results[place].return_value = ray.get(ended)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    died(sweep, initial_job_idx + place, f"it died in Ray: {first_line(cause)}")
                    results[place].return_value = told(float("nan"), self.config.hydra)
        except KeyboardInterrupt:
            for ref in running:
                ray.cancel(ref)  # raises KeyboardInterrupt in it
            ray.wait(list(running), num_returns=len(running), timeout=PATIENCE)
            raise
        finally:
            ray.shutdown()
        return results


PATIENCE = 30.0
"""Seconds that jobs have to write what they have when they are told to stop."""


def run_task(folder: str, callbacks: Any, task: TaskFunction, config: DictConfig) -> Any:
    """One job in a worker of Ray, in the folder in which the sweep was started."""
    from hydra_plugins.dgn_launchers.local import run_composed

    # A cluster that a script started in the background ignores SIGINT, and with it Ray's own way to cancel a task.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    return run_composed(callbacks, task, config).return_value
