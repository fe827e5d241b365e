"""How images of any shape meet networks of any shape: cropped, fitted or stretched, the same everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SmallCNN, small_generator
from PIL import Image
from torch import Tensor, nn

import dgn
from dgn.analysis.ablation import ablate
from dgn.analysis.examples import find_examples
from dgn.analysis.facets import Facets, mean_codes
from dgn.analysis.receptive import ReceptiveFields
from dgn.analysis.squares import Squares
from dgn.ascent.starts import given_start
from dgn.ascent.transforms import Draws, rotate
from dgn.drawing.matrix import Cell, grid
from dgn.errors import DgnError
from dgn.evaluation.real import load_real
from dgn.evaluation.reference import activations_of_all
from dgn.images.fit import Sight, canvas_size, central, parse_size, resized, to_channels
from dgn.images.reading import read_image
from dgn.network.network import Network
from dgn.priors.deep import GeneratorPrior
from dgn.priors.fourier import FourierPrior, MacoPrior
from dgn.priors.pixel import PixelPrior


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@pytest.fixture
def wide() -> Network:
    torch.manual_seed(0)
    return Network(SmallCNN(), (16, 32), name="wide")


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((30, 30), (8, 8), (0, 0, 30, 30)),
        ((30, 41), (8, 8), (0, 6, 30, 30)),  # 5.5 is rounded up, as ever
        ((41, 30), (8, 8), (6, 0, 30, 30)),
        ((30, 30), (8, 16), (8, 0, 15, 30)),
        ((10, 100), (16, 32), (0, 40, 10, 20)),
        ((1, 5), (4, 4), (0, 2, 1, 1)),
    ],
)
def test_the_central_part_has_the_right_proportions(
    shape: tuple[int, int], size: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert central(shape, size) == expected


def test_the_three_rules_by_hand() -> None:
    """Tensors and photographs alike: the middle; the whole with a border; the whole out of proportion."""
    image = torch.arange(32.0).view(1, 1, 4, 8) / 32
    assert torch.equal(resized(image, (4, 4), "crop"), image[..., 2:6])
    bordered = resized(image, (8, 8), "fit", [0.25])
    assert torch.equal(bordered[:, :, 2:6], image)
    assert bool((bordered[:, :, :2] == 0.25).all()) and bool((bordered[:, :, 6:] == 0.25).all())
    stretched = F.interpolate(image, size=(4, 4), mode="bilinear", antialias=True, align_corners=False)
    assert torch.equal(resized(image, (4, 4), "stretch"), stretched)
    photograph = picture(4, 8)
    whole = np.array(photograph)
    assert np.array_equal(Sight((4, 4)).pixels(photograph), whole[:, 2:6])
    shown = Sight((8, 8), "fit", fill=(1, 2, 3)).pixels(photograph)
    assert np.array_equal(shown[2:6], whole) and bool((shown[[0, 1, 6, 7]] == (1, 2, 3)).all())
    squeezed = photograph.resize((4, 4), Image.Resampling.BICUBIC, reducing_gap=2.0)
    assert np.array_equal(Sight((4, 4), "stretch").pixels(photograph), np.array(squeezed))


def test_square_images_for_square_networks_are_what_they_were() -> None:
    """Whatever the rule, to the bit: plain resizing, and the central square of a photograph."""
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    plain = F.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False, antialias=True)
    for fit in ("crop", "fit", "stretch"):
        network = Network(nn.Identity(), 16, (0.5,) * 3, (0.25,) * 3, fit=fit)
        assert torch.equal(network.prepare(images), (plain - 0.5) / 0.25)
    photograph = picture(31, 44)
    square = photograph.resize((16, 16), Image.Resampling.BICUBIC, box=(7, 0, 38, 31), reducing_gap=2.0)
    assert np.array_equal(Sight((16, 16)).pixels(photograph), np.array(square))


def test_every_verb_sees_the_image_alike(wide: Network, tmp_path: Path) -> None:
    """An image of the network's own size: the number of the bare network in examples, ablation and evaluation."""
    (tmp_path / "1").mkdir()
    photograph = picture(16, 32)
    photograph.save(tmp_path / "1" / "a.png")
    units = dgn.parse_units(["late:3", 1], wide)
    x = pixels(photograph)[None]
    truth = [float(wide.features(x, ["late"])["late"][0, 3].mean()), float(wide(x)[0, 1])]
    for data in (tmp_path, [photograph], [np.array(photograph)], [x[0]]):
        found, _, _ = find_examples(wide, units, data, k=1)
        assert [one.top[0].activation for one in found] == pytest.approx(truth, abs=1e-6)
    assert ablate(wide, x, 1, size=4, stride=4).activation == pytest.approx(truth[1], abs=1e-6)
    read = read_image(tmp_path / "1" / "a.png", wide.sight)
    assert torch.equal(read, x[0])
    real = load_real(tmp_path, ["zero", "one"], sight=wide.sight)
    assert real.images.shape == (1, 3, 224, 448) and torch.equal(real.as_seen, x)
    seen = activations_of_all(wide, real.as_seen, units)
    assert [float(seen[unit.name][0]) for unit in units] == pytest.approx(truth, abs=1e-6)
    start = given_start(PixelPrior((16, 32)), x[0], 1)
    assert torch.equal(start, x)


@pytest.mark.parametrize("fit", ["crop", "fit", "stretch"])
def test_tensors_and_photographs_of_other_proportions_agree(fit: str) -> None:
    """What a network sees of a photograph is, but for the filter, what it sees of its pixels."""
    network = Network(nn.Identity(), (16, 32), (0.4, 0.5, 0.6), (1.0,) * 3, fit=fit)
    small = picture(6, 5).resize((50, 60), Image.Resampling.BICUBIC)
    seen = network.sight.tensor(small)[None]
    mean = torch.tensor(network.mean)[:, None, None]
    assert float((network.prepare(pixels(small)[None]) + mean - seen).abs().max()) < 0.05
    if fit == "fit":  # 16 x 13 in the middle, the normalisation's mean around
        assert float((seen[..., :9] - mean).abs().max()) < 1 / 255


def test_a_canvas_has_the_networks_proportions(wide: Network) -> None:
    assert canvas_size(None, (24, 24)) == (128, 128) and canvas_size(None, (16, 32)) == (128, 256)
    assert canvas_size(63, (48, 32)) == (94, 63) and canvas_size([20, 30], (1, 1)) == (20, 30)
    for prior in ("pixel", "fourier", "maco"):
        result = dgn.synthesize(wide, [1], prior, steps=2)
        assert result.images.shape == (1, 3, 128, 256) and not result.notes
    square = dgn.synthesize(Network(SmallCNN(), 16), [1], "pixel", steps=2)
    assert square.images.shape == (1, 3, 128, 128)


def test_a_canvas_of_other_proportions_is_said_and_not_stretched(wide: Network) -> None:
    """Outside of the central part nothing moves; what is reported is what the network says of that part."""
    result = dgn.synthesize(wide, [1], PixelPrior(32, noise=0.0), steps=8)
    assert "makes images of 32 x 32 px" in result.notes[0] and "central part (network.fit=crop)" in result.notes[0]
    assert result.warnings == result.notes
    moved = (result.images[0] != 0.5).any(0)
    assert bool(moved[8:24].any()) and not bool(moved[:8].any() | moved[24:].any())
    assert float(result.activations[0]) == pytest.approx(float(wide(result.images[:, :, 8:24])[0, 1]), abs=1e-6)
    stretching = Network(SmallCNN(), (16, 32), fit="stretch")
    assert "stretched (network.fit=stretch)" in dgn.synthesize(stretching, [1], PixelPrior(16), steps=2).notes[0]
    generator = GeneratorPrior(small_generator())
    assert "16 x 16 px" in dgn.synthesize(wide, [1], generator, steps=2).notes[0]


def test_other_sizes_keep_the_proportions(wide: Network) -> None:
    assert wide.at(8).input_size == (8, 16) and wide.at(8).at(16) is not wide and wide.at(16) is wide
    assert wide.at(8).at(16).input_size == (16, 32) and wide.at((8, 8)).input_size == (8, 8)
    assert wide.takes(24) and wide.at(24).layers["stem"] == (8, 12, 24)
    result = dgn.synthesize(wide, [1], PixelPrior((32, 64)), steps=4, input_size=[8, 24], octaves=2)
    assert result.images.shape == (1, 3, 32, 64)
    raced = dgn.synthesize(
        wide, [1], PixelPrior((16, 32)), steps=2, starts=2, race_steps=2, race_by="probability"
    )  # fmt: skip
    assert raced.images.shape == (1, 3, 16, 32)


def test_priors_grow_in_proportion() -> None:
    assert PixelPrior((20, 30)).resized(10).size == (10, 15)
    for prior in (FourierPrior((16, 40)), MacoPrior((16, 40))):
        assert prior.resized(8).size == (8, 20)
        code = prior.start(2)
        assert prior.decode(code).shape == (2, 3, 16, 40)
    fourier = FourierPrior((16, 40))
    images = torch.rand(1, 3, 16, 40, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    assert torch.allclose(fourier.decode(fourier.encode(images)), images, atol=1e-4)
    with pytest.raises(DgnError, match="even size"):
        FourierPrior((16, 15))
    with pytest.raises(DgnError, match="makes square images"):
        dgn.load_prior("dgn", size=(64, 128))


@pytest.mark.parametrize("kind", [FourierPrior, MacoPrior])
def test_a_longer_canvas_shows_more_of_the_same(kind: type[FourierPrior]) -> None:
    """The pixels' spread along a long canvas is that of a square one: no frequency is louder for its length."""
    spread = []
    for size in ((64, 64), (64, 192)):
        prior = kind(size)
        code = prior.start(24) if kind is MacoPrior else prior.start(24) * 20
        spread.append(float(prior.decode(code).std()))
    assert spread[1] == pytest.approx(spread[0], rel=0.15)


def test_what_is_turned_keeps_its_lengths() -> None:
    """A quarter turn of a long image: what lay five pixels above the middle lies five beside it."""
    image = torch.zeros(1, 1, 21, 41)
    image[0, 0, 5, 20] = 1.0
    turned = rotate(image, Quarter([0]), 90.0)
    y, x = divmod(int(turned.argmax()), 41)
    assert (y, abs(x - 20)) == (10, 5) and float(turned.max()) > 0.9


class Quarter(Draws):
    """Always the whole angle."""

    def uniform(self, *shape: int) -> Tensor:
        return torch.ones(1, *shape)


def test_receptive_fields_and_ablation_of_a_long_network() -> None:
    """Boxes are in the network's own pixels, and a planted spot is found where it is."""

    class Spot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Conv2d(3, 1, 4, stride=4, bias=False)
            self.map.weight.data.fill_(1 / 48)

        def forward(self, x: Tensor) -> Tensor:
            return self.map(x)[:, :, 1, 5]

    network = Network(Spot(), (12, 48), (0.0,) * 3, (1.0,) * 3)
    assert ReceptiveFields(network).box("map", (1, 5)) == (4, 20, 8, 24)
    image = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    found = ablate(network, image, 0, size=4, stride=4)
    assert found.image.shape == (3, 12, 48) and found.drops.shape == (3, 12)
    assert divmod(int(found.drops.abs().argmax()), 12) == (1, 5)


def test_facets_of_a_long_network_are_not_squeezed(wide: Network) -> None:
    images = torch.rand(3, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    facets = Facets(torch.zeros(3, dtype=torch.long), [[0, 1, 2]], torch.zeros(3, 1), float("nan"), {})
    assert torch.allclose(mean_codes(PixelPrior(16), images, facets)[0], images[..., 8:24].mean(0), atol=1e-6)
    assert torch.allclose(mean_codes(PixelPrior((16, 32)), images, facets)[0], images.mean(0), atol=1e-6)


def test_overviews_keep_proportions() -> None:
    sheet = np.array(grid([Cell("u", "r", Image.new("RGB", (20, 10), "red"), "")], "t", tile=84))
    rows, columns = (len(np.unique(axis)) for axis in (sheet == (255, 0, 0)).all(2).nonzero())
    assert abs(rows - 40) <= 1 and abs(columns - 80) <= 1


def test_a_start_photograph_meets_the_canvas_by_the_same_rule() -> None:
    image = torch.rand(3, 10, 20, generator=torch.Generator().manual_seed(0))
    for fit in ("crop", "fit", "stretch"):
        expected = resized(image[None], (16, 16), fit)
        assert torch.allclose(given_start(PixelPrior(16), image, 1, fit), expected.clamp(0, 1))
    network = Network(SmallCNN(), 16, fit="stretch")
    still = {"steps": 1, "lr": 0.0, "lr_end": 0.0}
    result = dgn.synthesize(network, [0], PixelPrior(16), start=image, **still)
    assert torch.allclose(result.images, resized(image[None], (16, 16), "stretch"), atol=1e-6)


def test_grey_networks_see_photographs_in_grey(tmp_path: Path) -> None:
    """The luminance that Pillow takes; networks of other channels say what they need."""
    grey = Network(SmallCNN(1), 16, [0.5], [0.5], name="grey")
    photograph = picture(16, 16)
    photograph.save(tmp_path / "a.png")
    light = torch.from_numpy(np.array(photograph.convert("L")))[None, None].float() / 255
    truth = float(grey(light)[0, 2])
    for data in (tmp_path, [photograph], [np.array(photograph)]):
        (found,), squares, _ = find_examples(grey, dgn.parse_units([2], grey), data, k=1)
        assert found.top[0].activation == pytest.approx(truth, abs=2e-3)
        assert squares.tensors([0]).shape == (1, 1, 16, 16)
    assert torch.equal(read_image(tmp_path / "a.png", grey.sight), light[0])
    colour = pixels(photograph)[None]
    assert float((to_channels(colour, 1) - light).abs().max()) < 1 / 255 and to_channels(light, 3).shape[1] == 3
    four = Network(SmallCNN(4), 16, [0.5] * 4, [0.5] * 4)
    with pytest.raises(DgnError, match=r"4 channels, photographs have 3 .*\[4, H, W\]"):
        Squares(tmp_path, four.sight)
    many = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0))
    (found,), _, _ = find_examples(four, dgn.parse_units([2], four), [many], k=1)
    assert found.top[0].activation == pytest.approx(float(four(many[None])[0, 2]), abs=1e-6)


@pytest.mark.parametrize(
    "given", [0, -3, 2.5, "wide", [16], [16, 0], [1, 2, 3, 4], [None, 2], float("nan"), float("inf")]
)
def test_sizes_that_are_none(given: object) -> None:
    with pytest.raises(DgnError, match=r"input_size is .* expected pixels"):
        parse_size(given, "input_size")


def test_unknown_rules_are_refused(wide: Network) -> None:
    with pytest.raises(DgnError, match="no fit 'streched'; did you mean 'stretch'"):
        Network(SmallCNN(), 16, fit="streched")
    assert replace(wide.sight, fit="fit").at_least(24).size == (24, 48) and wide.sight.at_least(8) is not None
