"""Recipes: the settings of a training by name, and what they are the settings of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgn.errors import DgnError, nearest
from dgn.resources import resource
from dgn.training.settings import FlowSettings, TrainSettings


def recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe in ``conf/training/`` by name.

    Raises:
        DgnError: there is none of that name.
    """
    from omegaconf import OmegaConf

    known = {path.stem: path for path in sorted((resource("conf") / "training").glob("*.yaml"))}
    if name not in known:
        raise DgnError(f"no training {name!r}{nearest(name, known) or '; expected one of ' + ', '.join(known)}")
    values = OmegaConf.to_container(OmegaConf.load(known[name]))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def settings_of(values: Mapping[str, Any], network: str, seed: int) -> TrainSettings | FlowSettings:
    """The settings that a recipe describes: of a flow where it has a ``prior``, else of a generator for the network.

    Raises:
        DgnError: a key that the training doesn't have, a network that shows no layers.
    """
    chosen: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if value is not None
    }
    kind = FlowSettings if "prior" in chosen else TrainSettings
    stray = [key for key in chosen if key not in kind.__dataclass_fields__]
    if stray:
        what = "a flow (training.prior=...)" if kind is FlowSettings else "a generator (no training.prior)"
        raise DgnError(f"training.{stray[0]} is no key of the training of {what}")
    if kind is TrainSettings:
        if network.endswith(".pt2"):
            raise DgnError(
                "a generator's encoder shows its layers, a .pt2 file its output alone: give network=efficientnet_lite0"
            )
        chosen["network"] = network
    return kind(seed=seed, **chosen)
