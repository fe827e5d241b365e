"""Transformations, penalties, operators: what they do, that they are seeded, and that gradients pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small_generator

import dgn
from dgn.ascent.loop import operate
from dgn.ascent.operators import OPERATORS, centre_mask, denoise_tv
from dgn.ascent.penalties import PENALTIES, penalise
from dgn.ascent.presets import preset
from dgn.ascent.settings import AscentSettings
from dgn.ascent.transforms import DISTILL2017, TRANSFORMS, Draws, gaussian, transform, warp
from dgn.errors import DgnError
from dgn.priors.deep import GeneratorPrior
from dgn.priors.pixel import PixelPrior


def pictures(count: int = 3, size: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return gaussian(torch.rand(count, 3, size, size, generator=generator), torch.full((count,), 2.0))


@pytest.mark.parametrize("name", list(TRANSFORMS.functions))
def test_every_transformation(name: str) -> None:
    """It changes the image, differs between seeds, is the same for a seed in any batch, and lets gradients through."""
    parts = TRANSFORMS.parse([name])
    images = pictures().requires_grad_()
    out = transform(images, Draws([5, 6, 5]), parts)
    alone = transform(images[1:2], Draws([6]), parts)
    same = transform(images[:1].expand(3, -1, -1, -1), Draws([5, 6, 5]), parts)
    assert torch.allclose(out[1:2], alone, atol=1e-5)
    assert torch.equal(same[0], same[2])
    if name not in ("pad", "trim"):  # a border is no chance
        assert not torch.allclose(same[0], same[1])
        assert out.shape == images.shape
    assert out.shape != images.shape or not torch.allclose(out, images)
    (gradient,) = torch.autograd.grad(out.square().sum(), images)
    assert gradient.isfinite().all() and (gradient.flatten(1).abs().sum(1) > 0).all()


def test_they_do_what_they_say() -> None:
    images = pictures()
    far = Draws([0, 1, 2])
    assert (transform(images, far, TRANSFORMS.parse([{"brightness": 0.3}])) - images).flatten(1).std(1).max() < 1e-6
    contrast = transform(images, far, TRANSFORMS.parse([{"contrast": 0.5}]))
    assert torch.allclose(contrast.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-6)
    padded = transform(images, far, TRANSFORMS.parse([{"pad": {"by": 0.25, "value": 0.1}}]))
    assert padded.shape[2:] == (36, 36) and torch.all(padded[:, :, 0] == torch.tensor(0.1))
    turned = transform(images, far, TRANSFORMS.parse([{"rotate": 0}]))
    assert torch.allclose(turned, images, atol=1e-5)
    noisy = transform(images, far, TRANSFORMS.parse([{"noise": 0.2}]))
    assert abs(float((noisy - images).std()) - 0.2) < 0.02


@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
def test_moves_by_hand(shape: tuple[int, int]) -> None:
    """Whole pixels and quarter turns, where nothing is interpolated; what lies beyond the edge is the reflection."""
    images = torch.rand(1, 3, *shape)
    one = torch.ones(1)
    moved = warp(images, one, torch.tensor([[2 * 3 / shape[1], -2 * 5 / shape[0]]]))  # half sides
    padded = torch.from_numpy(np.pad(images.numpy(), [(0, 0), (0, 0), (5, 0), (0, 3)], mode="symmetric"))
    assert torch.allclose(moved, padded[..., : shape[0], 3:], atol=1e-5)
    near = warp(images, one / 2, torch.zeros(1, 2))
    twice = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    rows, columns = (slice(side // 2, side // 2 + side) for side in shape)
    assert torch.allclose(near, twice[..., rows, columns], atol=1e-5)
    turned = warp(images, one, torch.zeros(1, 2), torch.tensor([torch.pi / 2]))
    side = min(shape)
    rows, columns = (slice((full - side) // 2, (full + side) // 2) for full in shape)
    assert torch.allclose(turned[..., rows, columns], images[..., rows, columns].rot90(1, (2, 3)), atol=1e-4)


def test_blur_is_a_gaussian() -> None:
    """Against torchvision's, each sample its own width."""
    from torchvision.transforms.functional import gaussian_blur

    images = pictures(2)
    mine = gaussian(images, torch.tensor([0.8, 2.0]))
    for row, sigma, kernel in ((0, 0.8, 13), (1, 2.0, 13)):
        theirs = gaussian_blur(images[row], [kernel, kernel], [sigma, sigma])
        assert torch.allclose(mine[row], theirs, atol=2e-3)


def test_penalties_by_hand() -> None:
    flat = torch.full((1, 3, 8, 8), 0.75)
    code = torch.full((1, 4), 3.0)
    cost = {name: float(penalise(flat, code, PENALTIES.parse([{name: 2.0}]))) for name in PENALTIES.functions}
    assert cost["lp"] == pytest.approx(2 * 0.25)
    assert cost["code_l2"] == pytest.approx(18.0)
    assert cost["total_variation"] < 1e-2
    sixth = penalise(flat, code, PENALTIES.parse([{"lp": {"weight": 1.0, "p": 6}}]))
    assert float(sixth) == pytest.approx(0.5**6)
    step = flat.clone()
    step[..., 4:] = 0.25
    assert float(penalise(step, code, PENALTIES.parse(["total_variation"]))) == pytest.approx(10 * 0.5 / 7, rel=0.05)


@pytest.mark.needs("skimage")
def test_tv_denoising_is_the_known_minimiser() -> None:
    """Against scikit-image's split Bregman on the same problem, by the value of what both minimise."""
    from skimage.restoration import denoise_tv_bregman

    generator = torch.Generator().manual_seed(1)
    clean = torch.zeros(1, 1, 32, 32)
    clean[..., 8:24, 8:24] = 0.8
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)

    def energy(u: torch.Tensor, weight: float) -> float:
        u, x = u * 255, noisy * 255
        dx, dy = u[..., :-1, 1:] - u[..., :-1, :-1], u[..., 1:, :-1] - u[..., :-1, :-1]
        return float((dx.square() + dy.square()).sqrt().sum() + weight / 2 * (u - x).square().sum())

    for weight in (0.02, 0.1):
        mine = denoise_tv(noisy, weight, iterations=300, eps=1e-4)
        theirs = torch.from_numpy(
            denoise_tv_bregman(noisy[0, 0].double().numpy() * 255, weight=weight, eps=1e-6, max_num_iter=1000)
        )[None, None].float() / 255  # fmt: skip
        # scikit-image's shrinkage is only nearly isotropic: the true minimiser lies a little below what it finds.
        assert energy(mine, weight) <= energy(theirs, weight) < energy(noisy, weight)
        assert float((mine - theirs).abs().mean()) < 0.03
        assert energy(denoise_tv(noisy, weight), weight) < 1.002 * energy(mine, weight)
    inside = (..., slice(10, 22), slice(10, 22))
    assert float(denoise_tv(noisy, 0.05)[inside].std()) < 0.2 * float(noisy[inside].std())


def test_a_sample_does_not_depend_on_its_batch() -> None:
    """Wide blurs and slow denoising included."""
    images = torch.cat([torch.rand(1, 3, 24, 24), pictures(2)])
    parts = TRANSFORMS.parse([{"blur": 4}])
    assert torch.allclose(transform(images, Draws([1, 2, 3]), parts)[1:2], transform(images[1:2], Draws([2]), parts))
    assert torch.allclose(denoise_tv(images, 0.3, eps=0.3)[2:], denoise_tv(images[2:], 0.3, eps=0.3))
    with pytest.raises(DgnError, match="above 0"):
        denoise_tv(images, 0.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"phases": 3}, "wrong type"),
        ({"phases": [{"grow": "big"}]}, "wrong type"),
        ({"phases": [{"steps": 2.5}]}, "expected a whole number"),
        ({"views": 1.5}, "expected a whole number"),
    ],
)
def test_settings_of_the_wrong_type(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(DgnError, match=expected):
        preset("distill2017").with_changes(changes)


def test_operators_on_pixels_and_on_a_generator() -> None:
    """On pixels the code becomes the smoothed image; on a generator it moves by what the operator changed."""
    prior = PixelPrior(24)
    code = torch.rand(2, 3, 24, 24)
    smooth = operate(prior, code, OPERATORS.parse([{"blur": {"sigma": 2, "sigma_end": 2, "every": 1}}]), 0.5, 0)
    assert torch.allclose(smooth, gaussian(code, torch.full((2,), 2.0)), atol=1e-5)
    assert operate(prior, code, OPERATORS.parse([{"blur": {"every": 4}}]), 0.5, 0) is code
    grey = operate(prior, code, OPERATORS.parse([{"clip_small": 0.5}]), 0.5, 0)
    share = ((grey - 0.5).abs() < 1e-6).all(1).float().mean()
    assert 0.45 < float(share) < 0.55
    deep = GeneratorPrior(small_generator(), 16)
    with pytest.raises(DgnError, match="can't encode"):
        operate(deep, deep.start(2), OPERATORS.parse(["clip_small"]), 0.0, 0)


def test_centre_mask_keeps_the_edge_grey(network: dgn.Network) -> None:
    result = dgn.synthesize(
        network, "ant", prior=PixelPrior(16, noise=0.0), steps=8, centre_mask=0.1, rule="nguyen2016"
    )
    moved = (result.images[0] - 0.5).abs().sum(0)
    assert float(moved[6:10, 6:10].mean()) > 5 * float(moved[0].mean())
    mask = centre_mask((9, 9), 0.2)
    assert float(mask.max()) == float(mask[0, 0, 4, 4]) == 1.0


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["shft"], "did you mean 'shift'"),
        ([{"shift": {"byy": 1}}], "did you mean 'by'"),
        ([{"shift": "far"}], "needs a number"),
        ([3], "not 3"),
        (3, "not 3"),
    ],
)
def test_bad_parts_are_named(entries: object, expected: str) -> None:
    with pytest.raises(DgnError, match=expected):
        TRANSFORMS.parse(entries)


@pytest.mark.parametrize(
    ("kind", "entry", "expected"),
    [
        ("between", {"blur": {"every": float("inf")}}, "needs a number for 'every', not inf"),
        ("between", {"blur": {"sigma": float("inf")}}, "needs a number for 'sigma'"),
        ("between", {"blur": {"every": 0}}, "takes 1 to 1e[+]09 for 'every', not 0"),
        ("between", {"tv_denoise": 0}, "takes 1e-06 to 1e[+]06 for 'weight', not 0"),
        ("penalties", {"lp": {"p": float("inf")}}, "needs a number for 'p', not inf"),
        ("penalties", {"lp": {"p": 1e9}}, "takes 0.1 to 100 for 'p'"),
        ("transforms", {"scale": 1}, "takes 0 to 0.99 for 'by', not 1"),
        ("transforms", {"crop": {"smallest": 0}}, "takes 0.01 to 1 for 'smallest'"),
        ("transforms", {"noise": -1}, "takes 0 to 10 for 'std'"),
    ],
)
def test_ranges_are_checked_at_once(kind: str, entry: object, expected: str) -> None:
    """Before anything climbs."""
    with pytest.raises(DgnError, match=expected):
        AscentSettings().with_changes({kind: [entry]})


def test_defaults_are_in_range() -> None:
    for catalogue in (TRANSFORMS, PENALTIES, OPERATORS):
        for name in catalogue.functions:
            (part,) = catalogue.parse([{name: catalogue.keywords(name)}])
            assert part == catalogue.parse([name])[0]


def test_parts_survive_a_manifest() -> None:
    from dataclasses import asdict

    assert TRANSFORMS.parse([asdict(part) for part in DISTILL2017]) == DISTILL2017
    assert str(OPERATORS.parse([{"tv_denoise": 0.2}])[0]) == "tv_denoise(weight=0.2, weight_end=-1, every=1)"


@pytest.mark.parametrize("size", [16, 35, 64, 100, 160, 224])
def test_the_distill_chain_takes_its_padding_off_again(size: int) -> None:
    """The network sees the image at its own scale, and grey only where a corner was turned or moved in."""
    images = torch.ones(2, 3, size, size)
    out = transform(images, Draws([0, 1]), DISTILL2017)
    assert out.shape == images.shape
    assert torch.allclose(out[..., size // 4 : -size // 4, size // 4 : -size // 4], torch.ones(()))
    still = transform(pictures(1, size), Draws([0]), TRANSFORMS.parse([{"pad": 16 / 224}, {"trim": 16 / 256}]))
    assert torch.equal(still, pictures(1, size))


def test_presets_climb(network: dgn.Network) -> None:
    """Every preset runs on pixels; its phases and chains are the published ones."""
    chain = [(part.name, part.values[0][1]) for part in preset("distill2017").transforms]
    assert [(name, round(by * {"pad": 224, "shift": 256, "trim": 256}.get(name, 1), 6)) for name, by in chain] == [
        ("pad", 16), ("shift", 16), ("scale", 0.05), ("rotate", 5), ("shift", 8), ("trim", 16)
    ]  # fmt: skip
    stages = preset("multifaceted").stages()
    assert [(grow, stage.steps) for grow, stage in stages] == [(1.0, 190), (1.2, 150), (1.0, 20), (1.0, 10)]
    assert preset("multifaceted").total_steps == 370
    result = dgn.synthesize(network, "ant", prior=PixelPrior(16), ascent="distill2017", steps=20)
    assert result.history[-3:].mean() > result.history[0].mean()
    with pytest.raises(DgnError, match="did you mean 'ppgn'"):
        preset("pgn")


def test_octaves_grow_the_canvas(network: dgn.Network) -> None:
    sizes: list[int] = []
    result = dgn.synthesize(
        network, "ant", prior=PixelPrior(16), steps=4, octaves=3, on_step=lambda _i, _n, _a, x: sizes.append(x.shape[2])
    )
    assert sizes == [8] * 4 + [11] * 4 + [16] * 4
    assert result.history.shape[0] == 12 and result.images.shape[2:] == (16, 16)
