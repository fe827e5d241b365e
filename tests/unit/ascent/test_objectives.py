"""One property for every objective, rule, start and parameterisation: on a small network it is climbed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SmallCNN, WideCNN, small_generator
from torch import Tensor

import dgn
from dgn.ascent.transforms import Draws
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.priors.base import Prior
from dgn.priors.deep import GeneratorPrior
from dgn.priors.fourier import FourierPrior, MacoPrior
from dgn.priors.pixel import PixelPrior
from dgn.units.read import Reader
from dgn.units.units import parse_units

Look = Callable[[Tensor, Tensor], Tensor]
"""A number an image, of logits and of the map ``late``."""

OBJECTIVES: dict[str, tuple[str, Look]] = {
    "class": ("ant", lambda logits, late: logits[:, 0]),
    "hidden unit": ("late:3", lambda logits, late: late[:, 3].mean((1, 2))),
    "position": ("late:3@1,2", lambda logits, late: late[:, 3, 1, 2]),
    "centre": ("late:3@center", lambda logits, late: late[:, 3, 2, 2]),
    "whole layer": ("late:*", lambda logits, late: late.square().mean((1, 2, 3))),
    "log-probability": ("log(ant)", lambda logits, late: logits.log_softmax(1)[:, 0]),
    "probability": ("p(bee)", lambda logits, late: logits.softmax(1)[:, 2]),
    "sum": ("0.5*ant + 0.5*bee", lambda logits, late: (logits[:, 0] + logits[:, 2]) / 2),
    "difference": ("ant - 0.5*bee", lambda logits, late: logits[:, 0] - logits[:, 2] / 2),
    "silence": ("-1*late:3", lambda logits, late: -late[:, 3].mean((1, 2))),
}
PRIORS = {"pixel": PixelPrior, "fourier": FourierPrior, "maco": MacoPrior}


def by_hand(network: Network, images: Tensor, look: Look) -> Tensor:
    """What an objective is of images, from the module's own parts."""
    module = network.module
    with torch.no_grad():
        late = module.late(module.block(module.stem(2 * images - 1)))
        return look(module.head(torch.tanh(late).mean((2, 3))), late)


def random_images() -> Tensor:
    """Noise, chequered and plain images, 500 of each."""
    draws = torch.Generator().manual_seed(0)
    sides = [torch.rand(500, 3, side, side, generator=draws) for side in (16, 4, 1)]
    return torch.cat([images.repeat_interleave(16 // images.shape[2], 2).repeat_interleave(16 // images.shape[3], 3)
                      for images in sides])  # fmt: skip


def check_climbed(network: Network, result: dgn.Synthesis, look: Look) -> None:
    """The number is that of the image, and by more than chance's spread above the best of 1,500 random images."""
    torch.testing.assert_close(result.activations, by_hand(network, result.images, look), rtol=1e-4, atol=1e-5)
    chance = by_hand(network, random_images(), look)
    assert bool((result.activations > chance.max() + chance.std()).all()), (result.activations, chance.max())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_is_climbed(network: Network, name: str) -> None:
    spec, look = OBJECTIVES[name]
    check_climbed(network, dgn.synthesize(network, spec, prior=PixelPrior(16), steps=25, lr=0.02), look)


@pytest.mark.parametrize("cosine", [0.0, 2.0])
def test_direction_is_climbed(network: Network, cosine: float) -> None:
    vector = torch.randn(12, generator=torch.Generator().manual_seed(3))
    unit = dgn.direction(network, "late", vector, cosine=cosine)

    def look(_: Tensor, late: Tensor) -> Tensor:
        mean = late.mean((2, 3))
        return mean @ vector * torch.cosine_similarity(mean, vector[None]).clamp(min=0.1) ** cosine

    check_climbed(network, dgn.synthesize(network, unit, prior=PixelPrior(16), steps=25, lr=0.02), look)
    features = torch.randn(1, 12, 2, 2)
    torch.testing.assert_close(Reader(network, [unit])({"late": features}), look(features, features))
    with pytest.raises(DgnError, match="has 12 numbers"):
        dgn.direction(network, "late", [1.0])


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("rule", ["adam", "nguyen2016", "cmaes"])
def test_rule_climbs_with_every_parameterisation(network: Network, name: str, rule: str) -> None:
    """By two thirds, at least, of what each has been seen to rise by, from where the seed begins."""
    rate = {"adam": 0.05, "nguyen2016": 0.02, "cmaes": 0.1}[rule]
    if name == "maco" and rule != "nguyen2016":  # phases are in radians; steps by the mean slope overshoot sooner
        rate *= 10
    prior = PRIORS[name](16)
    result = dgn.synthesize(
        network, ["ant", "late:3"], prior=prior, rule=rule, steps=40, lr=rate, lr_end=rate / 10, population=12,
        jitter=0.0, scale=0.0, noise=0.0, transforms=[], views=1, input_size=None, precision="fp32",
    )  # fmt: skip
    assert result.images.min() >= 0 and result.images.max() <= 1
    looks = [OBJECTIVES[objective][1] for objective in ("class", "hidden unit")]
    ends = torch.cat([by_hand(network, result.images[i : i + 1], look) for i, look in enumerate(looks)])
    torch.testing.assert_close(result.activations, ends, rtol=1e-4, atol=1e-5)
    start = prior.decode(prior.start(1, [0])).detach()
    rise = ends - torch.cat([by_hand(network, start, look) for look in looks])
    least = {"pixel": (0.15, 0.3), "fourier": (0.06, 0.13), "maco": (0.008, 0.013)}[name]
    assert bool((rise > torch.tensor(least)).all()), rise


def test_black_box_needs_no_gradient(cnn: SmallCNN) -> None:
    class Opaque(torch.nn.Module):
        def __init__(self, inner: SmallCNN) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(self.inner(x).detach().numpy().copy())

    opaque = Network(Opaque(cnn), 16)
    settings = {"steps": 15, "population": 12, "lr": 0.1, "precision": "fp32"}
    result = dgn.synthesize(opaque, 0, prior=PixelPrior(8), rule="cmaes", **settings)
    assert result.history[-3:].mean() > result.history[0].mean()
    again = dgn.synthesize(opaque, 0, prior=PixelPrior(8), rule="cmaes", **settings)
    assert torch.equal(result.codes, again.codes)
    with pytest.raises(DgnError, match="no gradient"):
        dgn.synthesize(opaque, 0, prior=PixelPrior(8), steps=3)
    both = dgn.synthesize(opaque, [0, 1], prior=PixelPrior(8), rule="cmaes", **settings)
    assert torch.equal(both.codes[0], result.codes[0])  # each sample has draws of its own
    for wrong, message in (({"population": 3}, "needs 4 or more"), ({"decay": 0.9}, "knows no decay"),
                           ({"keep": "best"}, "knows no keep")):  # fmt: skip
        with pytest.raises(DgnError, match=message):
            dgn.synthesize(opaque, 0, prior=PixelPrior(8), rule="cmaes", **{**settings, **wrong})


def test_black_box_looks_in_pieces(cnn: SmallCNN) -> None:
    """Candidates are seen few at a time, transformed alike whatever the piece: the search is the same."""
    settings = {"steps": 4, "population": 6, "lr": 0.1, "precision": "fp32", "views": 2}
    seen: list[int] = []

    def watch(images: Tensor, draws: Draws) -> Tensor:
        seen.append(len(images))
        return images

    found = []
    for module, together in ((cnn, 2 * 6), (WideCNN(4 * 2, cnn), 4)):
        seen.clear()
        network = Network(module, 16)
        options = {"prior": PixelPrior(8), "rule": "cmaes", "seed": 5, "transforms": ["shift", watch]}
        found.append(dgn.synthesize(network, [0, 2], **options, **settings))
        assert max(seen) == together * 2
    assert torch.allclose(found[0].codes, found[1].codes, atol=1e-5)


@pytest.mark.parametrize("prior", [FourierPrior(16), PixelPrior(16)])
def test_encode_finds_the_image_again(prior: Prior) -> None:
    images = 0.1 + 0.8 * torch.rand(2, 3, 16, 16)
    assert torch.allclose(prior.decode(prior.encode(images)), images, atol=1e-3)


def test_maco_keeps_the_natural_spectrum() -> None:
    prior = MacoPrior(32)
    code = prior.start(4)
    natural = prior.weights()
    white = torch.einsum("ij,njhw->nihw", natural["colours"].inverse(), prior.decode(code) - natural["mean"])
    seen = torch.fft.rfft2(white, norm="ortho").abs()[:, :, 1:8, 1:8].mean(0)
    expected = natural["magnitude"][:, 1:8, 1:8]
    assert float((seen / expected).log().abs().mean()) < 0.3  # clipping to [0, 1] takes a little
    moved = prior.encode(prior.decode(code))
    assert float(torch.cos(moved - code)[:, :, 1:8, 1:8].mean()) > 0.9


def test_diversity_drives_seeds_apart(network: Network) -> None:
    settings = {"steps": 40, "seeds": [0, 1, 2], "lr": 0.05, "precision": "fp32"}

    def likeness(result: dgn.Synthesis) -> float:
        maps = network.features(result.images, ["late"])["late"].flatten(2)
        flat = torch.nn.functional.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        return float((flat @ flat.T)[~torch.eye(3, dtype=torch.bool)].mean())

    plain = dgn.synthesize(network, "ant", prior=PixelPrior(16), **settings)
    apart = dgn.synthesize(network, "ant", prior=PixelPrior(16), diversity=5.0, diversity_layer="late", **settings)
    assert likeness(apart) < likeness(plain)
    own = dgn.synthesize(network, "ant", prior=PixelPrior(16), diversity=5.0, **settings)
    assert torch.equal(own.codes, apart.codes)  # logits are no measure: the last layer with a map
    with pytest.raises(DgnError, match="between seeds of a unit"):
        dgn.synthesize(network, "ant", prior=PixelPrior(16), diversity=1.0)


def test_diversity_keeps_a_unit_together(network: Network) -> None:
    """Whatever the batch; views of one image are no other seeds."""
    settings = {"steps": 6, "seeds": [0, 1, 2], "diversity": 2.0, "diversity_layer": "late", "precision": "fp32"}
    whole = dgn.synthesize(network, ["ant", "bee"], prior=PixelPrior(16), batch=32, **settings)
    cut = dgn.synthesize(network, ["ant", "bee"], prior=PixelPrior(16), batch=5, **settings)
    assert torch.allclose(whole.images, cut.images, atol=1e-4)
    with pytest.raises(DgnError, match="2 to 2 seeds, not 3"):
        dgn.synthesize(network, "ant", prior=PixelPrior(16), batch=2, **settings)
    with pytest.raises(DgnError, match="not 1"):
        dgn.synthesize(network, "ant", prior=PixelPrior(16), views=2, diversity=1.0)


def test_penalties_see_the_image_as_it_is_written(network: Network) -> None:
    """Noise and crops of the views cost nothing."""
    from dgn.ascent.penalties import PENALTIES, penalise

    seen: list[torch.Tensor] = []
    original = PENALTIES.functions["lp"]
    PENALTIES.functions["lp"] = lambda images, code, weight=1.0, p=2.0: (seen.append(images), original(images, code))[1]
    try:
        dgn.synthesize(
            network, "ant", prior=PixelPrior(16, noise=0.0), steps=1, views=3, noise=0.3, penalties=["lp"],
            precision="fp32",
        )  # fmt: skip
    finally:
        PENALTIES.functions["lp"] = original
    assert seen[0].shape[0] == 3 and torch.all(seen[0] == 0.5)
    assert float(penalise(seen[0][:1].detach(), seen[0][:1].detach(), PENALTIES.parse(["lp"]))) < 1e-6


def test_penalty_changes_what_is_found(network: Network) -> None:
    def contrast(**more: object) -> float:
        result = dgn.synthesize(network, "ant", prior=PixelPrior(16), steps=40, **more)
        return float((2 * result.images - 1).square().mean())

    assert contrast(penalties=[{"lp": 20.0}]) < 0.5 * contrast()


class Halver(GeneratorPrior):
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 4, 4, 4)

    def reencode(self, code: torch.Tensor) -> torch.Tensor:
        return self.encode(self.decode(code))

    def raw(self) -> GeneratorPrior:
        return self


def test_ppgn_direction(network: Network, cnn: SmallCNN) -> None:
    """One step by hand: the gradient of the log-probability, the pull of the encoder, the normalised move."""
    prior = Halver(small_generator(), 16, encoder=network, raw=True)
    result = dgn.synthesize(
        network, "ant", prior=prior, ascent="ppgn", epsilon1=0.5, epsilon3=0.0, steps=2, lr=0.3, fit="resize",
        precision="fp32",
    )  # fmt: skip
    h = prior.start(1, [0]).requires_grad_()
    logits = network(prior.decode(h))
    log_p = logits.log_softmax(1)[0, 0]
    (g,) = torch.autograd.grad(log_p, h)
    d = 0.5 * (1 - h.detach()) + g
    expected = prior.project(h.detach() + 0.3 * d / d.abs().mean())
    assert torch.allclose(result.codes, expected, atol=1e-5)
    assert float(result.history[0]) == pytest.approx(float(logits[0, 0].detach()), abs=1e-5)
    assert torch.allclose(result.activations, network(result.images)[:, 0], atol=1e-5)  # of the unit that was named
    named = dgn.synthesize(network, "log(ant)", prior=prior, ascent="ppgn", steps=1, fit="resize", precision="fp32")
    assert torch.allclose(named.activations, network(named.images).log_softmax(1)[:, 0], atol=1e-5)


def test_start_images_for_codes_of_any_shape(network: Network) -> None:
    """Images one for each row, for a prior whose codes are no images."""
    images = torch.rand(2, 3, 16, 16)
    result = dgn.synthesize(network, ["ant", "bee"], prior=FourierPrior(16), start=images, steps=1)
    assert torch.allclose(result.images, images, atol=2e-3)
    one = dgn.synthesize(network, ["ant", "bee"], prior=FourierPrior(16), start=result.codes[0], steps=1)
    assert torch.allclose(one.images, images[:1].expand(2, -1, -1, -1), atol=2e-3)


def test_direction_from_a_file(network: Network, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    vector = torch.randn(12)
    save_file({"v": vector}, tmp_path / "v.safetensors")
    (unit,) = parse_units(f"2*late:{tmp_path}/v.safetensors^2", network)
    features = {"late": torch.randn(1, 12, 2, 2)}
    expected = 2 * Reader(network, [dgn.direction(network, "late", vector, cosine=2)])(features)
    assert torch.allclose(Reader(network, [unit])(features), expected)
    with pytest.raises(DgnError, match="has 5 numbers"):
        parse_units(f"output:{tmp_path}/v.safetensors", network)
    with pytest.raises(DgnError, match="means nothing"):
        parse_units("log(late:*)", network)


def test_units_before_the_code_layer_are_said(network: Network) -> None:
    generator = small_generator()
    generator.config = replace(generator.config, network="small", layer="block")
    prior = GeneratorPrior(generator, 16)
    result = dgn.synthesize(network, ["stem:1", "ant"], prior=prior, steps=1, fit="resize")
    assert len(result.warnings) == 1 and result.warnings[0].startswith("stem:1: before block")


def test_abilities_are_checked_first(network: Network) -> None:
    for settings in ({"reencode": 0.5}, {"epsilon1": 0.1}):
        with pytest.raises(DgnError, match="no encoder, which ascent"):
            dgn.synthesize(network, "ant", prior=PixelPrior(16), **settings)
    with pytest.raises(DgnError, match=r"ascent\.between"):
        dgn.synthesize(network, "ant", prior=GeneratorPrior(small_generator(), 16), between=["clip_small"])


def test_start_from_an_image_and_frames(network: Network) -> None:
    image = torch.rand(3, 20, 20)
    result = dgn.synthesize(network, ["ant", "bee"], prior=PixelPrior(16), start=image, steps=10, frames=4)
    first = torch.nn.functional.interpolate(image[None], size=(16, 16), mode="bilinear", antialias=True)
    assert torch.allclose(result.frames[0], first.expand(2, -1, -1, -1), atol=1e-5)
    assert result.frame_steps == [0, 3, 6, 9]
    assert torch.allclose(result.frames[-1], result.images, atol=1e-6)
    codes = torch.stack([result.codes[1], result.codes[0]])
    again = dgn.synthesize(network, ["ant", "bee"], prior=PixelPrior(16), start=codes, steps=1)
    assert torch.allclose(again.images, codes)
    with pytest.raises(DgnError, match="3 start codes for 2 samples"):
        dgn.synthesize(network, ["ant", "bee"], prior=PixelPrior(16), start=torch.rand(3, 3, 16, 16))
    with pytest.raises(DgnError, match="neither images"):
        dgn.synthesize(network, "ant", prior=PixelPrior(16), start=torch.rand(7))


def test_frames_are_read_as_results_are(network: Network) -> None:
    """At the network's own size, without noise: comparable between priors, which the loop's history is not."""
    result = dgn.synthesize(
        network, ["ant", "bee"], prior=PixelPrior(16), steps=6, frames=3, input_size=12, noise=0.5, precision="fp32"
    )
    read = Reader(network, parse_units(["ant", "bee"], network))
    seen = torch.stack([read(network.features(frame, ["output"])) for frame in result.frames])
    assert torch.allclose(result.frame_activations, seen, atol=1e-5)
    assert torch.equal(result.frame_activations[-1], result.activations)
    assert not torch.allclose(result.history[result.frame_steps], seen, atol=1e-2)


def test_frames_belong_to_the_winner(network: Network) -> None:
    """With races, the frames are of the ascent that follows them, and their places are rows of the history."""
    result = dgn.synthesize(
        network, ["ant", "bee"], prior=PixelPrior(16, noise=0.3), steps=6, starts=3, race_steps=4, frames=3,
        precision="fp32",
    )  # fmt: skip
    assert result.history.shape[0] == 10 and result.frame_steps[0] == 4 and result.frame_steps[-1] == 9
    read = Reader(network, parse_units(["ant", "bee"], network))
    for frame, step in zip(result.frames, result.frame_steps, strict=True):
        assert torch.allclose(read(network.features(frame, ["output"])), result.history[step], atol=1e-4)


def test_forms_by_hand(network: Network) -> None:
    images = torch.rand(2, 3, 16, 16)
    logits = network(images)
    for spec, expected in {
        "log(ant)": logits.log_softmax(1)[:, 0],
        "p(ant)": logits.softmax(1)[:, 0],
        "2*log(ant) - p(bee)": 2 * logits.log_softmax(1)[:, 0] - logits.softmax(1)[:, 2],
    }.items():
        unit = parse_units(spec, network)[0]
        assert torch.allclose(Reader(network, [unit] * 2)({"output": logits}), expected, atol=1e-6)
        assert unit.class_index == (0 if "-" not in spec and "2" not in spec else None)


def test_dead_units_get_advice(cnn: SmallCNN) -> None:
    dead = copy.deepcopy(cnn)
    dead.late.weight.data[3] = 0
    dead.late.bias.data[3] = 0
    result = dgn.synthesize(Network(dead, 16), "late:3", prior=PixelPrior(16), steps=5)
    (line,) = result.warnings
    assert "froze at step 0" in line and "dgn examples" in line
    # What a penalty or an encoder moves doesn't freeze: the unit is as dead.
    job = {"prior": PixelPrior(16), "penalties": ["lp"]}
    moved = dgn.synthesize(Network(dead, 16), ["late:3", 0], steps=5, precision="fp32", **job)
    (line,) = moved.warnings
    assert line.startswith("late:3 (seed 0, pixel) never fired in 5 steps; it may be dead")
    # In bf16 a few steps may be too little to be seen, but for what stays at 0.
    stuck = copy.deepcopy(dead)
    stuck.late.bias.data[3] = 1
    for module, steps, lines in ((dead, 5, 1), (stuck, 5, 0), (stuck, 25, 1)):
        warnings = dgn.synthesize(Network(module, 16), "late:3", steps=steps, precision="bf16", **job).warnings
        assert len(warnings) == lines
    prior = Halver(small_generator(), 16, encoder=Network(dead, 16), raw=True)
    pulled = dgn.synthesize(
        Network(dead, 16), "late:3", prior=prior, ascent="ppgn", epsilon1=0.5, steps=5, precision="fp32"
    )
    assert "never fired in 5 steps" in pulled.warnings[0]
