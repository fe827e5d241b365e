"""The ascent against a straightforward reference, and its guards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import SmallCNN, small_generator
from torch import Tensor, nn

import dgn
from dgn.ascent.rules import adam
from dgn.ascent.transforms import Draws, add_noise, shift_and_zoom
from dgn.network import Network
from dgn.priors.deep import ComponentsPrior, GeneratorPrior
from dgn.priors.generator import Components, Generator
from dgn.priors.pixel import PixelPrior
from dgn.settings import NGUYEN2016
from dgn.synthesis import synthesize

FP32 = {"precision": "fp32"}


def reference(generator: Generator, module: nn.Module, index: int, h: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    """DGN-AM as ``dgn-am.md`` writes it, one sample, in the encoder's raw code; returns the last image seen."""
    mean, std = generator.code_mean, generator.code_std
    positive = bool((generator.code_min >= 0).all())
    start, end = 8.0, 1e-10
    seen: list[float] = []
    image = h
    for i in range(steps):
        h = h.detach().requires_grad_()
        image = generator((h - mean) / std).clamp(0, 1)
        offset = (16 - 12) // 2
        crop = image[:, :, offset : offset + 12, offset : offset + 12]
        activation = module((crop - 0.5) / 0.5)[0, index]
        seen.append(float(activation.detach()))
        (g,) = torch.autograd.grad(activation, h)
        with torch.no_grad():
            g = g * std  # the rule moves the normalised code: d/dc = std * d/dh
            c = (h - mean) / std + (start + (end - start) * i / steps) * g / g.abs().mean()
            h = c * std + mean
            if positive:
                h = torch.minimum(h.clamp(min=0), 3 * std)
                h = 0.99 * h
            else:
                h = mean + (h - mean).clamp(-3 * std, 3 * std) * 0.99
    return image.detach(), seen


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("change", [{}, {"decay": 0.9}, {"lr": 4.0}, {"sigmas": 2.0}, {"fit": "resize"}, {"lr_end": 8.0}])
def test_nguyen2016_is_the_papers(positive: bool, change: dict[str, float], cnn: SmallCNN) -> None:
    """Equal with the paper's settings; different with any of them changed."""
    generator = small_generator(positive=positive)
    network = Network(cnn, 12)
    prior = GeneratorPrior(generator)
    settings = replace(NGUYEN2016, steps=8, precision="fp32", **change)
    result = synthesize(network, [2], prior, ascent=settings, seed=3)
    start = generator.denormalise(prior.start(1, [3]))
    image, seen = reference(generator, network.module, 2, start, 8)
    same = torch.allclose(result.images, image, atol=1e-5) and torch.allclose(
        result.history[:, 0], torch.tensor(seen), atol=1e-4, rtol=1e-4
    )
    assert same == (not change)


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


def test_refinement_stays_near_its_layout(network: Network) -> None:
    generator = small_generator()
    basis = torch.linalg.qr(torch.randn(64, 10)).Q
    parts = Components(torch.zeros(64), torch.linspace(2, 1, 10), basis, (4, 4, 4))
    prior = ComponentsPrior(generator, parts, 32, refine_radius=0.5)
    result = synthesize(network, ["ant", "bee"], prior, steps=5, refine_steps=6, **FP32)
    assert result.images.shape == (2, 3, 32, 32) and result.codes.shape == (2, 4, 8, 8)
    assert result.history.shape == (11, 2)
    torch.testing.assert_close(GeneratorPrior(generator, 32).decode(result.codes), result.images)
    code = prior.project(5 * prior.start(3))
    assert bool((code.norm(dim=1) <= prior.radius * 10**0.5 + 1e-4).all())
    fine, centre = prior.refine(code)
    moved = fine.project(centre + 10)
    assert bool(((moved - centre).abs() <= 0.5 + 1e-6).logical_or(moved.abs() <= 3).all())
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
