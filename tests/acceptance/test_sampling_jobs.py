"""Jobs that sample instead of climbing: kept, continued, begun at images and codes, beside priors that only climb."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lay_out, rest_slow, small_generator
from PIL import Image
from safetensors.torch import load_file
from watched import behind_the_write, interrupt

from dgn.cli.main import main
from dgn.priors.checkpoint import save_components, save_generator
from dgn.priors.generator import Components


@pytest.fixture(autouse=True)
def _at_the_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network, and a generator with components and centres, in files."""
    monkeypatch.chdir(lay_out(tmp_path))
    draw = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(64, 6, generator=draw))[0]
    centres = torch.randn(40, 6, generator=draw)
    scale = torch.linspace(3, 1, 6)
    Path("mine").mkdir()
    save_generator(Path("mine/generator.safetensors"), small_generator(), {})
    save_components(
        Path("mine/components.safetensors"),
        Components(torch.zeros(64), scale, basis, (4, 4, 4), 0.7, centres),
        {},
    )


BESIDE = ["prior=pixel", "prior.pixel.size=16"]


def command(*more: str) -> list[str]:
    return [
        "synthesize", "network.name=small.pt2", "trust=true", "+prior.mine.path=mine", "ascent.rule=sample",
        "ascent.steps=4", "ascent.input_size=16", "units=[0,1,2]", "batch=1", "tracking=off", "progress=false", *more,
    ]  # fmt: skip


def table(run: str) -> list[dict[str, str]]:
    with Path(run, "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_job_that_was_stopped_ends_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(*BESIDE, "frames=3", "out=whole")) == 0, capsys.readouterr().err
    with monkeypatch.context() as patch:  # pixels' three batches and one of the generator's
        behind_the_write(patch, "mine--000000.safetensors", interrupt)
        assert main(command(*BESIDE, "frames=3", "out=run")) == 130
    capsys.readouterr()
    assert main(command(*BESIDE, "frames=3", "out=run")) == 0
    assert "(4 of 6 batches done)" in capsys.readouterr().err
    pictures = sorted(path.relative_to("whole") for path in Path("whole").rglob("*.png"))
    assert len(pictures) == 1 + 6 + 6  # the grid, the images and their ways
    for name in [*pictures, Path("codes.safetensors")]:
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes(), name
    codes = load_file("whole/codes.safetensors")
    assert codes["mine"].shape == (3, 4, 4, 4)
    assert {(row["prior"], row["steps"]) for row in table("whole")} == {("pixel", "4"), ("mine", "4")}


LEFT = {
    "sampled": ["ascent.rule=sample"],
    "refined": ["ascent.rule=adam", "ascent.refine_steps=2"],
    "components": ["ascent.rule=adam", "ascent.refine_steps=0"],
    "raw": ["ascent.rule=nguyen2016"],
}
"""Every kind of code that a run can leave."""


@pytest.mark.parametrize("left", rest_slow(LEFT, "sampled"))
def test_codes_go_on_under_every_rule(left: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever they are written in. The rule of 2016 can write every code: its run begins at the very image."""
    only = ["prior=[]", "units=[0]", "+prior.mine.size=16"]

    def image(run: str) -> np.ndarray:
        (path,) = Path(run, "images").glob("*.png")
        return np.asarray(Image.open(path), dtype=np.float32)

    assert main(command(*only, *LEFT[left], "out=first")) == 0
    shape = (1, 6) if left == "components" else (1, 4, 4, 4)
    assert load_file("first/codes.safetensors")["mine"].shape == shape
    for rule, more in LEFT.items():
        words = [*more, "ascent.steps=1", "start=first/codes.safetensors", "ascent.start_time=0.9", f"out={rule}"]
        assert main(command(*only, *words)) == 0, (rule, capsys.readouterr().err)
    assert np.abs(image("raw") - image("first")).max() <= 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ascent.temperature=0", "temperature is 0"), ("ascent.churn=2", "churn is 2"),
        ("ascent.inner=0", "inner is 0"),
        ("ascent.start_time=1", "start_time is 1"), ("ascent.rule=sampel", "did you mean 'sample'"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [each for each in command(*BESIDE, "out=run") if each.split("=")[0] != word.split("=")[0]]
    assert main([*words, word]) == 2
    assert message in capsys.readouterr().err and not Path("run").exists()
