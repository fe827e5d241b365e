"""What stands around synthesis, on EfficientNet-Lite0 and photographs that come with scikit-image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import rest_slow
from PIL import Image

import dgn
from dgn.analysis.ablation import ablate, filling
from dgn.analysis.examples import find_examples
from dgn.analysis.facets import cluster, late_features, mean_codes
from dgn.analysis.receptive import ReceptiveFields
from dgn.images.reading import read_image
from dgn.network.network import Network
from dgn.priors.fourier import FourierPrior
from dgn.units.units import parse_units


@pytest.fixture(scope="module")
def photos() -> Path:
    """A folder of photographs."""
    import skimage

    return Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="module")
def network() -> Network:
    return dgn.load_network("efficientnet_lite0")


@pytest.mark.slow
def test_every_kind_of_objective_is_climbed(network: Network) -> None:
    """One batch of all kinds, in a hand-designed prior, at a small size."""
    vector = torch.randn(112, generator=torch.Generator().manual_seed(0))
    units = [
        "zebra", "blocks.2:5", "blocks.4:17@center", "blocks.4:17@2,3", "blocks.1:*", "log(zebra)", "p(volcano)",
        "0.5*candle + 0.5*convertible", "zebra - 0.5*goldfish", dgn.direction(network, "blocks.4", vector, cosine=2),
        dgn.direction(network, "blocks.4", vector),
    ]  # fmt: skip
    result = dgn.synthesize(
        network, units, prior=FourierPrior(64), steps=16, input_size=96, noise=0.0, precision="fp32"
    )
    least = torch.tensor([18, 5, 20, 25, 25, 3, 0.4, 8, 12, 60, 100])  # about half of what each rises by
    rise = result.history[-3:].mean(0) - result.history[:2].mean(0)
    assert bool((rise > least).all()), rise


@pytest.mark.slow
def test_diversity_is_climbed(network: Network) -> None:
    """Beside the unit's activation, in the last layer with a map: the seeds become less alike than without it."""
    settings = {"steps": 10, "input_size": 64, "noise": 0.0, "seeds": [0, 1, 2], "precision": "fp32"}

    def likeness(images: torch.Tensor) -> float:
        maps = network.features(images, ["bn2"])["bn2"].flatten(2)
        flat = torch.nn.functional.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        return float((flat @ flat.T)[~torch.eye(3, dtype=torch.bool)].mean())

    plain = dgn.synthesize(network, "zebra", prior=FourierPrior(64), **settings)
    apart = dgn.synthesize(network, "zebra", prior=FourierPrior(64), diversity=20.0, **settings)
    rise = apart.history[-3:].mean(0) - apart.history[:2].mean(0)
    assert bool((rise > 5).all()), rise
    assert likeness(apart.images) < likeness(plain.images) - 0.05


@pytest.mark.slow
def test_a_black_box_search_climbs_the_real_network(network: Network) -> None:
    result = dgn.synthesize(
        network, "volcano", prior=FourierPrior(32), rule="cmaes", steps=12, population=8, lr=0.3, input_size=64
    )
    assert float(result.history[-3:].mean()) > float(result.history[:3].mean()) + 1


@pytest.mark.needs("skimage")
def test_planted_facets_of_a_real_unit(network: Network, photos: Path, tmp_path: Path) -> None:
    """A unit that wants coffee and cats, among crops of both and of other things: each facet holds one kind."""
    rng = np.random.default_rng(0)
    for name in ("coffee", "chelsea", "brick", "rocket"):
        with Image.open(next(photos.glob(f"{name}.*"))) as photo:
            for index in range(10):
                side = int(min(photo.size) * rng.uniform(0.75, 0.95))
                left, top = (int(rng.integers(0, full - side + 1)) for full in photo.size)
                photo.convert("RGB").crop((left, top, left + side, top + side)).save(tmp_path / f"{name}{index}.png")
    (unit,) = parse_units("0.5*espresso + 0.5*tabby", network)
    (found,), squares, _ = find_examples(network, [unit], tmp_path, k=20)
    kinds = torch.tensor([int(example.name.startswith("coffee")) for example in found.top])
    assert {example.name[:4] for example in found.top} == {"coff", "chel"}
    features = late_features(network, squares.tensors([example.index for example in found.top]))
    for count in (2, None):
        facets = cluster(features, count, members=5)
        purity = sum(int(kinds[facets.labels == f].bincount().max()) for f in range(facets.count)) / len(kinds)
        assert facets.count == 2 and purity >= 0.9, facets.scores


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["ppgn", "nguyen2016"])
def test_rules_in_the_shipped_generator(network: Network, rule: str) -> None:
    prior = dgn.load_prior("dgn", size=128)
    result = dgn.synthesize(network, ["volcano", "zebra"], prior=prior, ascent=rule, steps=10, lr=0.5)
    assert bool((result.history[-3:].mean(0) > result.history[:2].mean(0) + 4).all())
    torch.testing.assert_close(result.activations, network(result.images)[[0, 1], [980, 340]], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_operators_and_octaves_in_the_shipped_generator(network: Network) -> None:
    prior = dgn.load_prior("dgn", size=128, space="code")
    settings = {"steps": 6, "input_size": 96, "transforms": ["rotate"], "penalties": [{"code_l2": 1.0}]}
    result = dgn.synthesize(
        network, "volcano", prior=prior, octaves=2, between=[{"blur": {"every": 2}}], **settings, noise=0.0
    )
    assert result.images.shape[2:] == (128, 128) and float(result.history[-1] - result.history[0]) > 5


def variation(result: dgn.Synthesis) -> float:
    """Mean step from pixel to pixel."""
    return float(result.images.diff(dim=2).abs().mean() + result.images.diff(dim=3).abs().mean())


def contrast(result: dgn.Synthesis) -> float:
    return float((2 * result.images - 1).abs().pow(4).mean())


def edge(result: dgn.Synthesis) -> float:
    """How far the border has moved from the start, which is the same for all."""
    moved = (result.frames[-1] - result.frames[0]).abs()[0].mean(0)
    return float(moved[:16].mean() + moved[-16:].mean())


REGULARISERS = {
    "lp": ({"penalties": [{"lp": {"weight": 500, "p": 4}}]}, contrast),
    "total variation": ({"penalties": [{"total_variation": 100}]}, variation),
    "code L2": ({"penalties": [{"code_l2": 100}]}, lambda result: float(result.codes.square().mean())),
    "decay": ({"decay": 0.8}, lambda result: float(result.codes.square().mean())),
    "blur": ({"between": [{"blur": {"every": 1, "sigma": 2}}]}, variation),
    "TV denoising": ({"between": [{"tv_denoise": 0.02}]}, variation),
}


@pytest.fixture(scope="module")
def unregularised(network: Network) -> dgn.Synthesis:
    return regularised(network, {})


def regularised(network: Network, settings: dict[str, object]) -> dgn.Synthesis:
    prior = dgn.load_prior("dgn", size=128, space="code")
    plain = {"steps": 6, "starts": 1, "refine_steps": 0, "reencode": 0.0, "input_size": 64, "noise": 0.0, "jitter": 0.0}
    return dgn.synthesize(network, "volcano", prior=prior, frames=2, scale=0.0, precision="fp32", **plain, **settings)


@pytest.mark.parametrize("name", rest_slow(REGULARISERS))
def test_regularisers_act_on_the_shipped_generator(name: str, network: Network, unregularised: dgn.Synthesis) -> None:
    """Made for pixels, each lowers the same quantity of a generator's images (or codes)."""
    settings, measure = REGULARISERS[name]
    assert measure(regularised(network, settings)) < 0.97 * measure(unregularised)


def border(result: dgn.Synthesis) -> float:
    """How far the border has moved, as a multiple of the centre; mean over the samples."""
    moved = (result.frames[-1] - result.frames[0]).abs().mean(1)
    return float(
        (torch.cat([moved[:, :16], moved[:, -16:]], 1).mean((1, 2)) / moved[:, 48:80, 48:80].mean((1, 2))).mean()
    )


@pytest.mark.slow
def test_centre_mask_on_the_shipped_generator(network: Network) -> None:
    """With a rule that keeps the sizes of gradients, as Adam does not."""
    free, masked = (
        regularised(network, {"rule": "nguyen2016", "lr": 0.3, "centre_mask": width, "seeds": 4})
        for width in (0.0, 0.1)
    )  # fmt: skip
    assert border(masked) < 0.6 * border(free)


@pytest.mark.needs("skimage")
def test_examples_of_photographs(network: Network, photos: Path) -> None:
    """The espresso is the best espresso, the cat the best cat; a unit's field is smaller than the picture."""
    units = parse_units(["espresso", "tabby", "blocks.2:5"], network)
    found, _, broken = find_examples(network, units, photos, k=3)
    assert found[0].top[0].name == "coffee.png" and found[1].top[0].name == "chelsea.png"
    for example in found[2].top:
        assert example.box is not None
        assert example.box[2] - example.box[0] <= 67 and example.box[3] - example.box[1] <= 67
    unread = {path.name for path in photos.iterdir()} - {example.name for one in found for example in one.top}
    assert set(broken) <= unread and all(name.endswith((".tif", ".gif")) for name in broken)


@pytest.mark.slow
def test_receptive_field_is_the_gradients_support(network: Network) -> None:
    images = torch.rand(4, 3, 224, 224, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.features(images, ["blocks.1"])["blocks.1"][:, :, 28, 20].sum(), images)
    rows, columns = ((gradient.abs().sum((0, 1)) > 0).any(axis).nonzero()[:, 0] for axis in (1, 0))
    expected = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    assert ReceptiveFields(network).box("blocks.1", (28, 20)) == expected


@pytest.mark.needs("captum", "skimage")
@pytest.mark.parametrize(
    ("name", "fill"),
    [("chelsea.png", "grey"), ("coffee.png", "mean"), ("rocket.jpg", "blur"), ("chelsea.png", "noise")],
)
def test_ablation_equals_captum(name: str, fill: str, network: Network, photos: Path) -> None:
    """Every fill on the network itself."""
    from captum import attr

    image = read_image(photos / name, 224)
    target = int(network(image[None]).argmax())
    mine = ablate(network, image, target, size=32, stride=32, fill=fill, seed=3)
    theirs = attr.Occlusion(network.module).attribute(
        network.prepare(image[None]), sliding_window_shapes=(3, 32, 32), strides=(3, 32, 32), target=target,
        baselines=network.prepare(filling(image, fill, 3)[None]), perturbations_per_eval=4,
    )  # fmt: skip
    assert torch.allclose(mine.heat, theirs[0, 0].float(), atol=1e-4)
    assert float(mine.heat.abs().max()) > 0.1


@pytest.mark.needs("skimage")
def test_facets_start_near_their_images(network: Network, photos: Path) -> None:
    """The mean code of a facet decodes to something that the network finds more like its own images."""
    (found,), data, _ = find_examples(network, parse_units("blocks.4:17", network), photos, k=16)
    images = data.tensors([example.index for example in found.top])
    facets = cluster(late_features(network, images), 2, members=4)
    prior = dgn.load_prior("dgn", size=128)
    starts = prior.decode(mean_codes(prior, images, facets))
    seen = network.features(starts, ["blocks.6"])["blocks.6"].mean((2, 3))
    real = network.features(images, ["blocks.6"])["blocks.6"].mean((2, 3))
    means = torch.stack([real[rows].mean(0) for rows in facets.nearest])
    likeness = torch.nn.functional.cosine_similarity(seen[:, None], means[None], dim=2)
    assert torch.equal(likeness.argmax(1), torch.arange(2))
