"""Hydra's and OmegaConf's errors, and those of a machine, in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from dgn.errors import nearest


def explain(error: Exception, verb: str, words: Sequence[str] = ()) -> str:
    """Hydra's and OmegaConf's messages in one line, with the nearest key or choice.

    Args:
        error, verb: what was raised of which command.
        words: of the command line, for the keys of the figure that it chose.
    """
    from hydra.errors import HydraException

    from dgn.resources import resource

    conf = str(resource("conf"))
    text = f"{error}\n{error.__cause__ or ''}"
    found = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' (?:is )?not in", text)
    if found:
        full = re.search(r"full_key: (\S+)", text)
        key = full[1] if full else found[1]
        figure = next((word for word in words if verb == "figure" and word.startswith("figure=")), None)
        try:
            keys = keys_of(verb, conf, figure)
        except HydraException:  # there is no such figure either
            keys = keys_of(verb, conf)
        others = [known for known in keys if known != key]
        return f"no key {key!r}{nearest(found[1], others)}"
    found = re.search(r"Could not find '([^']+)/([^/']+)'", text)
    if found:
        if found[2] in ("dgn_slurm", "dgn_slurm_local", "submitit_slurm", "submitit_local"):
            return "Slurm's launchers need a plugin: pip install 'dgn[slurm]'"
        options = [line.strip() for line in text.split("Available options", 1)[-1].splitlines()[1:] if line.strip()]
        options = [option for option in options if re.fullmatch(r"[\w.-]+", option)]
        return _no_such(found[1], found[2], options)
    found = re.search(r"Could not load '([^'/]+)/([^']+)'", text)  # one of several
    if found:
        options = sorted(path.stem for path in (resource("conf") / found[1]).glob("*.yaml"))
        return _no_such(found[1], found[2], options)
    found = re.search(r"Missing mandatory value: (\S+)", text)
    if found:
        full = re.search(r"full_key: (\S+)", text)
        key = full[1] if full else found[1]
        return f"the key {key} has no value; give {key}=VALUE"
    found = re.search(r"While dereferencing interpolation '\$\{([\w.]+)\}': (Value .*)", text)
    if found:
        return f"{found[1]}: {found[2]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Error in call to target"):
        return " ".join(lines[:2])
    full = re.search(r"full_key: (\S+)", text)
    value = next((line for line in lines if line.startswith("Value ")), None)
    if value:
        return f"{full[1] if full else lines[0]}: {value}"
    return lines[0] if lines else type(error).__name__


def _no_such(group: str, name: str, options: Sequence[str]) -> str:
    hint = nearest(name, options)
    return f"no {group} {name!r}{hint}{' Expected' if hint else '; expected'} one of: {', '.join(options)}"


@cache
def keys_of(verb: str, conf: str, figure: str | None = None) -> list[str]:
    """Every key of a verb's default configuration, or with a figure of one's choice, as it would be written."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig

    GlobalHydra.instance().clear()
    with initialize_config_dir(conf, version_base="1.3"):
        config = compose(verb, [figure] if figure else [])
    keys: list[str] = []

    def walk(node: DictConfig, prefix: str) -> None:
        for key in node:
            keys.append(f"{prefix}{key!s}")
            inner = node._get_node(key)
            if isinstance(inner, DictConfig) and not inner._is_missing() and not inner._is_none():
                walk(inner, f"{prefix}{key!s}.")

    walk(config, "")
    return keys
