"""Layers that are computed from a layer of the module."""

import pytest
import torch
from torch import Tensor, nn

import dgn
from dgn.network.derived import Derived


def latents(maps: Tensor) -> Tensor:
    """Two features: what is above 0.1 in the first channel, and the negative of the second."""
    return torch.stack([(maps[:, 0] - 0.1).relu(), -maps[:, 1]], 1)


@pytest.fixture
def network() -> dgn.Network:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return dgn.Network(body, 16)


def test_a_derived_layer_is_a_layer_as_any_other(network: dgn.Network) -> None:
    plain = list(network.layers)
    more = network.derive("latents", Derived("0", latents, 2))
    assert list(network.layers) == plain and list(more.layers) == ["0", "latents", *plain[1:]]
    assert more.layers["latents"] == (2, 8, 8) and more.layout("latents").kind == "map"
    images = torch.rand(3, 3, 16, 16)
    read = more.features(images, ["latents", "0", "output"])
    assert torch.equal(read["latents"], latents(read["0"]))
    assert torch.equal(read["output"], network(images))
    units = dgn.select_units(["latents:all", "latents:1@2,3"], more)
    assert [unit.name for unit in units] == ["latents:0", "latents:1", "latents:1@2,3"]


def test_climbing_a_derived_feature_climbs_it(network: dgn.Network) -> None:
    more = network.derive("latents", Derived("0", latents, 2))
    result = dgn.synthesize(more, "latents:1", prior="pixel", steps=20)
    own = latents(network.features(result.images, ["0"])["0"])[:, 1].mean((1, 2))
    assert torch.allclose(result.activations, own, atol=1e-5)
    assert result.history[-1, 0] > result.history[0, 0] + 1


def test_other_sizes_and_numbers(network: dgn.Network) -> None:
    more = network.derive("latents", Derived("0", latents, 2)).at(32)
    assert more.layers["latents"] == (2, 16, 16)
    half = dgn.Network(network.module.half(), 16).derive("latents", Derived("0", latents, 2))
    assert half.features(torch.rand(1, 3, 16, 16), ["latents"])["latents"].dtype == torch.float32


def test_tokens_keep_their_grid() -> None:
    torch.manual_seed(0)
    timm = pytest.importorskip("timm")
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    network = dgn.Network(vit, 32).derive("part", Derived("blocks.0", lambda maps: maps[:, :5], 5))
    assert network.layers["part"] == (5, 5) and network.layout("part").kind == "tokens, class + 2 x 2"
    read = network.features(torch.rand(2, 3, 32, 32), ["part", "blocks.0"])
    assert torch.equal(read["part"], read["blocks.0"][..., :5].transpose(1, 2))


@pytest.mark.parametrize(
    ("name", "layer", "says"),
    [
        ("output", "0", "is a layer of the network already"),
        ("a b", "0", "no layer can be called"),
        ("latents", "nowhere", "no layer 'nowhere'"),
    ],
)
def test_refusals(network: dgn.Network, name: str, layer: str, says: str) -> None:
    with pytest.raises(dgn.DgnError, match=says):
        network.derive(name, Derived(layer, latents, 2))
