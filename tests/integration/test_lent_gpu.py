"""What is run on a lent GPU, rehearsed on a CPU: packed images, a flow and a decoder by the clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgn.priors import load_prior
from dgn.priors.components import ComponentsPrior

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *words: str | Path) -> None:
    call = [sys.executable, str(BENCHMARKS / f"{script}.py"), *map(str, words)]
    subprocess.run(call, check=True, capture_output=True, timeout=600, cwd=BENCHMARKS.parent)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flow", "decoder"])
def test_a_rehearsal_brings_a_prior_back(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "train" / "a").mkdir(parents=True)
    for index in range(20):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((200, 180)).save(tmp_path / "train" / "a" / f"{index}.png")
    run("pack", "pack", tmp_path / "train", tmp_path / "packed", "--size", "144")
    run("pack", "unpack", tmp_path / "packed", tmp_path / "images")
    words = ("--kind", kind, "--minutes", "0", "--device", "cpu", "--tiny")
    run("flow_gpu", tmp_path / "images", tmp_path / "out", *words)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["step"] >= 1 and report["held_out"].keys() >= {"error_1" if kind == "flow" else "psnr"}
    made = load_prior(tmp_path / "out")
    assert isinstance(made, ComponentsPrior) and made.flow is not None and made.layout.size == (128, 128)
    assert list((tmp_path / "out").glob("step-*.png"))
