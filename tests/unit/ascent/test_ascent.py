"""The ascent against a straightforward reference, and its guards."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import SmallCNN, small_generator
from torch import Tensor, nn

import dgn
from dgn.ascent.presets import NGUYEN2016
from dgn.ascent.rules import RULES, State, adam
from dgn.ascent.settings import AscentSettings
from dgn.ascent.transforms import Draws, add_noise, shift_and_zoom
from dgn.network.network import Network
from dgn.priors.base import Prior
from dgn.priors.components import ComponentsPrior
from dgn.priors.deep import GeneratorPrior
from dgn.priors.generator import Components, Generator, GeneratorConfig
from dgn.priors.pixel import PixelPrior
from dgn.synthesis.main import synthesize

FP32 = {"precision": "fp32"}
STEPS = 6
"""At the paper's rate a rounding error can cross the whole range of the code: few steps, so that both paths agree."""


def reference(generator: Generator, module: nn.Module, index: int, seed: int, steps: int) -> tuple[Tensor, list[float]]:
    """DGN-AM as ``dgn-am.md`` writes it, one sample, in the encoder's own code; returns the last image seen."""
    mean, std = generator.code_mean, generator.code_std
    positive = bool((generator.code_min >= 0).all())
    low, high = (0 * std, 3 * std) if positive else (mean - 3 * std, mean + 3 * std)
    start, end = 8.0, 1e-10
    seen: list[float] = []
    h = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(seed))[None]
    image = h
    for i in range(steps):
        h = h.detach().requires_grad_()
        image = generator((h - mean) / std).clamp(0, 1)
        offset = (16 - 12) // 2
        crop = image[:, :, offset : offset + 12, offset : offset + 12]
        activation = module((crop - 0.5) / 0.5)[0, index]
        seen.append(float(activation.detach()))
        (g,) = torch.autograd.grad(activation, h)
        lr = start + (end - start) * i / steps
        h = 0.99 * torch.minimum(torch.maximum(h + lr * g / g.abs().mean(), low), high)
    return image.detach(), seen


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(
    "change", [{}, {"decay": 0.9}, {"lr": 4.0}, {"sigmas": 2.0}, {"fit": "resize"}, {"lr_end": 8.0}]
)
def test_nguyen2016_is_the_papers(positive: bool, change: dict[str, float], cnn: SmallCNN) -> None:
    """Equal with the paper's settings; different with any of them changed."""
    generator = small_generator(positive=positive)
    network = Network(cnn, 12)
    prior = GeneratorPrior(generator)
    settings = replace(NGUYEN2016, steps=STEPS, precision="fp32", **change)
    result = synthesize(network, [2], prior, ascent=settings, seed=3)
    image, seen = reference(generator, network.module, 2, 3, STEPS)
    same = torch.allclose(result.images, image, atol=1e-5) and torch.allclose(
        result.history[:, 0], torch.tensor(seen), atol=1e-4, rtol=1e-4
    )
    assert same == (not change)


class DecayThenClip(GeneratorPrior):
    """The two last parts of a step in the wrong order."""

    width: float | None = None

    def raw(self) -> GeneratorPrior:
        return DecayThenClip(self.generator, raw=True)

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        self.width = sigmas
        return code

    def decay(self, code: Tensor, factor: float) -> Tensor:
        return super().project(super().decay(code, factor), self.width)


class NormalisedOnly(GeneratorPrior):
    """Has no way to the encoder's own code."""

    def raw(self) -> Prior:
        return self


def by_largest(h: Tensor, g: Tensor, state: State, lr: float) -> Tensor:
    return h + lr * g / g.abs().amax()


def by_length(h: Tensor, g: Tensor, state: State, lr: float) -> Tensor:
    return h + lr * g / g.norm()


def by_whole_batch(h: Tensor, g: Tensor, state: State, lr: float) -> Tensor:
    return h + lr * g / g.abs().mean()


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("wrong", ["", "order", "largest", "length", "batch", "bounds", "normalised"])
def test_nguyen2016_deviations_are_seen(
    positive: bool, wrong: str, cnn: SmallCNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two units at once equal two references; a rule with one part done otherwise doesn't."""
    generator = small_generator(positive=positive)
    prior = (DecayThenClip if wrong == "order" else GeneratorPrior)(generator)
    if wrong == "normalised":
        prior = NormalisedOnly(generator)
    expected = [reference(generator, Network(cnn, 12).module, index, 3, STEPS)[0] for index in (2, 4)]
    changed = {"largest": by_largest, "length": by_length, "batch": by_whole_batch}
    if wrong in changed:
        monkeypatch.setitem(RULES, "nguyen2016", changed[wrong])
    if wrong == "bounds":  # those of the other kind of code
        generator.code_min.fill_(-3.0 if positive else 0.0)
    settings = replace(NGUYEN2016, steps=STEPS, precision="fp32")
    result = synthesize(Network(cnn, 12), [2, 4], prior, ascent=settings, seed=3)
    assert torch.allclose(result.images, torch.cat(expected), atol=1e-5) == (not wrong)


def test_adam_is_torchs_adam() -> None:
    torch.manual_seed(0)
    code, state = torch.randn(2, 3, 4), {}
    target = torch.randn(2, 3, 4)
    theirs = code.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.1, maximize=True)
    scale = None
    for _ in range(5):
        g = torch.cos(code) * target
        scale = g.abs().mean((1, 2), keepdim=True) if scale is None else scale
        code = adam(code, g, state, 0.1)
        theirs.grad = torch.cos(theirs.detach()) * target / scale
        optimiser.step()
    torch.testing.assert_close(code, theirs.detach())


def test_same_seed_same_bits_and_seeds_differ(network: Network) -> None:
    prior = GeneratorPrior(small_generator())
    first = synthesize(network, ["ant", "stem:3"], prior, steps=6, seeds=[0, 1])
    again = synthesize(network, ["ant", "stem:3"], prior, steps=6, seeds=[0, 1])
    assert torch.equal(first.images, again.images) and torch.equal(first.history, again.history)
    assert not torch.allclose(first.images[0], first.images[1], atol=1e-3)


def test_a_unit_does_not_depend_on_its_neighbours(network: Network) -> None:
    prior = GeneratorPrior(small_generator())
    together = synthesize(network, ["ant", "stem:3", "late:1@1,2", "bee"], prior, steps=6, seeds=[4, 9], **FP32)
    alone = synthesize(network, ["late:1@1,2"], prior, steps=6, seeds=[9], **FP32)
    pieces = synthesize(network, ["ant", "stem:3", "late:1@1,2", "bee"], prior, steps=6, seeds=[4, 9], batch=3, **FP32)
    torch.testing.assert_close(together.images[5], alone.images[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(together.images, pieces.images, rtol=1e-3, atol=1e-3)
    assert [unit.name for unit in pieces.units] == [unit.name for unit in together.units]


class Trap(nn.Module):
    """Climbs to brightness (its gradient is NaN for images brighter than .65), to nothing (zero), to darkness."""

    def forward(self, x: Tensor) -> Tensor:
        mean = (x.mean((1, 2, 3)) + 1) / 2
        wall = torch.sqrt(torch.where(mean > 0.65, mean - mean, torch.ones_like(mean)))
        return torch.stack([mean + 0 * wall, 0 * mean + 1, -mean], 1)


def test_bad_gradients_freeze_their_sample_alone() -> None:
    network = Network(Trap(), 8)
    result = synthesize(network, [0, 1, 2], PixelPrior(8), steps=12, lr_end=0.05, **FP32)
    stopped = int(result.frozen_at[0])
    assert 0 < stopped < 12 and result.frozen_at[1:].tolist() == [0, -1]
    assert torch.equal(result.images[1], PixelPrior(8).start(1, [0])[0])
    assert 0.65 < float(result.images[0].mean()) < 0.75 and float(result.images[2].mean()) < 0.1
    assert len(result.warnings) == 2 and f"froze at step {stopped}" in result.warnings[0]


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().mean((2, 3))


def test_a_target_without_gradient_is_an_error() -> None:
    with pytest.raises(dgn.DgnError, match="no gradient flows from '1'"):
        synthesize(Network(Cut(), 8), [1], PixelPrior(8), steps=3)


class Peak(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -(x.mean((1, 2, 3), keepdim=False)[:, None] - 0.2).abs()


@pytest.mark.parametrize("rule", ["adam", "nguyen2016"])
def test_a_frozen_neighbour_changes_nothing(rule: str) -> None:
    """The sample beside a NaN and a zero gradient moves as it does alone, and nothing turns NaN."""
    change = {"rule": rule, "steps": 12, "lr": 0.05, "lr_end": 0.05, **FP32}
    together = synthesize(Network(Trap(), 8), [0, 1, 2], PixelPrior(8), **change)
    alone = synthesize(Network(Trap(), 8), [2], PixelPrior(8), **change)
    torch.testing.assert_close(together.images[2], alone.images[0])
    assert bool(together.images.isfinite().all()) and bool(together.codes.isfinite().all())
    stopped = int(together.frozen_at[0])
    assert 0 < stopped < 12 and bool((together.history[stopped:, 0] == together.history[stopped, 0]).all())


def test_freezing_in_the_refinement_counts_from_the_first_step(network: Network) -> None:
    """A unit that dies only in the second ascent is reported at its step of the whole; earlier ones keep theirs."""
    prior = ComponentsPrior(small_generator(), components(), 32)
    dark = Network(Fading(), 8)
    result = synthesize(dark, [0, 1], prior, rule="adam", starts=1, steps=4, refine_steps=5, **FP32)
    assert result.frozen_at.tolist() == [0, -1] and len(result.warnings) == 1
    late = Network(Counting(after=4), 8)
    result = synthesize(late, [0], prior, rule="adam", input_size=8, starts=1, steps=4, refine_steps=5, **FP32)
    assert result.frozen_at.tolist() == [4] and "froze at step 4" in result.warnings[0]


class Fading(nn.Module):
    """One unit without a gradient, one with."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0 * mean, mean], 1)


class Counting(nn.Module):
    """Its gradient is zero after so many forward passes."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        return x.mean((1, 2, 3))[:, None] * float(self.left >= 0)


def test_one_channel_networks_climb_in_pixels_only() -> None:
    torch.manual_seed(0)
    grey = Network(SmallCNN(1), 16, [0.5], [0.5], name="grey")
    result = synthesize(grey, ["stem:3", "late:1@center"], "pixel", steps=10)
    assert result.images.shape == (2, 1, 128, 128) and bool((result.activations > result.history[0]).all())
    with pytest.raises(dgn.DgnError, match="makes images of 3 channels, network 'grey' takes 1"):
        synthesize(grey, ["stem:3"], GeneratorPrior(small_generator()))


def test_on_step_sees_every_forward_pass_and_lr_falls_linearly(network: Network) -> None:
    """Pixels move by lr * g / mean|g| under the paper's rule: the mean step is the learning rate itself."""
    seen: list[tuple[int, int]] = []
    frames: list[Tensor] = []

    def on_step(step: int, total: int, activations: Tensor, images: Tensor) -> None:
        seen.append((step, total))
        frames.append(images.clone())

    change = {"rule": "nguyen2016", "steps": 5, "lr": 0.01, "lr_end": 0.005, **FP32}
    result = synthesize(network, ["ant"], PixelPrior(16), on_step=on_step, **change)
    assert seen == [(i, 5) for i in range(5)] and torch.equal(frames[-1], result.images)
    moved = torch.stack([(b - a).abs().mean() for a, b in pairwise(frames)])
    torch.testing.assert_close(moved, torch.tensor([0.01, 0.009, 0.008, 0.007]), rtol=1e-2, atol=0)


def test_keep_best_and_last() -> None:
    network = Network(Peak(), 8)
    kwargs = {"steps": 13, "lr": 0.07, "lr_end": 0.07, **FP32}
    best = synthesize(network, [0], PixelPrior(8), keep="best", **kwargs)
    last = synthesize(network, [0], PixelPrior(8), **kwargs)
    torch.testing.assert_close(best.activations[0], best.history.max())
    torch.testing.assert_close(last.activations[0], last.history[-1, 0])
    assert float(best.activations[0]) > float(last.activations[0])


def test_activations_climb_and_stay_in_range(network: Network) -> None:
    for prior in (PixelPrior(16), GeneratorPrior(small_generator())):
        result = synthesize(network, ["ant", "late:2", "0.5*stem:1 - bee"], prior, steps=20)
        assert bool((result.activations > result.history[0]).all())
        assert float(result.images.min()) >= 0 and float(result.images.max()) <= 1


def components() -> Components:
    """Ten components of the small generator's codes."""
    torch.manual_seed(3)
    return Components(torch.zeros(64), torch.linspace(2, 1, 10), torch.linalg.qr(torch.randn(64, 10)).Q, (4, 4, 4))


def test_refinement_stays_near_its_layout(network: Network) -> None:
    generator, parts = small_generator(), components()
    prior = ComponentsPrior(generator, parts, 32, refine_radius=0.5)
    result = synthesize(network, ["ant", "bee"], prior, rule="adam", starts=1, steps=5, refine_steps=6, **FP32)
    assert result.images.shape == (2, 3, 32, 32) and result.codes.shape == (2, 4, 8, 8)
    assert result.history.shape == (11, 2)
    torch.testing.assert_close(GeneratorPrior(generator, 32).decode(result.codes), result.images)
    code = prior.project(5 * prior.start(3))
    assert bool((code.norm(dim=1) <= prior.radius * 10**0.5 + 1e-4).all())
    fine, centre = prior.refine(code)
    for push in (-10, 10):
        moved = fine.project(centre + push)
        assert bool(((moved - centre).abs() <= 0.5 + 1e-6).all())
    coarse = synthesize(network, ["ant", "bee"], prior, rule="adam", starts=1, steps=5, refine_steps=0, **FP32)
    _, layout = prior.refine(coarse.codes)
    step = (result.codes - layout).abs()
    assert 1e-3 < float(step.max()) <= 0.5 + 1e-6
    torch.testing.assert_close(result.history[:5], coarse.history)
    slow = {"rule": "adam", "starts": 1, "steps": 5, "refine_lr": 0.02, "sigmas": None, **FP32}
    once = synthesize(network, ["ant", "bee"], prior, refine_steps=2, **slow).codes - layout
    assert float(once.abs().max()) == pytest.approx(0.02, rel=1e-2)  # Adam's first step is its rate
    narrow = synthesize(network, ["ant", "bee"], prior, refine_steps=6, refine_radius=0.01, **slow).codes - layout
    assert 0.009 < float(narrow.abs().max()) <= 0.01 + 1e-6
    twice = synthesize(network, ["ant", "bee"], prior, refine_steps=3, **slow).codes - layout
    assert 0.02 < float(twice.abs().max()) < 0.04  # then 2/3 of it
    torch.testing.assert_close(parts.to_coordinates(parts.to_code(code)), code, rtol=1e-4, atol=1e-4)


def test_transformations_are_seeded_and_differentiable() -> None:
    images = torch.rand(3, 3, 12, 12, dtype=torch.float32, requires_grad=True)

    def view(seeds: list[int]) -> Tensor:
        draws = Draws(seeds)
        return add_noise(shift_and_zoom(images, draws, 0.1, 0.1), draws, 0.05)

    first, again, other = view([0, 1, 0]), view([0, 1, 0]), view([0, 2, 0])
    assert torch.equal(first, again)
    assert torch.equal(first[[0, 2]], other[[0, 2]]) and not torch.equal(first[1], other[1])
    first.sum().backward()
    assert images.grad is not None and bool(images.grad.isfinite().all()) and float(images.grad.abs().sum()) > 0
    assert shift_and_zoom(images, Draws([0, 1, 2]), 0, 0) is images


def test_bad_settings_name_the_nearest(network: Network) -> None:
    prior = PixelPrior(16)
    with pytest.raises(dgn.DgnError, match="did you mean 'steps'"):
        synthesize(network, ["ant"], prior, stepz=3)
    with pytest.raises(dgn.DgnError, match="did you mean 'adam'"):
        synthesize(network, ["ant"], prior, rule="adm")
    with pytest.raises(dgn.DgnError, match="channels"):
        synthesize(network, ["ant"], PixelPrior(16, channels=1))
    with pytest.raises(dgn.DgnError, match="multiple of 4"):
        GeneratorPrior(small_generator(), 18)


def test_the_start_lies_at_a_multiple_of_the_priors_own_distance_from_the_mean(network: Network) -> None:
    prior = ComponentsPrior(small_generator(), components(), 32)
    start = {"rule": "adam", "steps": 1, "refine_steps": 0, "starts": 1, "reencode": 0.0, **FP32}
    usual = synthesize(network, [0], prior, seeds=[3, 4], **start).codes
    torch.testing.assert_close(usual, prior.start(2, [3, 4]))
    mean = synthesize(network, [0], prior, seeds=[3, 4], start_scale=0, **start).codes
    assert not mean.any()
    wide = synthesize(network, [0], prior, seeds=[3, 4], start_scale=2, **start).codes
    torch.testing.assert_close(wide, 2 * usual)
    with pytest.raises(dgn.DgnError, match="start_scale is -1"):
        synthesize(network, [0], prior, start_scale=-1)
    with pytest.raises(dgn.DgnError, match="refine_radius is 0"):
        synthesize(network, [0], prior, refine_radius=0)


class FixedSize(nn.Module):
    """Takes images of 16 px alone, as a program exported with that shape."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 16:
            raise AssertionError("Guard failed: x.size()[2] == 16")
        return x.mean((2, 3))


def test_a_network_of_one_size_is_climbed_at_that_size() -> None:
    fixed, prior = Network(FixedSize(), 16, name="fixed"), PixelPrior(16)
    prior.ascent = {"input_size": 12}
    assert synthesize(fixed, [1], prior, steps=3, **FP32).settings.input_size is None
    with pytest.raises(dgn.DgnError, match="can't see images of 20 px; its own size is input_size=16"):
        synthesize(fixed, [1], prior, steps=3, input_size=20)


def test_input_sizes_take_turns(network: Network) -> None:
    """A code that stands still is seen as each size alone would see it, one step after the other."""
    still = {"lr": 0.0, "lr_end": 0.0, "steps": 5, "jitter": 0.0, "scale": 0.0, "noise": 0.0, **FP32}
    units, prior = ["ant", "stem:3"], PixelPrior(32, noise=0.3)
    alone = {size: synthesize(network, units, prior, input_size=size, **still).history for size in (32, 64)}
    turns = synthesize(network, units, prior, input_size=[32, 64], **still)
    expected = torch.stack([alone[(32, 64)[step % 2]][step] for step in range(5)])
    torch.testing.assert_close(turns.history, expected)
    assert turns.settings.input_sizes == (32, 64) and not torch.allclose(alone[32], alone[64])
    with pytest.raises(dgn.DgnError, match="input_size is 'x'"):
        synthesize(network, units, prior, input_size=[32, "x"])
    fixed = Network(FixedSize(), 16, name="fixed")
    with pytest.raises(dgn.DgnError, match="can't see images of 20 px"):
        synthesize(fixed, [1], PixelPrior(16), steps=3, input_size=[16, 20])


class Remembering(PixelPrior):
    """Re-encodes to dark grey, once; a frozen sample does not move."""

    def reencode(self, code: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return torch.full_like(code, 0.25)


def test_reencoding_happens_once_and_the_ascent_goes_on_from_there(network: Network) -> None:
    prior = Remembering(16)
    result = synthesize(network, ["ant"], prior, steps=6, lr=1e-3, lr_end=1e-3, reencode=0.5, **FP32)
    assert prior.calls == 1
    moved = (result.codes - 0.25).abs()
    assert 1e-3 < float(moved.max()) <= 2.1e-3  # two steps after it
    assert float((synthesize(network, ["ant"], prior, steps=6, lr=1e-3, **FP32).codes - 0.5).abs().max()) < 0.1
    assert prior.calls == 1
    with pytest.raises(dgn.DgnError, match="no encoder"):
        synthesize(network, ["ant"], PixelPrior(16), steps=6, reencode=0.5)


def test_reencoding_is_decode_then_encode(cnn: SmallCNN) -> None:
    network = Network(cnn, 16)
    layer = next(name for name, shape in network.layers.items() if len(shape) == 3)
    channels, cells, _ = network.layers[layer]
    torch.manual_seed(0)
    stages = (16 // cells).bit_length() - 1
    config = GeneratorConfig("small", layer, 16, 16, "spatial", (channels, cells, cells), (8,) * stages, (1,) * stages)
    generator = Generator(config).eval()
    generator.code_mean.fill_(0.3)
    generator.code_std.fill_(0.7)
    for raw in (False, True):
        prior = GeneratorPrior(generator, encoder=network, raw=raw)
        code = prior.start(2)
        with torch.no_grad():
            expected = network.features(prior.decode(code), [layer])[layer]
        torch.testing.assert_close(prior.reencode(code), expected if raw else (expected - 0.3) / 0.7)
        assert prior.raw().encoder is network


@pytest.mark.parametrize(
    "change",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"decay": 2.0},
        {"input_size": 0},
        {"input_size": []},
        {"input_size": [64, 0]},
        {"noise": float("nan")},
        {"sigmas": 0.0},
        {"starts": 0},
        {"race_steps": 0},
        {"refine_steps": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(dgn.DgnError, match=next(iter(change))):
        AscentSettings().with_changes(change)
