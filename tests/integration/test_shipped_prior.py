"""The real network and the shipped generator."""

from __future__ import annotations

import pytest
import torch

import dgn
from dgn.evaluation.judges import Judge, load_judge
from dgn.priors import DEFAULT, shipped_priors
from dgn.resources import resource

CLASSES = ["goldfish", "zebra", "school bus", "strawberry", "pizza", "daisy", "hummingbird", "volcano"]


@pytest.fixture(scope="module")
def network() -> dgn.Network:
    return dgn.load_network("efficientnet_lite0")


def test_network_names_what_it_should(network: dgn.Network) -> None:
    assert network.class_names[1] == "goldfish" and len(network.class_names) == 1000
    assert network.layers["blocks.4"] == (112, 14, 14) and network.layers["output"] == (1000,)


def test_shipped_files_fit_the_limit_and_have_a_card() -> None:
    assert DEFAULT in shipped_priors()
    for name in shipped_priors():
        folder = resource("pretrained") / name
        assert (folder / "card.md").is_file() and (folder / "samples.png").is_file()
        assert all(path.stat().st_size <= 16 * 2**20 for path in folder.iterdir())


def test_generator_images_transfer_and_pixels_do_not(network: dgn.Network) -> None:
    """A short ascent already gives images that a network that took no part names; raw pixels don't, although they
    excite the network under study more."""
    judge, itself = load_judge("efficientnet_lite2"), Judge(network, "conv_head")
    made = dgn.synthesize(network, CLASSES, "dgn", starts=1, steps=60, refine_steps=20, input_size=128)
    raw = dgn.synthesize(network, CLASSES, "pixel", steps=30)
    classes = [int(unit.class_index or 0) for unit in made.units]
    assert made.images.shape == (8, 3, 128, 128) and raw.images.shape == (8, 3, 128, 128)
    assert float(made.images.min()) >= 0 and float(made.images.max()) <= 1
    ours, theirs = (float((judge.see(each.images).ranks(classes) <= 5).double().mean()) for each in (made, raw))
    assert ours >= 0.5 > 0.25 >= theirs
    assert float((itself.see(made.images).ranks(classes) == 1).double().mean()) >= 0.75


def test_hidden_units_climb(network: dgn.Network) -> None:
    units = ["blocks.1.1:3", "blocks.2.1:10@center", "blocks.4.2:17", "blocks.5.3:40@3,3", "conv_head:500"]
    result = dgn.synthesize(network, units, "dgn", starts=1, steps=40, refine_steps=0, jitter=0.0)
    assert result.warnings == [result.notes[0]] and result.notes[0].startswith("blocks.1.1:3, blocks.2.1:10@center: ")
    assert bool((result.history[-5:].mean(0) > result.history[:2].mean(0)).all())


def test_activation_is_that_of_the_returned_image(network: dgn.Network) -> None:
    result = dgn.synthesize(network, ["zebra"], "dgn", starts=1, steps=3, refine_steps=2)
    with torch.no_grad():
        again = network(result.images)[0, 340]
    torch.testing.assert_close(result.activations[0], again, rtol=1e-5, atol=1e-5)
    assert result.history.shape == (5, 1)


def test_reconstruction_beats_the_mean_image(network: dgn.Network) -> None:
    """The generator inverts its layer: decoding a real code is far nearer to the image than the mean colour is."""
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    from dgn.priors.checkpoint import load_generator
    from dgn.priors.generator import encode

    generator, meta = load_generator(resource("pretrained") / DEFAULT / "generator.safetensors")
    with Image.open(resource("pretrained") / DEFAULT / "samples.png") as sheet:
        pixels = to_tensor(sheet.convert("RGB"))
    tiles = torch.stack([pixels[:, 2:66, 2 + 66 * i : 66 + 66 * i] for i in range(8)])
    config = generator.config
    seen = network.at(config.encoder_size)
    with torch.no_grad():
        code = encode(seen.features(tiles, [config.layer])[config.layer], config.code)
        made = generator(generator.normalise(code)).clamp(0, 1)
    error = (made - tiles).square().mean()
    flat = (tiles - tiles.mean((2, 3), keepdim=True)).square().mean()
    assert float(error) < 0.4 * float(flat)
    assert meta["settings"]["layer"] == config.layer
