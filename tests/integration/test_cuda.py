"""On a GPU: what the CPU's tests say of the loop, of memory, of a killed job, of a training. ``pytest -m gpu``."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import SmallCNN, lay_out, small_generator
from safetensors.torch import load_file

import dgn
from dgn.ascent.loop import Ascent
from dgn.ascent.penalties import PENALTIES
from dgn.ascent.settings import AscentSettings
from dgn.ascent.transforms import TRANSFORMS
from dgn.cli.main import main
from dgn.network.fast.precision import choose
from dgn.network.network import Network
from dgn.network.sources import load_network
from dgn.priors.deep import GeneratorPrior
from dgn.priors.fourier import FourierPrior, MacoPrior
from dgn.priors.pixel import PixelPrior
from dgn.synthesis.plan import plan
from dgn.synthesis.result import join
from dgn.units.unit import layers_of
from dgn.units.units import parse_units

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _whole_numbers() -> Iterator[None]:
    """float32 in full, so that devices can be compared."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on(device: str) -> Network:
    torch.manual_seed(0)
    return Network(SmallCNN().to(device), 16, name="small")


PRIORS = {
    "pixel": lambda: PixelPrior(16),
    "fourier": lambda: FourierPrior(16),
    "maco": lambda: MacoPrior(16),
    "dgn": lambda: GeneratorPrior(small_generator()),
}
UNITS = ["0", "1", "late:2@center", "late:*", "log(3)", "0.5*2 - 0.2*stem:3"]


@pytest.mark.parametrize("prior", list(PRIORS))
def test_a_gpu_climbs_as_a_cpu(prior: str) -> None:
    """The same starts and draws in float32: the same images but for the order of sums."""
    found = {}
    for device in ("cpu", "cuda"):
        found[device] = dgn.synthesize(
            on(device), UNITS, prior=PRIORS[prior](), steps=8, seeds=[0, 1], jitter=0.1, scale=0.1, noise=0.02,
            precision="fp32",
        )  # fmt: skip
    cpu, gpu = found["cpu"], found["cuda"]
    torch.testing.assert_close(gpu.history[0], cpu.history[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gpu.images, cpu.images, rtol=0, atol=0.02)
    torch.testing.assert_close(gpu.activations, cpu.activations, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("rule", ["adam", "nguyen2016", "ppgn"])
@pytest.mark.parametrize("prior", list(PRIORS))
def test_no_step_waits_for_the_gpu(prior: str, rule: str) -> None:
    network, place = on("cuda"), PRIORS[prior]().to(torch.device("cuda"))
    units = parse_units(UNITS, network)
    code = place.start(len(units), list(range(len(units))))
    settings = AscentSettings(
        rule=rule, steps=4, jitter=0.1, scale=0.1, noise=0.02, precision="bf16",
        transforms=TRANSFORMS.parse([{"rotate": 5}, {"contrast": 0.1}]),
        penalties=PENALTIES.parse([{"total_variation": 0.01}]),
    )  # fmt: skip
    seen: list[int] = []

    def note(step: int, *_: object) -> None:
        """From the third step to the last: what is asked and uploaded once a climb is known."""
        seen.append(step)
        torch.cuda.set_sync_debug_mode("error" if 1 <= step < 3 else "default")

    try:
        Ascent(network, units, place, settings, list(range(len(units))), on_step=note).climb(code)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen == [0, 1, 2, 3]


def test_bf16_is_chosen_and_near() -> None:
    """EfficientNet-Lite0: within 3 % of what its units rise by, mean over units and seeds (seen on an H200: 0.5 %)."""
    network = load_network("efficientnet_lite0", device="cuda")
    names = ["goldfish", "candle", "blocks.1.1:3", "blocks.3.1:7", "blocks.5.1:11"]
    seeds = list(range(8))
    units = parse_units(names, network)
    assert choose(network, layers_of(units), "auto") == "bf16"
    options = {"prior": FourierPrior(96), "steps": 64, "seeds": seeds, "jitter": 0.05}
    full, half = (dgn.synthesize(network, names, precision=one, **options) for one in ("fp32", "bf16"))
    rise = (full.activations - full.history[0]).view(-1, len(seeds)).mean(1)
    apart = (half.activations - full.activations).view(-1, len(seeds)).mean(1)
    print("bf16 - fp32, of the rise:", (apart / rise).tolist())
    assert bool((rise > 0).all())
    assert float((apart / rise).mean().abs()) < 0.03, apart / rise


def test_memory_that_is_full() -> None:
    """A real allocator at its end: the batch is halved, and nothing is lost."""
    network = load_network("efficientnet_lite0", device="cuda")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 1.5 * 2**30
    names = [str(index) for index in range(96)]
    options = {"prior": PixelPrior(64), "steps": 2, "precision": "fp32"}
    said: list[int] = []
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        found = join(list(plan(network, names, batch=96, **options).pieces(on_cut=said.append)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert said and 1 <= said[-1] < 96
    whole = dgn.synthesize(network, names, batch=said[-1], **options)
    torch.testing.assert_close(found.activations, whole.activations, rtol=1e-3, atol=1e-3)


QUICK = ["tracking=off", "progress=false", "device=cuda"]


def test_images_and_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    climb_on = ["prior=pixel", "prior.pixel.size=16", "ascent.steps=3"]
    jobs = [
        ["synthesize", "network.name=small.pt2", "trust=true", "units=[0,1]", *climb_on, "out=made", *QUICK],
        ["examples", "network.name=small.pt2", "trust=true", "units=[0,1]", "data.root=pictures", "out=found", *QUICK],
    ]
    for job in jobs:
        assert main(job) == 0, job
    manifest = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert manifest["status"] == "done" and manifest["device"].startswith("cuda")


def test_the_shipped_generator(tmp_path: Path) -> None:
    """The README's first command, shorter, and region ablation of its image."""
    run = tmp_path / "candle"
    short = ["ascent.steps=20", "ascent.refine_steps=10", *QUICK]
    assert main(["synthesize", "units=[candle]", *short, f"out={run}"]) == 0
    image = next(run.glob("images/*.png"))
    assert main(["ablate", f"image={image}", "unit=candle", f"out={tmp_path}/ablated", *QUICK]) == 0
    with (tmp_path / "ablated" / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["unit"] == "candle" and float(row["largest_drop"]) > 0
    with (run / "results.csv").open() as file:
        made = {row["prior"]: float(row["activation"]) for row in csv.DictReader(file)}
    assert set(made) == {"dgn", "pixel"} and min(made.values()) > 1  # of what is no candle: 0


def test_a_job_continues(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL of a process that has a GPU; the same command goes on, and ends as an undisturbed one."""
    job = [
        "synthesize", f"network.name={exported}", "trust=true", "units=[0,1,2,3]", "seeds=2", "batch=1",
        "ascent.steps=150", "prior=pixel", "prior.pixel.size=16", *QUICK,
    ]  # fmt: skip
    command = [sys.executable, "-m", "dgn", *job, f"out={tmp_path}/cut"]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    parts = tmp_path / "cut" / "parts"
    while first.poll() is None and len(list(parts.glob("[!.]*.safetensors"))) < 2:
        os.sched_yield()
    first.kill()
    first.wait()
    before = list(parts.glob("[!.]*.safetensors"))
    assert 2 <= len(before) < 8
    assert main([*job, f"out={tmp_path}/cut"]) == 0
    assert f"({len(before)} of 8 batches done)" in capsys.readouterr().err
    assert main([*job, f"out={tmp_path}/whole"]) == 0
    cut, whole = (load_file(tmp_path / name / "codes.safetensors")["pixel"] for name in ("cut", "whole"))
    torch.testing.assert_close(cut, whole, rtol=1e-3, atol=1e-3)


def test_training(images: Path, tmp_path: Path) -> None:
    """A tiny generator, stopped and gone on with; codes of ascents included."""
    small = [
        "train", f"data.root={images}", "data.workers=0", "training.image_size=32", "training.encoder_size=64",
        "training.widths=[8,8,8]", "training.depths=[1,1,1]", "training.batch=4", "training.held_out=4",
        "training.statistics_images=16", "training.component_images=20", "training.components=8", "training.centres=2",
        "training.ascent_share=0.25", "training.adversary_start=0.2", "compile=false", f"out={tmp_path}/run", *QUICK,
    ]  # fmt: skip
    assert main([*small, "training.steps=4"]) == 0
    assert main([*small, "training.steps=8"]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["step"] == 8 and report["held_out"]["pixel"] < 1


def test_a_process_a_gpu_slot(exported: Path, tmp_path: Path) -> None:
    """launcher=local gives its workers the GPUs."""
    command = [
        sys.executable, "-m", "dgn", "synthesize", "-m", f"network.name={exported}", "trust=true", "units=0,1",
        "prior=pixel", "prior.pixel.size=16", "ascent.steps=3", "tracking=off", "progress=false", "device=cuda",
        "launcher=local", f"hydra.sweep.dir={tmp_path}/sweep",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    for index in (0, 1):
        manifest = json.loads((tmp_path / "sweep" / str(index) / "manifest.json").read_text())
        assert manifest["status"] == "done" and manifest["device"].startswith("cuda")
