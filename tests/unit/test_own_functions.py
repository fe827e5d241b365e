"""A user's function in the place of a name: the same bits, settings that can be written, one line for its errors."""

from __future__ import annotations

import functools
import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SmallCNN
from torch import Tensor

import dgn
from dgn.ascent.named import Catalogue
from dgn.ascent.operators import OPERATORS
from dgn.ascent.penalties import PENALTIES
from dgn.ascent.rules import RULES
from dgn.ascent.transforms import TRANSFORMS
from dgn.cli.trust import build_functions, build_module, build_units
from dgn.errors import DgnError
from dgn.functions import Function
from dgn.priors.base import Prior, seeded_normal
from dgn.priors.pixel import PixelPrior


@pytest.fixture(scope="module")
def network() -> dgn.Network:
    torch.manual_seed(0)
    return dgn.Network(SmallCNN().eval(), 16, class_names=["ant", "cat", "bee", "dog", "eel"])


def climb(network: dgn.Network, units: Any = ("ant", "late:3"), **how: Any) -> dgn.Synthesis:
    return dgn.synthesize(network, units, PixelPrior(16), **{"steps": 6, "seeds": 2, **how})


def same(one: dgn.Synthesis, other: dgn.Synthesis) -> bool:
    names = ("images", "activations", "history", "codes")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def repeated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, as another function."""
    return functools.wraps(function)(lambda *arguments: function(*arguments))


CHOSEN = [
    (key, name, catalogue)
    for key, catalogue in (("transforms", TRANSFORMS), ("penalties", PENALTIES), ("between", OPERATORS))
    for name in catalogue.functions
]


@pytest.mark.parametrize(("key", "name", "catalogue"), CHOSEN, ids=[name for _, name, _ in CHOSEN])
def test_a_function_that_repeats_a_named_one(key: str, name: str, catalogue: Catalogue, network: dgn.Network) -> None:
    by_name, own = climb(network, **{key: [name]}), climb(network, **{key: [repeated(catalogue.functions[name])]})
    assert same(by_name, own) and not same(by_name, climb(network))
    assert [part.name for part in getattr(by_name.settings, key)] == [name]
    assert name in str(getattr(own.settings, key)[0]) and "." in str(getattr(own.settings, key)[0])


@pytest.mark.parametrize("name", ["adam", "nguyen2016", "ppgn"])
def test_a_rule_that_repeats_a_named_one(name: str, network: dgn.Network) -> None:
    units = ["late:3"]  # of a class ppgn climbs the log-probability
    assert same(climb(network, units, rule=name), climb(network, units, rule=repeated(RULES[name])))


OBJECTIVES: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
    "ant": (lambda logits: logits[:, 0], ["output"]),
    "late:3@1,2": (lambda maps: maps[:, 3, 1, 2], ["late"]),
    "late:3": (lambda maps: maps[torch.arange(len(maps)), 3].flatten(1).mean(1), ["late"]),  # sums in the same order
    "late:*": (lambda maps: torch.stack([one.square().mean() for one in maps]), ["late"]),
    "ant + late:3@1,2": (lambda logits, maps: logits[:, 0] + maps[:, 3, 1, 2], ["output", "late"]),
}


@pytest.mark.parametrize("text", OBJECTIVES)
def test_an_objective_that_repeats_a_unit(text: str, network: dgn.Network) -> None:
    function, layers = OBJECTIVES[text]
    own = dgn.unit(function, layers, text)
    by_name = climb(network, [text, "bee"])
    assert same(by_name, climb(network, [own, "bee"]))  # a batch that it shares with another unit
    images = list(by_name.images)
    found, again = (dgn.find_examples(network, unit, images, k=4, boxes=False).units[0] for unit in (text, own))
    assert [one.activation for one in found.top] == [one.activation for one in again.top]
    drops, same_drops = (dgn.ablate(network, images[0], unit).drops for unit in (text, own))
    torch.testing.assert_close(drops, same_drops, rtol=0, atol=1e-6)


def test_objectives_add_up(network: dgn.Network) -> None:
    one, two = (dgn.unit(*OBJECTIVES[text]) for text in ("ant", "late:3"))
    both = dgn.Unit("both", (replace(one.terms[0], weight=2.0), *two.terms))
    result = climb(network, [both])
    alone = climb(network, ["2*ant + late:3"])
    assert same(result, alone) and both.layers == ("output", "late")


class Twice(Prior):
    """:class:`PixelPrior` once more, as a user writes a prior."""

    name, channels, size = "pixel", 3, (16, 16)
    family = "pixel"

    def start(self, n: int, seeds: Any = None) -> Tensor:
        return (0.5 + 0.01 * seeded_normal((3, 16, 16), seeds or range(n))).clamp(0, 1)

    def decode(self, code: Tensor) -> Tensor:
        return code

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        return code.clamp(0, 1)


def test_a_prior_of_ones_own(network: dgn.Network) -> None:
    how: dict[str, Any] = {"steps": 6, "seeds": 2, "precision": "fp32", "jitter": 0.1}
    own, known = (dgn.synthesize(network, ["ant", "late:3"], prior, **how) for prior in (Twice(), PixelPrior(16)))
    assert same(own, known)


def brighter(images: Tensor, draws: Any, by: float = 0.1) -> Tensor:
    return images + by


def test_settings_with_functions_can_be_written(network: dgn.Network) -> None:
    """And read again where the functions are named; a lambda in a phase is no exception."""
    chosen = {"transforms": [functools.partial(brighter, by=0.2), "shift"], "rule": lambda h, g, state, lr: h + lr * g}
    phases = [{"steps": 2}, {"steps": 2, "between": [lambda images, done, step: images]}]
    settings = climb(network, **chosen, phases=phases).settings
    written = json.loads(json.dumps(asdict(settings)))
    assert written["transforms"][0]["name"] == f"{__name__}.brighter(by=0.2)" and "<lambda>" in written["rule"]
    given = dgn.AscentSettings(transforms=[brighter]).with_changes({})  # type: ignore[arg-type]
    assert str(given.transforms[0]) == f"{__name__}.brighter"
    own = Function(brighter)
    assert pickle.loads(pickle.dumps(own)) == own != Function(repeated(brighter)) and own != str(own)


def raises(*_: Any) -> Tensor:
    raise KeyError("no such thing")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "arguments": ({"transforms": [lambda images: images]}, r"transformation .*<lambda> takes \(images\), expected"),
    "shape": ({"transforms": [lambda x, draws: x[:, :1]]}, r"gave \[4, 1, 16, 16\], expected \[4, 3, any, any\]"),
    "raises": ({"penalties": [raises]}, r"penalty .*raises raised KeyError: 'no such thing'"),
    "one number": ({"penalties": [lambda x, code: x.mean()]}, r"gave \[\], expected \[4\]"),
    "operator": ({"between": [lambda x, done, step: x[..., 1:]]}, r"operator .* gave \[4, 3, 16, 15\]"),
    "no tensor": ({"between": [lambda x, done, step: None]}, "gave NoneType, expected a tensor of floats"),
    "whole numbers": ({"between": [lambda x, done, step: x.byte()]}, "gave torch.uint8, expected a tensor of floats"),
    "not finite": ({"rule": lambda h, g, state, lr: h / 0}, "rule .* gave numbers that are not finite"),
    "rule": ({"rule": lambda h, g: h}, r"takes \(h, g\), expected \(code, gradient, state, lr\)"),
    "keywords": ({"transforms": [{brighter: 0.3}]}, r"functools.partial\(function, key=value\)"),
    "neither": ({"transforms": [3]}, "or a function, not 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_line_for_a_function_that_errs(case: str, network: dgn.Network) -> None:
    how, line = BAD[case]
    with pytest.raises(DgnError, match=line) as error:
        climb(network, **how)
    assert "\n" not in str(error.value)


def test_one_line_for_an_objective_that_errs(network: dgn.Network) -> None:
    for function, line in (
        (lambda maps: maps.mean((2, 3)), r"objective .* gave \[2, 12\], expected \[2\]"),
        (lambda maps: maps.mean((1, 2, 3)) / 0, "not finite"),
        (lambda maps: maps[:, 99, 0, 0], "raised IndexError: index 99 is out of bounds"),
        (lambda maps: maps.mean((1, 2, 3)).detach(), "no gradient flows"),
    ):
        with pytest.raises(DgnError, match=line):
            climb(network, [dgn.unit(function, "late")])
    for layers, line in ((["lat"], "no layer 'lat'.*did you mean 'late'"), ([], "give layers="), (["a", "b"], "takes")):
        with pytest.raises(DgnError, match=line):
            climb(network, [dgn.unit(lambda maps: maps, layers)])
    with pytest.raises(DgnError, match="is a function of layers' outputs, not 'ant'"):
        dgn.unit("ant", ["late"])  # type: ignore[arg-type]


def test_a_sample_without_a_gradient_stays(network: dgn.Network) -> None:
    """A rule that divides by the gradient's size need not know of it."""
    silent = dgn.unit(lambda maps: 0 * maps.sum((1, 2, 3)), "late")

    def unit_steps(h: Tensor, g: Tensor, state: Any, lr: float) -> Tensor:
        return h + lr * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    result = climb(network, [silent, "ant"], rule=unit_steps)
    assert result.frozen_at.tolist() == [0, 0, -1, -1] and bool(result.images.isfinite().all())


def test_full_memory_is_no_fault_of_the_function(network: dgn.Network) -> None:
    """The batch is halved, as for any unit."""
    counts = []

    def hungry(logits: Tensor) -> Tensor:
        counts.append(len(logits))
        if len(logits) > 2:
            raise MemoryError
        return logits[:, 0]

    assert len(climb(network, [dgn.unit(hungry, "output")], seeds=4).images) == 4 and set(counts) >= {4, 2}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import torch\nimport dgn\nfrom test_own_functions import Twice, brighter\n"
    text += "def peak(maps, channel):\n    return maps[:, channel].amax((1, 2))\n"
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "mine", raising=False)


@pytest.mark.usefixtures("mine")
def test_the_command_line_builds_what_it_is_trusted_with(network: dgn.Network) -> None:
    target = {"_target_": "mine.brighter", "by": 0.3}
    built = build_functions("ascent", {"transforms": ["shift", target], "steps": 3}, trust=True)
    own, pixels = built["transforms"][1], torch.zeros(1, 3, 2, 2)
    assert built["steps"] == 3 and bool((own(pixels, None) == 0.3).all())
    (unit,) = build_units([{"_target_": "mine.peak", "layers": ["late"], "name": "peak", "channel": 4}], trust=True)
    assert unit.name == "peak" and len(climb(network, [unit, "ant"]).images) == 4
    assert build_units(["ant", 3], trust=False) == ["ant", 3]
    assert type(build_module("prior.mine.module", {"_target_": "mine.Twice"}, trust=True)).__name__ == "Twice"
    for node, trust, line in (
        (target, False, "ascent names code, 'mine.brighter': if you trust it, add trust=true"),
        ({"_target_": "mine.bright"}, True, "ascent can't be built: .*has no attribute 'bright'"),
        ({"_target_": "nowhere.f"}, True, "ascent can't be built: No module named 'nowhere'"),
        ({"_target_": "mine.__name__", "by": 1}, True, "ascent can't be built"),
    ):
        with pytest.raises(DgnError, match=line):
            build_functions("ascent", [node], trust=trust)
