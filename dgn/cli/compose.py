"""A configuration as Hydra composes it, before Hydra runs anything, and Hydra's errors in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from dgn.errors import DgnError, first_line, nearest
from dgn.resources import resource


def compose(verb: str, arguments: Sequence[str]) -> Any:
    """The configuration that all jobs of a command line, with Hydra's flags, have in common.

    Raises:
        DgnError: Hydra can't compose it.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return _compose(verb, arguments)
    except (HydraException, OmegaConfBaseException) as error:
        raise DgnError(explain(error, verb)) from error
    except ValueError as error:
        raise DgnError(f"Hydra can't take these arguments: {first_line(error)}") from error


def _compose(verb: str, arguments: Sequence[str]) -> Any:
    from hydra.types import RunMode

    with opened(arguments) as (hydra, given):
        return hydra.compose_config(given.config_name or verb, given.overrides, RunMode.MULTIRUN)


@contextmanager
def opened(arguments: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Hydra, ready to compose, and what its flags say."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path, get_args_parser
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    from dgn.cli import schema

    version.setbase("1.3")
    schema.register()
    given = get_args_parser().parse_args([*arguments])
    path = create_config_search_path(given.config_path or str(resource("conf")))
    if given.config_dir is not None:
        place = f"file://{os.path.abspath(given.config_dir)}"
        path.prepend(provider="command-line", path=place, anchor=SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(task_name="dgn", config_search_path=path), given
    finally:
        GlobalHydra.instance().clear()


@cache
def keys_of(verb: str, figure: str | None = None) -> list[str]:
    """Every key of a verb's default configuration, or with a figure of one's choice, as it would be written."""
    from omegaconf import DictConfig

    keys: list[str] = []

    def walk(node: DictConfig, prefix: str) -> None:
        for key in node:
            keys.append(f"{prefix}{key!s}")
            inner = node._get_node(key)
            if isinstance(inner, DictConfig) and not inner._is_missing() and not inner._is_none() and key != "hydra":
                walk(inner, f"{prefix}{key!s}.")

    walk(_compose(verb, [figure] if figure else []), "")
    return keys


def explain(error: Exception, verb: str, words: Sequence[str] = ()) -> str:
    """Hydra's and OmegaConf's messages in one line, with the nearest key or choice; ``words`` of the command line tell
    the figure, which has keys of its own."""
    from hydra.errors import HydraException

    text = f"{error}\n{error.__cause__ or ''}"
    full = re.search(r"full_key: (\S+)", text)
    found = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' (?:is )?not in", text)
    if found:
        key = full[1] if full else found[1]
        figure = next((word for word in words if verb == "figure" and word.startswith("figure=")), None)
        try:
            keys = keys_of(verb, figure)
        except HydraException:  # there is no such figure either
            keys = keys_of(verb)
        return f"no key {key!r}{nearest(found[1], [known for known in keys if known != key])}"
    if found := re.search(r"Could not find '([^']+)/([^/']+)'", text):
        if found[2] in ("dgn_slurm", "dgn_slurm_local", "submitit_slurm", "submitit_local"):
            return "Slurm's launchers need a plugin: pip install 'dgn[slurm]'"
        lines = text.split("Available options", 1)[-1].splitlines()[1:]
        return _no_such(found, [line.strip() for line in lines if re.fullmatch(r"[\w.-]+", line.strip())])
    if found := re.search(r"Could not load '([^'/]+)/([^']+)'", text):  # one of several
        return _no_such(found, sorted(path.stem for path in (resource("conf") / found[1]).glob("*.yaml")))
    if found := re.search(r"Missing mandatory value: (\S+)", text):
        key = full[1] if full else found[1]
        return f"the key {key} has no value; give {key}=VALUE"
    if found := re.search(r"While dereferencing interpolation '\$\{([\w.]+)\}': (Value .*)", text):
        return f"{found[1]}: {found[2]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Error in call to target"):
        return " ".join(lines[:2])
    value = next((line for line in lines if line.startswith("Value ")), None)
    if value:
        return f"{full[1] if full else lines[0]}: {value}"
    return lines[0] if lines else type(error).__name__


def _no_such(found: re.Match[str], options: Sequence[str]) -> str:
    hint = nearest(found[2], options)
    return f"no {found[1]} {found[2]!r}{hint}{' Expected' if hint else '; expected'} one of: {', '.join(options)}"


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
    return None if value is None else expanded(key, str(value))


def expanded(key: str, text: str) -> str:
    """A key's text with the home folder for ``~/``; a :class:`DgnError` where it is empty."""
    if not text.strip():
        raise DgnError(f"{key} is empty (a variable of the shell that is not set?); give a value, or leave the key out")
    return str(Path(text).expanduser()) if text == "~" or text.startswith("~/") else text
