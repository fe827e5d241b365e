"""What ``dgn`` offers in Python: everything in ``__all__``, with the defaults of the command line."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

import dgn
from dgn.analysis.ablation import curves
from dgn.cli.schema import register
from dgn.errors import DgnError
from dgn.files.storage import digest
from dgn.priors.checkpoint import load_generator
from dgn.resources import resource
from dgn.training.recipes import recipe, settings_of
from dgn.training.settings import FlowSettings, TrainSettings


def test_everything_is_there() -> None:
    assert all(getattr(dgn, name).__doc__ for name in dgn.__all__)


def test_importing_it_imports_nothing_else() -> None:
    """The command line's help need not wait for torch."""
    code = "import sys, dgn; print(sorted(m for m in sys.modules if m.startswith('dgn') or m in ('torch', 'numpy')))"
    call = [sys.executable, "-c", code]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip() == "['dgn']"


SAME: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    # parameters of a function by the keys of its verb, where these have other names
    "ablate": (dgn.ablate, {"seed": "seed", "size": "size", "stride": "stride", "fill": "fill", "batch": "batch"}),
    "examples": (dgn.find_examples, {"k": "k", "batch": "batch", "workers": "data.workers"}),
    "facets": (
        dgn.find_facets,
        {name: name for name in ("facets", "most", "examples", "members", "components", "tsne", "layer", "seed")}
        | {"workers": "data.workers"},
    ),
    "concept": (dgn.concept, {name: name for name in ("method", "shuffles", "seed", "batch", "workers")}),
    "evaluate": (
        dgn.evaluate,
        {name: name for name in ("units", "classes", "judges", "seed", "seeds", "batch")}
        | {name: f"data.{name}" for name in ("per_class", "photos", "most_photos")},
    ),
    "train": (
        dgn.train,
        {name: name for name in ("seed", "device", "compile", "checkpoint_minutes", "progress")}
        | {"network": "network.name", "workers": "data.workers"},
    ),
    "synthesize": (dgn.synthesize, {"seed": "seed", "batch": "batch"}),
}


@pytest.fixture(scope="module")
def configurations() -> dict[str, Any]:
    register()
    with initialize_config_dir(str(resource("conf")), version_base="1.3"):
        return {verb: compose(verb) for verb in SAME}


@pytest.mark.parametrize("verb", SAME)
def test_defaults_are_the_command_lines(verb: str, configurations: dict[str, Any]) -> None:
    function, keys = SAME[verb]
    parameters = inspect.signature(function).parameters
    for name, key in keys.items():
        value: Any = configurations[verb]
        for part in key.split("."):
            value = value[part]
        default = parameters[name].default
        assert (list(default) if isinstance(default, tuple) else default) == value, (verb, name)


def test_the_curves_defaults_too(configurations: dict[str, Any]) -> None:
    parameters = inspect.signature(curves).parameters
    config = configurations["ablate"]
    assert parameters["steps"].default == config.curve_steps and parameters["fill"].default == config.curve_fill
    assert parameters["batch"].default == config.batch


SMALL = TrainSettings(
    image_size=32, encoder_size=64, widths=(8, 8, 6), depths=(1, 1, 1), steps=1, batch=4, warmup=1, cooldown=0.0,
    adversary_start=0.0, held_out=4, statistics_images=12, components=0,
)  # fmt: skip


def test_one_door_to_both_trainings(images: Path, tmp_path: Path) -> None:
    """Recipes by name, changed or not, and settings of one's own; what does not fit is told before anything is made."""
    assert settings_of(recipe("spatial64"), "efficientnet_lite0", 3).seed == 3
    assert isinstance(settings_of(recipe("flow"), "any", 0), FlowSettings)
    for name in (path.stem for path in (resource("conf") / "training").glob("*.yaml")):
        settings_of(recipe(name), "efficientnet_lite0", 0).check()
    for training, changes, line in (
        ("spatial46", {}, "no training 'spatial46'; did you mean 'spatial64"),
        ("spatial64", {"stps": 3}, "training.stps is no key of the training of a generator"),
        (SMALL, {"steps": 3}, "steps changes a recipe"),
        (SMALL, {"workers": -1}, "workers is -1"),
    ):
        with pytest.raises(DgnError, match=line):
            dgn.train(images, tmp_path / "none", training, **changes)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_train_from_python(images: Path, tmp_path: Path) -> None:
    path = dgn.train(images, tmp_path / "one", SMALL, device="cpu", progress=False)
    same = {key: value for key, value in asdict(SMALL).items() if key not in ("network", "seed")}
    again = dgn.train(images, tmp_path / "two", "spatial64", device="cpu", progress=False, **same)
    assert path.read_bytes() and digest(load_generator(path)[0].state_dict()) == digest(
        load_generator(again)[0].state_dict()
    )
