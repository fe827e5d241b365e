"""Feature accentuation: an ascent from an image that keeps to a layer's features of it."""

import pytest
import torch
from torch import nn

import dgn
from dgn.ascent.accent import accent_layer, held, moved
from dgn.priors.pixel import PixelPrior


@pytest.fixture(scope="module")
def network() -> dgn.Network:
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.Tanh(), nn.Conv2d(8, 8, 3, 2, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    return dgn.Network(body, 16)


def image() -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


SETTINGS = {"rule": "adam", "steps": 60, "lr": 0.004, "jitter": 0.1, "noise": 0.02, "precision": "fp32"}


def accented(network: dgn.Network, accent: float, **more: object) -> dgn.Synthesis:
    settings = {**SETTINGS, "accent": accent, "accent_layer": "2", **more}
    return dgn.synthesize(network, "output:1", prior=PixelPrior(16), start=image(), **settings)  # type: ignore[arg-type]


def left(network: dgn.Network, result: dgn.Synthesis) -> float:
    layers = [network.features(x, ["2"])["2"] for x in (result.images, image())]
    return float(moved(*layers))


def test_smaller_accents_stay_nearer_to_the_start(network: dgn.Network) -> None:
    results = [accented(network, accent, jitter=0.0, noise=0.0) for accent in (0.1, 0.3, 0.0)]
    shares = [left(network, result) for result in results]
    assert shares[0] < shares[1] < shares[2]
    begin = float(network(image())[0, 1])
    assert begin < min(float(result.activations) for result in results[:2]) < float(results[2].activations)
    assert shares[0] < 0.15  # both pulls are equally strong at a tenth


def test_start_and_image_are_transformed_alike(network: dgn.Network) -> None:
    """At the start nothing has moved, whatever the draws: the first step is that of a free ascent."""
    for views in (1, 2):
        free, bound = (accented(network, accent, steps=3, views=views).history for accent in (0.0, 0.2))
        assert torch.equal(free[:2], bound[:2]) and not torch.equal(free[2], bound[2])


def test_both_pulls_are_equal_at_the_accent() -> None:
    away = torch.tensor([[2.0, 0.0]])
    gradient = torch.tensor([[0.5, 0.0]])
    assert torch.allclose(held(gradient, away, torch.tensor([0.3]), 0.3), torch.zeros(1, 2))
    assert torch.allclose(held(gradient, away, torch.tensor([0.15]), 0.3), gradient / 2)
    assert torch.equal(held(gradient, torch.zeros(1, 2), torch.tensor([0.0]), 0.3), gradient)


def test_layer_is_found_and_said_and_the_network_asked_once_for_all(network: dgn.Network) -> None:
    shown: list[int] = []
    body = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.Tanh()) for _ in range(6)), nn.Flatten())
    body.register_forward_hook(lambda _module, inputs, _output: shown.append(len(inputs[0])))
    deep = dgn.Network(body, 16)
    assert accent_layer(deep, ["6"]) == "3.0" and deep.layers["3.0"] == (3, 16, 16)
    assert len(shown) <= 3  # two for the survey, one for the axes of what has no type
    result = accented(network, 0.2, accent_layer=None)
    assert result.settings.accent_layer == "2"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"start": None}, "give start=FILE"),
        ({"octaves": 2}, "leave octaves and phases out"),
        ({"rule": "cmaes"}, "knows no accent"),
        ({"accent_layer": "nowhere"}, "no layer 'nowhere'"),
        ({"accent_layer": None}, "name one in ascent.accent_layer"),
        ({"accent": -1.0}, "accent is -1.0"),
    ],
)
def test_refusals(network: dgn.Network, more: dict[str, object], says: str) -> None:
    settings = {"start": image(), **SETTINGS, "accent": 0.3, "accent_layer": "2", **more}
    unit = "0:1" if settings["accent_layer"] is None else "output:1"
    with pytest.raises(dgn.DgnError, match=says):
        dgn.synthesize(network, unit, prior=PixelPrior(16), **settings)  # type: ignore[arg-type]
