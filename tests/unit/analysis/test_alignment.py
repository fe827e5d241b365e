"""VITAL: an ascent that aligns feature distributions with those of real images."""

import numpy as np
import pytest
import torch
from torch import nn

import dgn
from dgn.analysis.alignment import Alignment, align
from dgn.priors.pixel import PixelPrior
from dgn.units.unit import Computed


@pytest.fixture(scope="module")
def network() -> dgn.Network:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.Tanh(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip
    return dgn.Network(body, 16)


@pytest.fixture(scope="module")
def references() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def aim(unit: dgn.Unit) -> tuple[Alignment, tuple[str, ...]]:
    assert unit.aim is not None
    (term,) = unit.aim.terms
    assert isinstance(term, Computed)
    return term.function.function, term.reads  # type: ignore[return-value]


def test_distance_is_that_of_sorted_values(network: dgn.Network, references: torch.Tensor) -> None:
    """Written out in NumPy, with the gradient through a network of one's own."""
    unit = align(network, "output:2", references, layers=["0", "2"])
    alignment, reads = aim(unit)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    ours = alignment(*(network.features(image, [layer])[layer] for layer in reads))
    total = np.zeros(2)
    for layer, rest in (("0", network.module[1:]), ("2", network.module[3:])):  # type: ignore[index]
        real = network.features(references, [layer])[layer].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(rest(real)[:, 2].sum(), real)
        relevance = (gradient * real).clamp(min=0).sum((0, 2, 3)).detach().numpy()
        weights = relevance / relevance.sum()
        target = np.sort(real.detach().numpy().reshape(3, len(weights), -1), axis=2).mean(0)
        values = np.sort(network.features(image, [layer])[layer].numpy().reshape(2, len(weights), -1), axis=2)
        apart = (((values - target) ** 2).mean(2) * weights).sum(1)
        total -= apart / ((target**2).mean(1) * weights).sum()
    assert np.allclose(ours.numpy(), total / 2, atol=1e-5)


def test_places_may_change_and_a_reference_itself_is_at_no_distance(
    network: dgn.Network, references: torch.Tensor
) -> None:
    alignment, reads = aim(align(network, "output:2", references[:1].repeat(2, 1, 1, 1)))
    assert reads == ("1", "3")  # the last of each size of map
    outputs = [network.features(references[:1], [layer])[layer] for layer in reads]
    assert float(alignment(*outputs)) == pytest.approx(0, abs=1e-6)
    assert torch.allclose(alignment(*(output.flip(2, 3) for output in outputs)), torch.zeros(1), atol=1e-6)
    larger = [network.at(32).features(references[:1], [layer])[layer] for layer in reads]
    assert -0.3 < float(alignment(*larger)) < 0  # the same quantiles of more places


def test_ascent_aligns_and_reports_the_unit(network: dgn.Network, references: torch.Tensor) -> None:
    unit = align(network, "output:2", references)
    alignment, reads = aim(unit)
    result = dgn.synthesize(network, unit, prior=PixelPrior(16), steps=60, lr=0.03, rule="adam", precision="fp32")

    def apart(images: torch.Tensor) -> float:
        return -float(alignment(*(network.features(images, [layer])[layer] for layer in reads)))

    start = torch.full((1, 3, 16, 16), 0.5)
    assert apart(result.images) < 0.2 * apart(start)
    assert torch.allclose(result.activations, network(result.images)[:, 2], atol=1e-5)


def test_layers_of_a_transformer_lie_before_the_unit() -> None:
    """Six spread over the depth, however the patches are written; none behind an attention's head."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = dgn.Network(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3), 32)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    _, reads = aim(align(network, "blocks.1:3", images))
    assert len(reads) == 6 and reads[-1] == "blocks.1" and any(layer.startswith("blocks.0") for layer in reads)
    _, reads = aim(align(network, "blocks.1.attn.head1:3", images))
    assert not set(reads) & {"blocks.1.attn", "blocks.1.attn.proj", "blocks.1"}
    with pytest.raises(dgn.DgnError, match="does not depend on layer 'blocks"):
        align(network, "blocks.0:3", images, layers=["blocks.0", "blocks.1"])


@pytest.mark.parametrize(
    ("count", "layers", "says"), [(1, (), "give 2 or more"), (3, ("output",), "single place"), (3, ("x",), "no layer")]
)
def test_refusals(
    network: dgn.Network, references: torch.Tensor, count: int, layers: tuple[str, ...], says: str
) -> None:
    with pytest.raises(dgn.DgnError, match=says):
        align(network, "output:2", references[:count], layers=layers)


def test_a_layer_named_twice_counts_once(network: dgn.Network, references: torch.Tensor) -> None:
    once, twice = (aim(align(network, "output:2", references, layers=layers)) for layers in (["2"], ["2", "2"]))
    assert once[1] == twice[1]
    for mine, theirs in zip(once[0].targets, twice[0].targets, strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(dgn.DgnError, match="expected a list of names"):
        align(network, "output:2", references, layers="2")
