"""``dgn VERB --help``: every key with a line and the value that will be used, without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dgn.ascent.own import OWN
from dgn.cli.groups import AscentConfig
from dgn.cli.help import OF_GROUPS, brief, described, help_of
from dgn.cli.schema import schema_of
from dgn.cli.verbs import VERBS
from dgn.errors import DgnError
from dgn.training.settings import FlowSettings, TrainSettings


def shown(verb: str, *words: str) -> dict[str, str]:
    """The help's keys with their values; empty where a text says it."""
    return dict(re.findall(r"^  (\S+?)(?:=(.*?))?(?:  .*)?$", help_of(verb, words), re.MULTILINE))


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_has_a_line(verb: str) -> None:
    texts = described(schema_of(verb))
    names = set(schema_of(verb).__dataclass_fields__) - {"verb"}
    assert not [name for name in names if not brief(texts.get(name, ""))]
    keys = {key.split(".")[0] for key in shown(verb)}
    own = {"launcher", "prior"} if verb == "figure" else {"launcher"}  # the rows of a figure have priors
    assert names - keys <= own and ("launcher" in keys) == (verb == "synthesize")


def test_every_key_of_a_group_has_a_line() -> None:
    """Those of figures and launchers, which are no dataclasses."""
    for name in ("figure", "launcher"):
        for file in (Path(__file__).parents[3] / "conf" / name).glob("*.yaml"):
            values: Any = OmegaConf.load(file)  # Slurm's launchers can't be composed without their plugin
            keys = values.get("launcher", {}) if name == "launcher" else values
            assert set(keys) <= set(OF_GROUPS[name]), file


def test_a_prior_of_ones_own_is_not_guessed_at() -> None:
    own = ["prior=[]", "+prior.mine.path=module", "+prior.mine.module._target_=somewhere.Mine"]
    assert shown("synthesize", *own)["ascent.steps"] == ""


def test_values_are_those_that_will_be_used() -> None:
    flow = OWN["flow"][0]
    usual = shown("synthesize", "prior=dgn")
    assert usual["ascent.steps"] == str(flow.steps) and usual["ascent.rule"] == "sample" and usual["seeds"] == "1"
    assert shown("synthesize", "prior=dgn", "ascent.steps=7")["ascent.steps"] == "7"
    assert shown("synthesize", "prior=climbed")["ascent.rule"] == "adam"
    assert shown("synthesize", "prior=dgn", "ascent=nguyen2016")["ascent.lr"] == "8"
    both = help_of("synthesize", ["prior=[dgn,pixel]"])
    assert re.sub(r"\s+", " ", both).count(f"[dgn {flow.steps}, pixel 100]") == 1


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(DgnError, match="no key 'sedes'"):
        help_of("synthesize", ["sedes=3"])


def test_the_ascents_schema_has_every_setting() -> None:
    from dgn.ascent.settings import AscentSettings

    assert set(AscentConfig.__dataclass_fields__) == {*AscentSettings.__dataclass_fields__, "preset"}
    assert set(described(AscentSettings)) == set(AscentSettings.__dataclass_fields__)


def test_a_training_shows_its_own_kind() -> None:
    for kind, recipe in ((TrainSettings, "spatial64"), (FlowSettings, "flow")):
        names = set(kind.__dataclass_fields__) - {"network", "seed"}
        keys = {key.split(".")[1] for key in shown("train", f"training={recipe}") if key.startswith("training.")}
        assert keys == names and set(described(kind)) == set(kind.__dataclass_fields__)
    assert shown("train", "training=flow")["training.ema"] == str(FlowSettings().ema)


def test_help_needs_no_torch() -> None:
    code = "import sys; from dgn.cli.main import main; main(['synthesize', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
