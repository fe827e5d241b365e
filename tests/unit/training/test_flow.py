"""The flow on top of the Gaussian, and its trainer: closed forms, resume to the bit, weights on disk."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_generator
from omegaconf import OmegaConf
from PIL import Image

from dgn.errors import DgnError
from dgn.files.tensors import load_tensors
from dgn.images.reading import list_images
from dgn.priors import load_prior
from dgn.priors.checkpoint import load_flow, load_generator, save_flow, save_generator
from dgn.priors.components import ComponentsPrior
from dgn.priors.deep import GeneratorPrior
from dgn.priors.flow import Flow, FlowConfig
from dgn.priors.gaussian import FlowPrior, GaussianPrior
from dgn.priors.generator import Components
from dgn.resources import resource
from dgn.training.codes import Codes
from dgn.training.flow import FlowTraining
from dgn.training.settings import FlowSettings
from dgn.training.state import Machine
from dgn.training.trainer import train

SIZE = 64  # numbers of a code 4 x 4 x 4
TINY = FlowSettings(
    patch=4, width=32, depth=1, heads=2, steps=6, batch=4, warmup=1, cooldown=0.0, held_out=4, sample_steps=0
)


def train_flow(data: Path, out: Path, settings: FlowSettings) -> Path:
    """Without what takes longer than so small a flow."""
    return train(data, out, settings, device="cpu", compile=False, progress=False)


@pytest.fixture
def flow() -> Flow:
    torch.manual_seed(0)
    return Flow(FlowConfig((4, 4, 4), patch=2, width=32, depth=2, heads=2))


@pytest.fixture
def prior(components: Components, flow: Flow) -> FlowPrior:
    return FlowPrior(GeneratorPrior(small_generator()), components, 16, flow)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_untrained_flow_is_the_gaussian(prior: FlowPrior) -> None:
    code = normal(5, 4, 4, 4)
    for t in (0.0, 0.3, 0.9):
        assert torch.equal(prior.denoise(code, t), GaussianPrior.denoise(prior, code, t))
    each = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.95])
    rows = torch.cat([GaussianPrior.denoise(prior, code[i : i + 1], float(t)) for i, t in enumerate(each)])
    torch.testing.assert_close(prior.denoise(code, each), rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
def test_the_error_is_the_gaussian_s_own(prior: FlowPrior, components: Components, t: float) -> None:
    """Of its own samples, to what 4,000 of them tell."""
    white, rest = normal(4000, 5), normal(4000, SIZE, seed=1) * 0.3**0.5
    within = rest @ components.basis @ components.basis.T
    code = components.to_code(white) + (rest - within).view(-1, 4, 4, 4)
    estimate = GaussianPrior.denoise(prior, (1 - t) * normal(4000, 4, 4, 4, seed=2) + t * code, t)
    found = float((estimate - code).square().mean().sqrt())
    assert float(prior.error(torch.tensor([t]))) == pytest.approx(found, rel=0.03)


def test_a_flow_tells_what_no_gaussian_can(prior: FlowPrior, flow: Flow) -> None:
    """Codes of two kinds, one of them bright everywhere: a few steps make the estimates better than the Gaussian's."""
    kinds = normal(2, 4, 4, 4, seed=7) * 2
    optimiser = torch.optim.Adam(flow.parameters(), 3e-3)

    def errors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        code = kinds[torch.randint(2, (64,), generator=generator)]
        t = torch.rand(64, generator=generator) * 0.9
        one = t.view(-1, 1, 1, 1)
        mixed = (1 - one) * torch.randn(code.shape, generator=generator) + one * code
        told, guess = prior.denoise(mixed, t), GaussianPrior.denoise(prior, mixed, t)
        return (told - code).square().mean(), (guess - code).square().mean()

    for step in range(60):
        optimiser.zero_grad()
        errors(step)[0].backward()
        optimiser.step()
    learned, gaussian = errors(1000)
    assert learned.item() < 0.5 * gaussian.item()


def test_a_flow_on_disk(prior: FlowPrior, flow: Flow, components: Components, tmp_path: Path) -> None:
    """8-bit matrices change an estimate little; a flow of other components or another form is refused in a line."""
    for parameter in flow.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    big = Flow(FlowConfig((4, 4, 4), patch=2, width=96, depth=1, heads=2))
    for one in (flow, big):
        torch.nn.init.normal_(one.write.weight, std=0.1)
        save_flow(tmp_path / "flow.safetensors", one, components, {"note": 1})
        again, meta = load_flow(tmp_path / "flow.safetensors", components)
        assert again.config == one.config and meta["note"] == 1 and not again.training
        code, guess, t = normal(3, 4, 4, 4), normal(3, 4, 4, 4, seed=1), torch.tensor([0.1, 0.5, 0.9])
        told, kept = one(code, guess, t), again(code, guess, t)
        assert (told - kept).norm().item() < 0.02 * told.norm().item()
    assert (tmp_path / "flow.safetensors").stat().st_size < 1.4 * sum(p.numel() for p in big.parameters())
    other = replace(components, mean=components.mean + 1)
    with pytest.raises(DgnError, match="trained with other components"):
        load_flow(tmp_path / "flow.safetensors", other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 3}, "can't be cut into patches of 3"),
        ({"heads": 5}, "can't be shared by 5 heads"),
        ({"depth": 0}, "whole numbers above 0"),
    ],
)
def test_forms_that_do_not_fit(change: dict[str, int], message: str) -> None:
    with pytest.raises(DgnError, match=message):
        Flow(replace(FlowConfig((4, 4, 4), patch=2, width=32, depth=1, heads=2), **change))


@pytest.mark.parametrize("recipe", ["flow", "flow_gpu8", "flow_gpu"])
def test_recipes_make_files_of_16_mib(recipe: str) -> None:
    """At 8 bits a weight, of the shipped prior's codes."""
    values = OmegaConf.to_container(OmegaConf.load(resource("conf") / "training" / f"{recipe}.yaml"))
    assert isinstance(values, dict)
    settings = FlowSettings(**{str(key): value for key, value in values.items()})
    settings.check()
    with torch.device("meta"):
        flow = Flow(FlowConfig((112, 8, 8), settings.patch, settings.width, settings.depth, settings.heads))
    assert settings.prior == "dgn" and 14e6 < sum(parameter.numel() for parameter in flow.parameters()) < 16.3e6


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        small = Image.fromarray(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8))
        small.resize((80, 70)).save(folder / f"{index:02}.png")
    return folder


@pytest.mark.slow
def test_codes_are_made_once(pictures: Path, tmp_path: Path) -> None:
    """Of each pass another crop; of the prior's encoder; taken up where they fit, made anew where they don't."""
    whole = load_prior("dgn")
    assert isinstance(whole, ComponentsPrior)
    entries = list(list_images(pictures))
    codes = Codes(tmp_path, whole.layout, entries, 2)
    made = codes.path.stat().st_mtime_ns
    assert len(codes) == 24 and codes[np.array([0, 5])].shape == (2, 112, 8, 8)
    assert 0.5 < float(codes[range(24)].float().std()) < 1.5
    again = Codes(tmp_path, whole.layout, entries, 2)
    assert again.path.stat().st_mtime_ns == made and torch.equal(again[range(24)], codes[range(24)])
    other = Codes(tmp_path, whole.layout, entries[1:], 2)
    assert other.path != codes.path and len(other) == 22


@pytest.mark.slow
def test_a_resumed_training_equals_an_undisturbed_one(pictures: Path, tmp_path: Path) -> None:
    whole = train_flow(pictures, tmp_path / "whole", TINY)
    train_flow(pictures, tmp_path / "parts", replace(TINY, steps=3))
    parts = train_flow(pictures, tmp_path / "parts", TINY)
    states = [
        load_tensors(tmp_path / name / "state.safetensors", FlowTraining.format)[0] for name in ("whole", "parts")
    ]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 80
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    assert whole.read_bytes()[-100_000:] == parts.read_bytes()[-100_000:]
    with (tmp_path / "parts" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["step"] == "6" and float(rows[-1]["gaussian_1"]) > float(rows[-1]["gaussian_4"]) > 0
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert report["codes"] == 11 and report["held_out"].keys() >= {"error_1", "gaussian_4"}
    with pytest.raises(DgnError, match="holds a training with lr="):
        train_flow(pictures, tmp_path / "parts", replace(TINY, lr=0.5))
    (tmp_path / "other").mkdir()
    for name in ("generator.safetensors", "components.safetensors"):
        (tmp_path / "other" / name).write_bytes((tmp_path / "parts" / name).read_bytes())
    other = replace(TINY, prior=str(tmp_path / "other"))
    train_flow(pictures, tmp_path / "third", replace(other, steps=1))
    generator, meta = load_generator(tmp_path / "other" / "generator.safetensors")
    save_generator(tmp_path / "other" / "generator.safetensors", generator, {**meta, "changed": 1})
    with pytest.raises(DgnError, match="trained on codes of another prior"):
        train_flow(pictures, tmp_path / "third", other)
    made = load_prior(tmp_path / "whole")
    assert isinstance(made, ComponentsPrior) and isinstance(made.sampled(), FlowPrior)
    begun = train_flow(pictures, tmp_path / "on", replace(TINY, init=str(tmp_path / "whole"), lr=0.0))
    first, then = (load_flow(path, made.components)[0].state_dict() for path in (whole, begun))
    for name, tensor in first.items():  # from weights alone, to what 8 bits keep
        torch.testing.assert_close(then[name], tensor, rtol=0.02, atol=1e-3)


@pytest.mark.slow
def test_the_trainer_learns(pictures: Path, tmp_path: Path) -> None:
    """Pictures that are alike, and unlike the shipped prior's: held-out errors fall below the Gaussian's."""
    settings = replace(TINY, steps=60, batch=8, lr=3e-3, ema=0.9)
    training = FlowTraining(settings, pictures, tmp_path / "out", Machine())
    before = training.measure()
    for batch in training.batches():
        losses = training.update(batch)
    after = training.measure()
    assert float(losses["loss"]) < 0.9
    for quarter in range(1, 5):
        assert before[f"error_{quarter}"] == pytest.approx(before[f"gaussian_{quarter}"], rel=1e-3)
        assert after[f"gaussian_{quarter}"] == before[f"gaussian_{quarter}"]
        assert after[f"error_{quarter}"] < (0.9, 0.9, 0.95, 1.0)[quarter - 1] * after[f"gaussian_{quarter}"], after
