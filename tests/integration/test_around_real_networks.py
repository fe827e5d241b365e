"""What stands around synthesis, on EfficientNet-Lite0 and photographs that come with scikit-image."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

import dgn
from dgn.ablation import ablate
from dgn.examples import find_examples
from dgn.facets import find_facets, late_features, mean_codes
from dgn.images import read_image
from dgn.network import Network
from dgn.priors.fourier import FourierPrior
from dgn.receptive import ReceptiveFields
from dgn.units import parse_units

skimage = pytest.importorskip("skimage")
PHOTOS = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="module")
def network() -> Network:
    return dgn.load_network("efficientnet_lite0")


def test_every_kind_of_objective_is_climbed(network: Network) -> None:
    """One batch of all kinds, in a hand-designed prior, at a small size."""
    vector = torch.randn(112, generator=torch.Generator().manual_seed(0))
    units = [
        "zebra", "blocks.2:5", "blocks.4:17@center", "blocks.4:17@2,3", "blocks.1:*", "log(zebra)", "p(zebra)",
        "0.5*candle + 0.5*convertible", "zebra - 0.5*goldfish", dgn.direction(network, "blocks.4", vector, cosine=2),
    ]  # fmt: skip
    result = dgn.synthesize(network, units, prior=FourierPrior(64), steps=16, input_size=96, noise=0.0)
    assert (result.history[-3:].mean(0) > result.history[:2].mean(0)).all()


@pytest.mark.parametrize("rule", ["ppgn", "nguyen2016"])
def test_rules_in_the_shipped_generator(network: Network, rule: str) -> None:
    prior = dgn.load_prior("dgn", size=64)
    result = dgn.synthesize(network, ["volcano", "zebra"], prior=prior, ascent=rule, steps=15, lr=0.5)
    assert (result.history[-3:].mean(0) > result.history[:2].mean(0)).all()


def test_operators_and_octaves_in_the_shipped_generator(network: Network) -> None:
    prior = dgn.load_prior("dgn", size=64, space="code")
    settings = {"steps": 6, "input_size": 96, "transforms": ["rotate"], "penalties": [{"code_l2": 1.0}]}
    result = dgn.synthesize(
        network, "volcano", prior=prior, octaves=2, between=[{"blur": {"every": 2}}], **settings, noise=0.0
    )
    assert result.images.shape[2:] == (64, 64) and result.history[-1] > result.history[0]


def test_examples_of_photographs(network: Network) -> None:
    """The espresso is the best espresso, the cat the best cat; a unit's field is smaller than the picture."""
    units = parse_units(["espresso", "tabby", "blocks.2:5"], network)
    found, _, broken = find_examples(network, units, PHOTOS, k=3)
    assert found[0].top[0].name == "coffee.png" and found[1].top[0].name == "chelsea.png"
    for example in found[2].top:
        assert example.box is not None
        assert example.box[2] - example.box[0] <= 67 and example.box[3] - example.box[1] <= 67
    assert all(name.endswith((".tif", ".gif")) for name in broken)


def test_receptive_field_is_the_gradients_support(network: Network) -> None:
    images = torch.rand(4, 3, 224, 224, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.features(images, ["blocks.1"])["blocks.1"][:, :, 28, 20].sum(), images)
    rows, columns = ((gradient.abs().sum((0, 1)) > 0).any(axis).nonzero()[:, 0] for axis in (1, 0))
    expected = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    assert ReceptiveFields(network).box("blocks.1", (28, 20)) == expected


def test_ablation_equals_captum_and_is_not_slower(network: Network) -> None:
    """On the network itself, three photographs."""
    attr = pytest.importorskip("captum.attr")
    seconds = {"mine": 0.0, "captum": 0.0}
    for name in ("chelsea.png", "coffee.png"):
        image = read_image(PHOTOS / name, 224)
        target = int(network(image[None]).argmax())
        started = time.perf_counter()
        mine = ablate(network, image, target, size=64, stride=32)
        seconds["mine"] += time.perf_counter() - started
        started = time.perf_counter()
        theirs = attr.Occlusion(network.module).attribute(
            network.prepare(image[None]), sliding_window_shapes=(3, 64, 64), strides=(3, 32, 32), target=target
        )
        seconds["captum"] += time.perf_counter() - started
        assert torch.allclose(mine.heat, theirs[0, 0].float(), atol=1e-4)
    print(json.dumps(seconds))  # how much faster: benchmarks, not tests


def test_facets_start_near_their_images(network: Network) -> None:
    """The mean code of a facet decodes to something that the network finds more like its own images."""
    (found,), data, _ = find_examples(network, parse_units("blocks.4:17", network), PHOTOS, k=16)
    images = data.tensors([example.index for example in found.top])
    facets = find_facets(late_features(network, images), 2, members=4)
    prior = dgn.load_prior("dgn", size=64)
    starts = prior.decode(mean_codes(prior, images, facets))
    seen = network.features(starts, ["blocks.6"])["blocks.6"].mean((2, 3))
    real = network.features(images, ["blocks.6"])["blocks.6"].mean((2, 3))
    means = torch.stack([real[rows].mean(0) for rows in facets.nearest])
    likeness = torch.nn.functional.cosine_similarity(seen[:, None], means[None], dim=2)
    assert torch.equal(likeness.argmax(1), torch.arange(2))
