"""Networks that give NaN or infinity: their rows freeze and say so, others are as if alone, everything is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import SmallCNN
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import dgn
from dgn.cli.main import main
from dgn.network.network import Network

DARK, BRIGHT = torch.full((3, 16, 16), 0.25), torch.full((3, 16, 16), 0.75)
STILL = {"steps": 10, "lr": 0.01, "jitter": 0.0, "scale": 0.0, "noise": 0.0}


class Faulty(nn.Module):
    """Sound for dark images; for bright ones its outputs, or its slopes, are not finite. Or its weights are not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.kind = SmallCNN(), kind
        if kind.endswith("weights"):
            with torch.no_grad():
                self.net.head.weight[1] = float(kind.split()[0])

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        mean = x.mean((1, 2, 3))[:, None]  # of images in [-1, 1]
        if self.kind == "nan gradient":
            return y + torch.where(mean > 0, mean * 0, mean).clamp(min=-1).abs().sqrt() * (mean > 0)
        if self.kind in ("nan", "inf", "-inf"):
            return torch.where(mean > 0, torch.full_like(y, float(self.kind)), y)
        return y


@pytest.mark.parametrize("prior", ["pixel", "fourier"])
@pytest.mark.parametrize("kind", ["nan", "inf", "-inf", "nan gradient"])
def test_broken_rows_freeze_and_the_others_are_as_if_alone(kind: str, prior: str) -> None:
    """Two units, each from a dark and a bright image: the bright rows stay where they are."""
    network = Network(Faulty(kind), 16, name="faulty")
    own = dgn.load_prior(prior, size=16)
    starts = torch.stack([DARK, BRIGHT, DARK, BRIGHT])
    result = dgn.synthesize(network, [0, 3], prior=own, seeds=[0, 1], start=starts, **STILL)
    assert result.frozen_at.tolist() == [-1, 0, -1, 0]
    assert [line.split(" froze")[0] for line in result.warnings] == [f"0 (seed 1, {prior})", f"3 (seed 1, {prior})"]
    assert all("not finite" in line for line in result.warnings)
    assert result.images.isfinite().all() and result.codes.isfinite().all()
    assert torch.allclose(result.images[[1, 3]], torch.stack([BRIGHT, BRIGHT]), atol=0.01)
    alone = dgn.synthesize(network, [0, 3], prior=own, seeds=[0], start=DARK, **STILL)
    assert torch.allclose(result.images[[0, 2]], alone.images, atol=1e-5)
    assert torch.allclose(result.activations[[0, 2]], alone.activations, atol=1e-5)
    assert (alone.history[-1] > alone.history[0]).all()


@pytest.mark.parametrize("kind", ["nan weights", "inf weights"])
def test_broken_weights_freeze_every_row_of_that_layer(kind: str) -> None:
    """A zero slope times such a weight is NaN: no unit that shares a batch with it can climb, one before it can."""
    network = Network(Faulty(kind), 16, name="faulty")
    own = dgn.load_prior("pixel", size=16)
    result = dgn.synthesize(network, [0, 1], prior=own, start=DARK, **STILL)
    assert result.frozen_at.tolist() == [0, 0] and len(result.warnings) == 2
    assert torch.allclose(result.images, torch.stack([DARK, DARK]), atol=0.01)
    before = dgn.synthesize(network, "net.late:0", prior=own, start=DARK, **STILL)
    assert before.frozen_at.tolist() == [-1] and before.history[-1, 0] > before.history[0, 0]


def test_the_command_writes_everything_and_says_which_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of NaN: the table, pictures of the starts, codes and page are there, and a line a row."""
    monkeypatch.chdir(tmp_path)
    program = torch.export.export(
        Faulty("nan weights").eval(), (torch.rand(2, 3, 16, 16),),
        dynamic_shapes={"x": {0: torch.export.Dim("batch", max=64)}},
    )  # fmt: skip
    torch.export.save(program, "faulty.pt2")
    job = ["synthesize", "network.name=faulty.pt2", "trust=true", "units=[0,1]", "prior=[pixel,fourier]",
           "prior.pixel.size=16", "prior.fourier.size=16", "ascent.steps=4", "tracking=off", "progress=false",
           "out=run"]  # fmt: skip
    assert main(job) == 0
    shown = capsys.readouterr().err.strip().splitlines()
    said = [line for line in shown if "froze at step 0: its gradient was zero or not finite" in line]
    assert len(said) == 4 and "assumed of network" in shown[0] and shown[1:] == said
    with open("run/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frozen_at"] for row in rows] == ["0"] * 4
    assert [row["activation"] for row in rows][1::2] == ["nan", "nan"] and "nan" not in rows[0]["activation"]
    for row in rows:
        with Image.open(Path("run") / row["image"]) as image:
            assert image.size == (16, 16)
    assert all(code.isfinite().all() for code in load_file("run/codes.safetensors").values())
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["status"] == "done" and len(manifest["warnings"]) == 4
    assert Path("run/index.html").stat().st_size > 1000 and Path("run/grid.png").stat().st_size > 100
