"""What is done to every job's configuration before its verb sees it."""

from __future__ import annotations

import os
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from dgn.cli.compose import expanded
from dgn.cli.words import key_of

TEXTS = ("title", "panel", "label", "init", "prefix", "suffix")
"""Keys whose value may be an empty text."""

WANDB_MODES = {"disabled": "off", "offline": "offline", "dryrun": "offline", "online": "online", "run": "online"}
"""``WANDB_MODE`` as Weights & Biases understands it, as ``tracking``."""


def settle(config: Any) -> None:
    """Refuse empty values, put the home folder for ``~/``, and take ``WANDB_MODE`` where no tracking was given.

    Raises:
        DgnError: a value is empty, as of a variable that is not set.
    """
    _walk(config, "")
    mode = WANDB_MODES.get(os.environ.get("WANDB_MODE", "").strip().lower())
    given = {key_of(str(word)) for word in HydraConfig.get().overrides.task}
    if mode is not None and "tracking" in config and not given & {"tracking", "tracking.mode"}:
        config.tracking.mode = mode


def _walk(node: Any, place: str) -> None:
    keys = list(range(len(node))) if isinstance(node, ListConfig) else list(node)
    for key in keys:
        if node._is_none() or OmegaConf.is_missing(node, key):
            continue
        value, name = node[key], f"{place}.{key}" if place else str(key)
        if isinstance(value, (DictConfig, ListConfig)):
            _walk(value, name)
        elif isinstance(value, str):
            text = value if key in TEXTS else expanded(name, value)
            if text != value:
                node[key] = text
