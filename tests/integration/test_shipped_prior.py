"""The real network and the shipped generator."""

from __future__ import annotations

import pytest
import torch

import dgn
from dgn.evaluation.judges import Judge, load_judge
from dgn.resources import DEFAULT, resource, shipped_priors

CLASSES = ["goldfish", "zebra", "school bus", "strawberry", "pizza", "daisy", "hummingbird", "volcano"]


@pytest.fixture(scope="module")
def network() -> dgn.Network:
    return dgn.load_network("efficientnet_lite0")


def test_network_names_what_it_should(network: dgn.Network) -> None:
    assert network.class_names[1] == "goldfish" and len(network.class_names) == 1000
    assert network.layers["blocks.4"] == (112, 14, 14) and network.layers["output"] == (1000,)


def test_shipped_files_fit_the_limit_and_have_a_card() -> None:
    assert set(shipped_priors()) == {DEFAULT}
    for name in shipped_priors():
        folder = resource("pretrained") / name
        assert (folder / "card.md").is_file() and (folder / "samples.webp").is_file()
        assert all(path.stat().st_size <= 16 * 2**20 for path in folder.iterdir())


def log_probability(judge: Judge, made: dgn.Synthesis) -> float:
    """That a judge gives the classes that the images were made for, on average; a blind one says -6.9."""
    rows = torch.arange(len(made.units))
    return float(judge.see(made.images).logits.log_softmax(1)[rows, [unit.class_index for unit in made.units]].mean())


@pytest.mark.slow
def test_generator_images_transfer_and_pixels_do_not(network: dgn.Network) -> None:
    """A network that took no part names what was climbed in a generator, and is blind to raw pixels, although they
    excite the network under study more."""
    judge, itself = load_judge("efficientnet_lite2"), Judge(network, "conv_head")
    settings = {"rule": "adam", "starts": 1, "steps": 50, "refine_steps": 20, "input_size": 128, "precision": "fp32"}
    made = dgn.synthesize(network, CLASSES[:4], "dgn", screen=128, **settings)
    raw = dgn.synthesize(network, CLASSES[:4], "pixel", steps=60)
    classes = [int(unit.class_index or 0) for unit in made.units]
    assert made.images.shape == (4, 3, 128, 128) and raw.images.shape == (4, 3, 128, 128)
    assert float(made.images.min()) >= 0 and float(made.images.max()) <= 1
    ours, theirs = (float((judge.see(each.images).ranks(classes) <= 5).double().mean()) for each in (made, raw))
    assert ours >= 0.5 > 0.25 >= theirs
    assert log_probability(judge, made) > -5 > -6.5 > log_probability(judge, raw)
    assert float((itself.see(made.images).ranks(classes) == 1).double().mean()) >= 0.75
    own = [network(each.images)[torch.arange(4), classes] for each in (made, raw)]
    assert bool((own[1] > own[0]).all())
    torch.testing.assert_close(made.activations, own[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_hidden_units_climb(network: dgn.Network) -> None:
    """By half, at least, of what each has been seen to rise by."""
    units = {"blocks.1.1:3": 1.0, "blocks.2.1:10@center": 2.5, "blocks.4.2:17": 1.5, "blocks.5.3:40@3,3": 3.5}
    settings = {
        "rule": "adam",
        "starts": 1,
        "steps": 12,
        "screen": 32,
        "refine_steps": 0,
        "jitter": 0.0,
        "input_size": 128,
    }
    result = dgn.synthesize(network, list(units), dgn.load_prior("dgn", size=128), **settings)
    assert result.warnings == [result.notes[0]] and result.notes[0].startswith("blocks.1.1:3, blocks.2.1:10@center: ")
    rise = result.history[-3:].mean(0) - result.history[:2].mean(0)
    assert bool((rise > torch.tensor(list(units.values()))).all()), rise


@pytest.mark.slow
def test_activation_is_that_of_the_returned_image(network: dgn.Network) -> None:
    result = dgn.synthesize(network, ["zebra"], "dgn", steps=3, screen=32)
    with torch.no_grad():
        again = network(result.images)[0, 340]
    torch.testing.assert_close(result.activations[0], again, rtol=1e-5, atol=1e-5)
    assert result.history.shape == (3, 1)


def test_reconstruction_beats_the_mean_image(network: dgn.Network) -> None:
    """The generator inverts its layer: decoding a real code is far nearer to the image than the mean colour is."""
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    from dgn.priors.checkpoint import load_generator
    from dgn.priors.generator import encode, reduced

    generator, meta = load_generator(resource("pretrained") / DEFAULT / "generator.safetensors")
    with Image.open(resource("pretrained") / DEFAULT / "samples.webp") as sheet:
        pixels = to_tensor(sheet.convert("RGB"))
    config = generator.config
    side = config.image_size
    tiles = torch.stack([pixels[:, 2 : side + 2, 2 + (side + 2) * i : (side + 2) * (i + 1)] for i in range(8)])
    seen = network.at(config.encoder_size)
    with torch.no_grad():
        code = encode(seen.features(reduced(tiles, config), [config.layer])[config.layer], config.code)
        made = generator(generator.normalise(code)).clamp(0, 1)
    error = (made - tiles).square().mean()
    flat = (tiles - tiles.mean((2, 3), keepdim=True)).square().mean()
    assert float(error) < 0.4 * float(flat)
    assert meta["settings"]["layer"] == config.layer


@pytest.mark.slow
def test_samples_are_named_by_a_network_that_took_no_part(network: dgn.Network) -> None:
    """And at a high temperature they are images of anything."""
    judge = load_judge("efficientnet_lite2")
    shares = []
    for temperature in (0.01, 3.0):
        made = dgn.synthesize(network, CLASSES[:4], "dgn", temperature=temperature, screen=128, steps=12)
        classes = [int(unit.class_index or 0) for unit in made.units]
        assert made.images.shape == (4, 3, 128, 128) and made.codes.shape[1:] == (112, 8, 8)
        shares.append(float((judge.see(made.images).ranks(classes) <= 5).double().mean()))
    assert shares[0] >= 0.6 and shares[0] > shares[1] + 0.2, shares
