"""Optuna's grid search, as Hydra's sweeper drives it."""

from __future__ import annotations

import random
from typing import Any


def mend_grid_search(sweeper: Any) -> None:
    """Let Optuna's grid sampler propose in a fixed order and never stop the study itself.

    Hydra asks and tells, and counts the trials; there the sampler's ``Study.stop`` is an error, which Hydra's sweeper
    expects after a value but not after a failed job: the sweep would lose its best parameters where the last job
    failed. The order would follow Python's random state, which jobs change, so a sweep could not go on. Nothing happens
    for other sweepers.
    """
    if "GridSampler" not in str((sweeper.get("sampler") or {}).get("_target_", "")):
        return
    from optuna.samplers import _grid

    module: Any = _grid
    module.random = random.Random(0)
    module.GridSampler.after_trial = lambda *_: None
