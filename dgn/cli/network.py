"""The network of a job, as its configuration describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dgn.cli.changes import stamp
from dgn.network.facts import FACTS
from dgn.network.network import Network
from dgn.network.sources import load_network


def network_facts(chosen: Any) -> dict[str, Any]:
    """What the configuration says of a network beside its name and weights; None: nothing.

    Args:
        chosen: the ``network`` of a job.
    """
    values = OmegaConf.to_container(chosen, resolve=True) if OmegaConf.is_config(chosen) else dict(chosen)
    return {name: values.get(name) for name in FACTS} if isinstance(values, dict) else {}


def network_key(chosen: Any, device: str) -> str:
    """Changes whenever another network is meant, or a file that it is read from has changed."""
    facts = network_facts(chosen)
    files = [chosen.name, chosen.weights, facts["classes"] if isinstance(facts["classes"], str) else None]
    return json.dumps([files, facts, device, [stamp(file) for file in files]], default=str)


def load_chosen(chosen: Any, device: str = "cpu", *, trust: bool) -> Network:
    """The network that a configuration names; see :func:`dgn.load_network`."""
    facts = network_facts(chosen)
    if isinstance(facts["classes"], str):
        facts["classes"] = Path(facts["classes"])
    return load_network(chosen.name, weights=chosen.weights, device=device, trust=trust, **facts)
