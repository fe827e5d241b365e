"""What a job's configuration chooses: device, network, priors, seeds."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dgn.ascent.resolve import choose_ascent
from dgn.ascent.settings import AscentSettings
from dgn.cli.changes import stamp, stamps
from dgn.cli.groups import PriorConfig
from dgn.cli.manifest import plain
from dgn.cli.tracking import check_mode
from dgn.cli.trust import build_functions, build_module
from dgn.errors import DgnError, nearest
from dgn.images.fit import canvas_size, parse_size
from dgn.network.dictionaries.reading import DictionaryFile, told_file
from dgn.network.facts import FACTS
from dgn.network.network import Network
from dgn.network.sources import load_network
from dgn.priors import CANVASES, Prior, load_prior
from dgn.synthesis.plan import default_batch

Loaded = TypeVar("Loaded", Network, Prior)


def network_facts(chosen: Any) -> dict[str, Any]:
    """What the configuration says of a network beside its name and weights; None: nothing."""
    values = OmegaConf.to_container(chosen, resolve=True) if OmegaConf.is_config(chosen) else dict(chosen)
    return {name: values.get(name) for name in FACTS} if isinstance(values, dict) else {}


def network_key(chosen: Any, device: str) -> str:
    """Changes whenever another network is meant, or a file that it is read from has changed."""
    facts = network_facts(chosen)
    files = [chosen.name, chosen.weights, facts["classes"] if isinstance(facts["classes"], str) else None]
    for name, told in (facts["dictionaries"] or {}).items():
        files += DictionaryFile(**told_file(name, told)).files()
    named = [str(text) for key in ("texts", "images") for text in _listed(facts[key])]
    return json.dumps([files, facts, device, [stamp(file) for file in files], stamps(named)], default=str)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def load_chosen(chosen: Any, device: str = "cpu", *, trust: bool) -> Network:
    """The network that a configuration names; see :func:`dgn.load_network`."""
    facts = network_facts(chosen)
    if isinstance(facts["classes"], str):
        facts["classes"] = Path(facts["classes"])
    return load_network(chosen.name, weights=chosen.weights, device=device, trust=trust, **facts)


def choose_device(name: str, threads: int | None) -> str:
    """``auto`` is CUDA where there is one; an unknown or absent device is refused."""
    if threads is not None:
        if threads < 1:
            raise DgnError(f"threads is {threads}, expected a whole number above 0")
        torch.set_num_threads(threads)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise DgnError(f"no device {name!r}; expected auto, cpu, cuda or cuda:INDEX") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise DgnError(f"device={name} was asked for, but this machine has no CUDA; use device=cpu")
    return name


def settle_batch(config: Any, device: str) -> None:
    """``batch=null`` becomes the device's own."""
    if "batch" in config and config.batch is None:
        config.batch = default_batch(torch.device(device))


LOOKED_AT = 32
"""Images that a network looks at together for what is not climbed, at most: nothing halves these batches."""


def open_network(config: Any) -> tuple[Network, str]:
    """The network under study on its device; the device and the tracking mode are checked first."""
    check_mode(str(config.tracking.mode))
    device = choose_device(config.device, config.threads)
    key = network_key(config.network, device)
    settle_batch(config, device)
    return _kept(_NETWORKS, key, 1, lambda: load_chosen(config.network, device, trust=config.trust)), device


_NETWORKS: dict[str, Network] = {}
_PRIORS: dict[str, Prior] = {}
"""The last network and priors: the jobs of a sweep that run in one process load them once."""


def _kept(last: dict[str, Loaded], key: str, most: int, load: Callable[[], Loaded]) -> Loaded:
    """What has a key, of the ``most`` that were loaded last, or loaded now."""
    if key not in last:
        while len(last) >= most:
            last.pop(next(iter(last)))
        last[key] = load()
    return last[key]


def _open_prior(name: str, entry: dict[str, Any], network: Network, trust: bool) -> Prior:
    size = entry["size"]
    if size is not None:
        parse_size(size, f"prior.{name}.size")
    if str(entry["path"]) in CANVASES:
        size = canvas_size(size, network.input_size)

    def load() -> Prior:
        module = entry["module"] and build_module(f"prior.{name}.module", entry["module"], trust=trust)
        return module if isinstance(module, Prior) else load_prior(
            entry["path"], size=size, space=entry["space"], channels=network.channels, weights=entry["weights"],
            options=entry["options"], module=module, trust=trust,
        )  # fmt: skip

    kinds = ("generator", "components", "flow")
    paths = [entry["path"], entry["weights"], *(Path(str(entry["path"])) / f"{kind}.safetensors" for kind in kinds)]
    key = json.dumps([entry, network.channels, size, [stamp(path) for path in paths]], sort_keys=True, default=str)
    prior = copy.copy(load() if entry["module"] else _kept(_PRIORS, key, 4, load))  # named and set for the job
    prior.name = name
    prior.ascent = {**prior.ascent, **build_functions(f"prior.{name}.ascent", entry["ascent"], trust=trust)}
    AscentSettings().with_changes(dict(prior.ascent))
    return prior


def choose_seeds(config: Any) -> list[int]:
    """``seeds`` seeds from ``seed`` on."""
    if config.seeds < 1:
        raise DgnError(f"seeds is {config.seeds}, expected a whole number above 0")
    return list(range(config.seed, config.seed + config.seeds))


def choose_priors(config: Any, network: Network) -> list[tuple[Prior, AscentSettings]]:
    """The priors that were chosen, each with the settings of its ascent."""
    if not config.prior:
        raise DgnError("no prior chosen; try prior=dgn or prior=[dgn,pixel]")
    given = {key: value for key, value in plain(config.ascent).items() if key != "preset"}
    changes = build_functions("ascent", given, trust=config.trust)
    climbs = []
    for name, given in config.prior.items():
        entry = _prior_entry(str(name), given)
        prior = _open_prior(str(name), entry, network, config.trust)
        climbs.append((prior, choose_ascent(prior, config.ascent.preset, **changes)))
    return climbs


def _prior_entry(name: str, given: Any) -> dict[str, Any]:
    """One prior's configuration, its name, its keys and their types checked."""
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", name):  # files are called by it
        raise DgnError(f"no prior can be called {name[:80]!r}: a name has up to 64 letters, digits and _")
    if not isinstance(given, DictConfig) or given.get("path") is None:
        raise DgnError(f"prior.{name} has no path; give prior.{name}.path=PATH, the name or path of a prior")
    known = [field.name for field in fields(PriorConfig)]
    for key in given:
        if key not in known:
            raise DgnError(f"no key 'prior.{name}.{key!s}'{nearest(str(key), known)}")
    try:
        entry: dict[str, Any] = plain(OmegaConf.merge(OmegaConf.structured(PriorConfig), given))
    except OmegaConfBaseException as error:
        raise DgnError(f"prior.{name}: {str(error).splitlines()[0]}") from None
    if entry["references"] < 0 or entry["references"] == 1:
        raise DgnError(f"prior.{name}.references is {entry['references']}, expected 0 (none) or 2 and more")
    if entry["layers"] and not entry["references"]:
        raise DgnError(f"prior.{name}.layers is where references are aligned, but there is no prior.{name}.references")
    return entry
