"""A sweep's configuration as Hydra composes it, before Hydra runs anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgn.cli.explain import explain
from dgn.errors import DgnError, first_line
from dgn.resources import resource


def compose(verb: str, arguments: Sequence[str]) -> Any:
    """The configuration that all jobs of a sweep have in common.

    Args:
        verb, arguments: the command line, with Hydra's flags.

    Raises:
        DgnError: Hydra can't compose it.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path, get_args_parser
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    from dgn.cli import schema

    schema.register()
    given = get_args_parser().parse_args([*arguments])
    path = create_config_search_path(given.config_path or str(resource("conf")))
    if given.config_dir is not None:
        place = f"file://{os.path.abspath(given.config_dir)}"
        path.prepend(provider="command-line", path=place, anchor=SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra.create_main_hydra2(task_name="dgn", config_search_path=path)
        return hydra.compose_config(given.config_name or verb, given.overrides, RunMode.MULTIRUN)
    except (HydraException, OmegaConfBaseException) as error:
        raise DgnError(explain(error, verb)) from error
    except ValueError as error:
        raise DgnError(f"Hydra can't take these arguments: {first_line(error)}") from error
    finally:
        GlobalHydra.instance().clear()


def settled(config: Any, key: str) -> str | None:
    """A path in a configuration, interpolations resolved, with the home folder for ``~/``; None where it is null.

    Raises:
        DgnError: it is empty, or can't be resolved.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException as error:
        raise DgnError(explain(error, str(config.verb))) from error
    if value is None:
        return None
    if not str(value).strip():
        raise DgnError(f"{key} is empty (a variable of the shell that is not set?); give a value, or leave the key out")
    return str(Path(str(value)).expanduser()) if str(value).startswith("~") else str(value)
