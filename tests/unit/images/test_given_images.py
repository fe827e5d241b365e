"""What users hand in as images: uint8, arrays of any layout, values out of range; rows that depend on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallCNN, small_generator
from PIL import Image
from torch import Tensor, nn

import dgn
from dgn.analysis.ablation import ablate, curves
from dgn.analysis.examples import find_examples, search_warnings
from dgn.analysis.facets import late_features
from dgn.ascent.starts import given_start
from dgn.errors import DgnError
from dgn.evaluation.judges import Judge
from dgn.evaluation.reference import activations_of_all
from dgn.images.given import as_images
from dgn.images.reading import read_image
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.priors.deep import GeneratorPrior
from dgn.priors.pixel import PixelPrior
from dgn.report.table import result_rows

BYTES = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FLOATS = BYTES.float() / 255
LAYOUTS: list[Any] = [
    BYTES, FLOATS, FLOATS.double(), BYTES.numpy(), FLOATS.numpy(), BYTES.permute(1, 2, 0).numpy(),
    FLOATS.permute(1, 2, 0).contiguous().numpy(), BYTES.permute(1, 2, 0), BYTES[None],
    np.asfortranarray(BYTES.permute(1, 2, 0).numpy())[::-1][::-1],
]  # fmt: skip
"""One image in every layout in which people have it."""


@pytest.mark.parametrize("given", LAYOUTS)
def test_one_image_in_any_layout_gives_one_number(given: Any, network: Network) -> None:
    """In examples, ablation, the network's own call, facets, evaluation, judges and starts."""
    truth = float(network.module((FLOATS[None] - 0.5) / 0.5)[0, 2])
    assert ablate(network, given, 2, size=8, stride=8).activation == pytest.approx(truth, abs=1e-5)
    batch = given if given.ndim == 4 else given[None]
    if given.dtype not in (torch.float64, np.float64):  # these keep their precision
        assert float(network(batch)[0, 2]) == pytest.approx(truth, abs=1e-5)
    torch.testing.assert_close(network.prepare(batch).float(), (FLOATS[None] - 0.5) / 0.5)
    units = dgn.parse_units([2], network)
    (found,), _, _ = find_examples(network, units, [given], k=1)
    assert found.top[0].activation == pytest.approx(truth, abs=1e-5)
    assert float(activations_of_all(network, batch, units)["bee"][0]) == pytest.approx(truth, abs=1e-5)
    assert float(late_features(network, batch, "output")[0, 2]) == pytest.approx(truth, abs=1e-5)
    assert float(Judge(network, "output").see(batch).logits[0, 2]) == pytest.approx(truth, abs=1e-5)
    torch.testing.assert_close(given_start(PixelPrior(16), given, 1), FLOATS[None])
    result = dgn.synthesize(network, [2], PixelPrior(16), start=given, steps=1)
    assert float(result.activations[0]) == pytest.approx(truth, abs=1e-5)


NORMALISED = (FLOATS - 0.5) / 0.25


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (NORMALISED, "values from -2 to 2, expected 0 to 1"),
        (FLOATS * 255, "values from 0 to 255, expected 0 to 1"),
        (torch.full((3, 16, 16), torch.nan), "values from nan to nan"),
        (torch.full((3, 16, 16), torch.inf), "values from inf to inf"),
        (BYTES.long(), "int64 numbers, expected floats from 0 to 1 or uint8"),
        (BYTES.numpy().astype(np.uint16), "uint16 numbers"),
    ],
)
def test_other_values_are_refused_at_every_door(given: Any, expected: str, network: Network) -> None:
    units = dgn.parse_units([2], network)
    for look in (
        lambda: ablate(network, given, 2, size=8, stride=8),
        lambda: network(given[None]),
        lambda: network.prepare(given[None]),
        lambda: find_examples(network, units, [given], k=1),
        lambda: activations_of_all(network, given[None], units),
        lambda: late_features(network, given[None]),
        lambda: Judge(network, "output").see(given[None]),
        lambda: dgn.synthesize(network, [2], PixelPrior(16), start=given, steps=1),
        lambda: dgn.synthesize(network, [2], PixelPrior(12), start=given, steps=1),
        lambda: dgn.synthesize(network, [2, 3], PixelPrior(16), start=torch.stack([torch.as_tensor(given)] * 2)),
    ):
        with pytest.raises(DgnError, match=expected):
            look()


def test_rounding_is_no_error_and_gradients_pass() -> None:
    images = torch.tensor([-1e-5, 0.5, 1 + 1e-5]).view(1, 3, 1, 1).requires_grad_()
    seen = as_images(images, "it")
    assert seen.flatten().tolist() == [0.0, 0.5, 1.0]
    seen.sum().backward()
    assert images.grad is not None and float(images.grad[0, 1]) == 1.0


def test_a_loop_may_leave_the_range(network: Network) -> None:
    """Noise inside of the ascent takes pixels beyond [0, 1]: nobody handed these in."""
    result = dgn.synthesize(network, [2], PixelPrior(16), steps=3, noise=2.0)
    assert bool(result.history.isfinite().all())
    assert network.features(FLOATS[None] * 3 - 1, ["output"])["output"].shape == (1, 5)


def test_codes_are_no_images() -> None:
    """Starts of a generator may have any value; only images are looked at."""
    prior = GeneratorPrior(small_generator())
    code = torch.full((1, *prior.code_shape), -2.0)
    assert given_start(prior, code, 2).shape == (2, *prior.code_shape)


def test_pictures_and_files_are_ablated_as_the_command_does(network: Network, tmp_path: Path) -> None:
    """Larger than the network's input, so that the way to it counts."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    picture.save(tmp_path / "one.png")
    seen = ablate(network, read_image(tmp_path / "one.png", network.sight), 2).drops
    for given in (picture, tmp_path / "one.png", str(tmp_path / "one.png")):
        assert torch.equal(ablate(network, given, 2).drops, seen)
    with pytest.raises(DgnError, match=r"no\.png"):
        ablate(network, tmp_path / "no.png", 2)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3, 16, 16), (0, 3, 16, 16)])
def test_shapes_that_are_no_images(shape: tuple[int, ...], network: Network) -> None:
    with pytest.raises(DgnError, match=r"expected \[3, H, W\]"):
        ablate(network, torch.zeros(shape), 2)
    with pytest.raises(DgnError, match="ablation takes one image"):
        ablate(network, torch.zeros(2, 3, 16, 16), 2)
    with pytest.raises(DgnError, match="is a list, expected a tensor or an array"):
        as_images([1.0], "it")


def test_grey_pictures_without_an_axis_of_channels() -> None:
    grey = Network(SmallCNN(1), 16, [0.5], [0.5])
    flat = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    truth = float(grey(torch.from_numpy(flat)[None, None])[0, 1])
    assert ablate(grey, flat, 1, size=8, stride=8).activation == pytest.approx(truth, abs=1e-5)
    assert ablate(grey, flat[..., None], 1, size=8, stride=8).activation == pytest.approx(truth, abs=1e-5)


# --- rows that depend on others, or on chance ------------------------------------------------------------------


def cnn_with(layer: nn.Module) -> SmallCNN:
    torch.manual_seed(0)
    module = SmallCNN()
    module.block.norm = layer
    return module


def test_rows_that_depend_on_their_neighbours_are_seen_alone() -> None:
    """BatchNorm without statistics: every reported number is that of the image by itself, and a note says so."""
    network = Network(cnn_with(nn.BatchNorm2d(8, track_running_stats=False)), 16, name="loose")
    units = dgn.parse_units([1, 2], network)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) ** torch.arange(1, 5).view(4, 1, 1, 1)
    alone = torch.cat([network(image[None]) for image in images])
    assert not torch.allclose(network(images), alone, atol=1e-3)
    result = dgn.synthesize(network, units, PixelPrior(16), seeds=[0, 1], steps=5)
    truth = torch.stack([network(image[None])[0, i // 2 + 1] for i, image in enumerate(result.images)])
    torch.testing.assert_close(result.activations, truth)
    by_itself = dgn.synthesize(network, [2], PixelPrior(16), seeds=[1], steps=5)
    assert torch.equal(by_itself.images[0], result.images[3])
    assert len(result.notes) == 1 and "other numbers beside other images" in result.warnings[0]
    rows = result_rows(result, network, 1.0)
    first = float(network(result.images[:1]).softmax(1)[0, 1])
    assert rows[0]["probability"] == pytest.approx(first, abs=1e-5)
    found, squares, broken = find_examples(network, units, list(images), k=4)
    for unit, one in enumerate(found, 1):
        assert {e.index: e.activation for e in one.top} == pytest.approx(
            {i: float(alone[i, unit]) for i in range(4)}, abs=1e-5
        )
    assert any("one at a time" in line for line in search_warnings(found, squares, broken, network))
    torch.testing.assert_close(activations_of_all(network, images, units)["1"], alone[:, 1])
    torch.testing.assert_close(late_features(network, images, "output"), alone)
    torch.testing.assert_close(Judge(network, "output").see(images).logits, alone)
    ablated = ablate(network, images[0], 1, size=8, stride=8)
    covered = images[0].clone()
    covered[:, :8, :8] = 0.5
    drop = float(alone[0, 1] - network(covered[None])[0, 1])
    assert float(ablated.drops[0, 0]) == pytest.approx(drop, abs=1e-5)
    deletion, _ = curves(network, ablated, steps=3)
    assert deletion.activations[0] == pytest.approx(float(alone[0, 1]), abs=1e-5)


class AlwaysDropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


def test_numbers_that_change_with_every_look_are_said() -> None:
    """Dropout that is always on; finding it out draws nothing from the caller's random numbers."""
    network = Network(cnn_with(AlwaysDropping()), 16, name="dice")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = steadiness(network, ["output"])
    assert torch.equal(torch.rand(3), expected)
    assert not found.certain and found.batch(8) == 8
    result = dgn.synthesize(network, [1], PixelPrior(16), steps=2)
    assert len(result.notes) == 1 and "other numbers each time" in result.notes[0]


def test_ordinary_networks_are_steady_and_asked_once(network: Network, tokens: Network) -> None:
    class Counted(SmallCNN):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counted.calls += 1
            return super().forward(x)

    for one in (network, tokens):
        assert steadiness(one, ["output"]) == steadiness(one, list(one.layers)) and steadiness(one, ["output"]).alone
        assert not steadiness(one, ["output"]).notes(one)
    counted = Network(Counted(), 16)
    steadiness(counted, ["output"])
    asked = Counted.calls
    steadiness(counted, ["output"])
    steadiness(counted.at(24), ["output"])
    assert Counted.calls == asked


def test_what_a_module_keeps_between_calls_is_left_alone() -> None:
    """The questions are asked of a copy: a counter, and running sums, stay what they were."""

    class Keeping(SmallCNN):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0
            self.register_buffer("total", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            self.total += 1
            return super().forward(x)

    network = Network(Keeping(), 16)
    assert steadiness(network, ["output"]).alone and network.scores == "softmax"
    assert network.module.count == 0 and float(network.module.total) == 0  # type: ignore[arg-type]
