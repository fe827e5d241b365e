"""``LAYER:INDEX@max``: the highest place of a map, or of the tokens' grid."""

import pytest
import torch
from torch import nn

import dgn
from dgn.units.read import BatchReader, Reader


@pytest.fixture
def network() -> dgn.Network:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return dgn.Network(body, 16)


def test_a_map(network: dgn.Network) -> None:
    images = torch.rand(3, 3, 16, 16)
    for view in (network, network.at(24)):
        read = view.features(images, ["0"])
        units = dgn.parse_units(["0:2@max"] * 3, view)
        assert torch.equal(Reader(view, units)(read), read["0"][:, 2].amax((1, 2)))
    maps = network.features(images, ["0"])["0"]
    values, peaks = BatchReader(network, dgn.parse_units(["0:2@max", "-0:2@max"], network))(images)
    assert torch.equal(values[:, 0], maps[:, 2].amax((1, 2)))
    assert torch.equal(peaks[:, 0], maps[:, 2].flatten(1).argmax(1))


def test_only_the_highest_place_is_climbed(network: dgn.Network) -> None:
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    value = Reader(network, dgn.parse_units("0:2@max", network))(network.features(images, ["0"]))
    (gradient,) = torch.autograd.grad(value.sum(), images)
    touched = gradient[0].abs().sum(0).nonzero()
    assert ((touched.amax(0) - touched.amin(0)) <= 2).all()  # the field of one place, 3 x 3


def test_tokens_without_the_class_token() -> None:
    torch.manual_seed(0)
    timm = pytest.importorskip("timm")
    network = dgn.Network(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1), 32)
    images = torch.rand(2, 3, 32, 32)
    tokens = network.features(images, ["blocks.0"])["blocks.0"]
    values, peaks = BatchReader(network, dgn.parse_units(["blocks.0:7@max"], network))(images)
    assert torch.equal(values[:, 0], tokens[:, 1:, 7].amax(1))
    assert torch.equal(peaks[:, 0], tokens[:, 1:, 7].argmax(1))


def test_a_direction(network: dgn.Network) -> None:
    images, vector = torch.rand(2, 3, 16, 16), torch.tensor([1.0, -2.0, 0.5, 0.0])
    maps = network.features(images, ["0"])["0"]
    units = [dgn.direction(network, "0", vector, position="max")] * 2
    expected = (maps * vector[:, None, None]).sum(1).amax((1, 2))
    assert torch.allclose(Reader(network, units)({"0": maps}), expected)
    (sharp, _) = units = [dgn.direction(network, "0", vector, position="max", cosine=2)] * 2
    assert sharp.name == "0:direction"
    dots = (maps * vector[:, None, None]).sum(1)
    cosines = (dots / (maps.norm(dim=1) * vector.norm())).clamp(min=0.1)
    assert torch.allclose(Reader(network, units)({"0": maps}), (dots * cosines**2).amax((1, 2)))


def test_a_layer_without_places(network: dgn.Network) -> None:
    with pytest.raises(dgn.DgnError, match="no positions: leave out @max"):
        dgn.parse_units("output:1@max", network)
    with pytest.raises(dgn.DgnError, match="LAYER:INDEX@max"):
        dgn.parse_units("0:1@most", network)
