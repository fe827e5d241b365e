"""``launcher=ray``: the jobs of a sweep as tasks of an existing Ray cluster, each with whole or fractional GPUs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from dgn.errors import DgnError

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
        init: DictConfig | dict[str, Any] | None = None,
    ) -> None:
        self.address, self.resources = address, {"num_gpus": gpus, "num_cpus": cpus}
        self.init: Any = OmegaConf.to_container(init, resolve=True) if isinstance(init, DictConfig) else init or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra hands over before the launch."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; returns when the last one has ended."""
        try:
            import ray
        except ImportError:
            raise DgnError("launcher=ray needs Ray: pip install 'dgn[ray]'") from None

        from hydra_plugins.dgn_launchers.local import job_config

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        ray.init(address=self.address, **{"logging_level": "error", "log_to_driver": True, **self.init})
        results = [JobReturn(overrides=list(words), status=JobStatus.COMPLETED) for words in job_overrides]
        try:
            task = ray.remote(max_retries=0, **self.resources)(run_task)
            refs = {
                task.remote(
                    os.getcwd(), self.context.callbacks, self.task,
                    job_config(self.context, self.config, words, initial_job_idx + place),
                ): place
                for place, words in enumerate(job_overrides)
            }  # fmt: skip
            waiting = list(refs)
            try:
                while waiting:
                    (ended,), waiting = ray.wait(waiting, num_returns=1)
                    results[refs[ended]].return_value = _value(ray, ended, initial_job_idx + refs[ended])
            except KeyboardInterrupt:
                for ref in waiting:
                    ray.cancel(ref)  # raises KeyboardInterrupt in it
                ray.wait(waiting, num_returns=len(waiting), timeout=30)
                raise
        finally:
            ray.shutdown()
        return results


def _value(ray: Any, ref: Any, number: int) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        print(f"dgn: job {number} died in Ray: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        return float("nan")


def run_task(folder: str, callbacks: Any, task: TaskFunction, config: DictConfig) -> Any:
    """One job in a worker of Ray, in the folder in which the sweep was started."""
    from hydra_plugins.dgn_launchers.local import run_composed

    os.chdir(folder)
    return run_composed(callbacks, task, config).return_value
