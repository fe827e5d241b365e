"""Examples, receptive fields, ablation, facets: each against an answer known beforehand."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SmallCNN
from PIL import Image
from torch import Tensor, nn

import dgn
from dgn.analysis.ablation import FILLS, ablate, curves
from dgn.analysis.examples import find_examples
from dgn.analysis.facets import cluster, late_features, mean_codes, mean_images
from dgn.analysis.receptive import ReceptiveFields
from dgn.analysis.squares import Squares
from dgn.errors import DgnError
from dgn.images.reading import decode, read_image
from dgn.network.network import Network
from dgn.priors.pixel import PixelPrior
from dgn.units.read import Reader
from dgn.units.units import parse_units

UNITS = ["ant", "late:3", "block:2", "stem:1@2,3", "ant - 0.5*bee", "log(bee)"]


def brute(network: Network, folder: Path, spec: str) -> list[tuple[float, str]]:
    squares = Squares(folder, 16)
    read = Reader(network, parse_units(spec, network))
    rows = [(float(read(network.features(squares.tensors([i]), read.layers))), squares.name(i)) for i in range(24)]
    return sorted(rows, reverse=True)


def test_examples_are_the_true_best(network: Network, images: Path) -> None:
    """Against all activations, for output and hidden units, positions, sums and forms; odd batches change nothing."""
    units = parse_units(UNITS, network)
    found, _, broken = find_examples(network, units, images, k=4, batch=7)
    again, _, _ = find_examples(network, units, images, k=4, batch=24, workers=2)
    assert not broken
    for spec, one, other in zip(UNITS, found, again, strict=True):
        expected = brute(network, images, spec)
        assert [e.name for e in one.top] == [name for _, name in expected[:4]]
        assert [e.name for e in one.bottom] == [name for _, name in expected[::-1][:4]]
        assert [e.activation for e in one.top] == pytest.approx([value for value, _ in expected[:4]], abs=1e-5)
        assert [e.name for e in one.random] == [e.name for e in other.random]
        assert len(one.random) == min(4, sum(value > 0 for value, _ in expected))
        assert all(e.activation > 0 for e in one.random)
        assert one.mean == pytest.approx(np.mean([value for value, _ in expected]), abs=1e-5)
        assert one.positive == pytest.approx(np.mean([value > 0 for value, _ in expected]))


def test_search_resumes_and_refuses_another(network: Network, images: Path, tmp_path: Path) -> None:
    units = parse_units(UNITS[:2], network)
    whole, _, _ = find_examples(network, units, images, k=3)
    state = tmp_path / "state.safetensors"

    def stop(seen: int, total: int) -> None:
        if seen >= 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_examples(network, units, images, k=3, batch=5, state=state, save_seconds=0, note=stop)
    seen: list[int] = []
    resumed, _, _ = find_examples(
        network, units, images, k=3, batch=5, state=state, note=lambda done, _total: seen.append(done)
    )
    assert resumed == whole and seen[0] == 15
    with pytest.raises(DgnError, match="another search"):
        find_examples(network, units, images, k=4, state=state)


def test_an_interrupted_search_is_kept(network: Network, images: Path, tmp_path: Path) -> None:
    """However short it was, up to the last batch that had ended, be it interrupted in between batches or within one."""
    units, state = parse_units(["ant", "late:3"], network), tmp_path / "state.safetensors"

    def stop(done: int, _total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_examples(network, units, images, k=3, batch=5, state=state, note=stop)
    seen: list[int] = []
    found, _, _ = find_examples(
        network, units, images, k=3, batch=5, state=state, note=lambda done, _total: seen.append(done)
    )
    assert seen[0] == 10
    whole, _, _ = find_examples(network, units, images, k=3, batch=5)
    assert [one.top for one in found] == [one.top for one in whole]
    calls: list[int] = []

    def torn(late: Tensor) -> Tensor:
        calls.append(len(late))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return late.mean((1, 2, 3))

    own, other = dgn.unit(torn, ["late"]), tmp_path / "own.safetensors"
    with pytest.raises(KeyboardInterrupt):
        find_examples(network, own, images, k=3, batch=5, state=other)
    seen.clear()
    find_examples(network, own, images, k=3, batch=5, state=other, note=lambda done, _total: seen.append(done))
    assert seen[0] == 10


def test_a_search_is_not_taken_up_by_another(network: Network, tmp_path: Path) -> None:
    """Of other images as many, or along another direction of the same name."""
    from safetensors.torch import save_file

    def pictures(seed: int) -> list[Image.Image]:
        rng = np.random.default_rng(seed)
        return [Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)) for _ in range(6)]

    units, state = parse_units("ant", network), tmp_path / "state.safetensors"
    find_examples(network, units, pictures(0), k=2, state=state)
    find_examples(network, units, pictures(0), k=2, state=state)
    with pytest.raises(DgnError, match="another search"):
        find_examples(network, units, pictures(1), k=2, state=state)
    file, other = tmp_path / "v.safetensors", tmp_path / "other.safetensors"
    for seed in (0, 1):
        save_file({"v": torch.randn(12, generator=torch.Generator().manual_seed(seed))}, file)
        (unit,) = parse_units(f"late:{file}", network)
        if seed == 0:
            find_examples(network, [unit], pictures(0), k=2, state=other)
    with pytest.raises(DgnError, match="another search"):
        find_examples(network, [unit], pictures(0), k=2, state=other)


def test_units_without_a_number_are_said(images: Path) -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * float("nan")

    network = Network(Nothing(), 16)
    (found,), _, _ = find_examples(network, parse_units(0, network), images, k=2)
    with pytest.raises(DgnError, match="0 is not finite on any of these images"):
        found.check()


def test_sources(network: Network, images: Path, tmp_path: Path) -> None:
    """A folder, tar files and a torchvision data set give the same examples; broken files are named and passed over."""
    from torchvision.datasets import ImageFolder

    units = parse_units(["ant"], network)
    expected = [e.activation for e in find_examples(network, units, images, k=3).units[0].top]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for path in sorted(images.iterdir()):
            archive.add(path, f"c/{path.name}")
        for name in ("broken.png", "odd.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"no!"))
    (one,), _, broken = find_examples(network, units, tmp_path / "a.tar", k=3)
    assert [e.activation for e in one.top] == pytest.approx(expected, abs=1e-6)
    assert broken == ["a.tar/broken.png", "a.tar/odd.jpg"]
    (two,), _, _ = find_examples(network, units, ImageFolder(str(images.parent)), k=3)
    assert [e.activation for e in two.top] == pytest.approx(expected, abs=1e-6)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DgnError, match="no images"):
        find_examples(network, units, empty)
    (empty / "x.png").write_bytes(b"no")
    with pytest.raises(DgnError, match="none of the 1 images"):
        find_examples(network, units, empty)


def test_dead_units_are_said(cnn: SmallCNN, images: Path) -> None:
    cnn.late.weight.data[3] = 0
    cnn.late.bias.data[3] = -1
    (one,), _, _ = find_examples(Network(cnn, 16), parse_units("late:3", Network(cnn, 16)), images, k=2)
    assert one.warning and "never changes" in one.warning and "may be dead" in one.warning
    assert one.random == [] and len(one.top) == 2
    cnn.late.weight.data[4] *= 0.01
    cnn.late.bias.data[4] = -1
    (low,), _, _ = find_examples(Network(cnn, 16), parse_units("late:4", Network(cnn, 16)), images, k=2)
    assert low.warning and "never above 0" in low.warning and "dead" not in low.warning


def test_odd_images(tmp_path: Path) -> None:
    """Grey, alpha, 16 bit, palette, animated and turned images are read as a person sees them."""
    grey = np.linspace(0, 255, 64).reshape(8, 8)
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray((grey * 257).astype(np.uint16)).save(tmp_path / "sixteen.png")
    for name in ("grey", "sixteen"):
        values = read_image(tmp_path / f"{name}.png") * 255
        assert values.shape == (3, 8, 8) and torch.allclose(values[0], torch.from_numpy(grey).float(), atol=1)
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:, :4] = (200, 10, 10, 255)
    Image.fromarray(clear).save(tmp_path / "alpha.png")
    values = read_image(tmp_path / "alpha.png")
    assert torch.all(values[:, :, 4:] == 1) and float(values[0, 0, 0]) == pytest.approx(200 / 255)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert float(read_image(tmp_path / "moving.gif")[0].mean()) > 0.9
    turned = Image.fromarray(np.concatenate([np.full((4, 10, 3), 255), np.zeros((4, 10, 3))]).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 10, 8)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "dark.png")
    assert float(read_image(tmp_path / "dark.png").max()) <= 1 / 255  # 255 of 65535 is nearly black
    one_bit = Image.fromarray(grey > 128)
    one_bit.save(tmp_path / "bit.png")
    assert decode((tmp_path / "bit.png").read_bytes()).mode == "RGB"
    with pytest.raises(DgnError, match="no image"):
        read_image(tmp_path / "none.png")
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(DgnError, match="can't be read"):
        read_image(tmp_path / "bad.png")


# --- receptive fields ----------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Dilated, strided and pooled branches with different paddings."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.b = nn.Conv2d(4, 4, 3, dilation=3, padding=3)
        self.pool = nn.MaxPool2d(2)
        self.c = nn.Conv2d(4, 5, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(self.pool(torch.relu(self.b(x) + x)))


def test_receptive_field_is_exact() -> None:
    """Against the support of the gradient, averaged over many random images, at several positions."""
    torch.manual_seed(0)
    network = Network(Branches(), 48)
    fields = ReceptiveFields(network)
    for layer in ("a", "b", "pool", "c"):
        side = network.layer_shape(layer)[1]
        for position in ((0, 0), (side // 2, side // 3), (side - 1, side // 2)):
            images = torch.rand(32, 3, 48, 48, requires_grad=True)
            value = network.features(images, [layer])[layer][:, :, position[0], position[1]]
            (gradient,) = torch.autograd.grad((value * torch.randn_like(value)).sum(), images)
            touched = gradient.abs().sum((0, 1)) > 0
            rows, columns = touched.any(1).nonzero()[:, 0], touched.any(0).nonzero()[:, 0]
            expected = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
            assert fields.box(layer, position) == expected, (layer, position)
    with pytest.raises(DgnError, match="no grid of positions"):
        ReceptiveFields(Network(SmallCNN(), 16)).box("output", (0, 0))


def test_examples_know_where(network: Network, images: Path) -> None:
    """The crop of a unit's best example alone explains the activation at its position."""
    (one,), squares, _ = find_examples(network, parse_units("late:3", network), images, k=3)
    for example in one.top:
        assert example.box is not None and example.position is not None
        image = squares.tensors([example.index])
        top, left, bottom, right = example.box
        covered = torch.full_like(image, 0.5)
        covered[:, :, top:bottom, left:right] = image[:, :, top:bottom, left:right]
        y, x = example.position
        seen = [network.features(each, ["late"])["late"][0, 3, y, x] for each in (image, covered)]
        assert torch.allclose(seen[0], seen[1], atol=1e-5)
        assert float(seen[0]) == pytest.approx(float(network.features(image, ["late"])["late"][0, 3].max()), abs=1e-5)


# --- ablation ------------------------------------------------------------------------------------------------


@pytest.mark.needs("captum")
@pytest.mark.parametrize(("size", "stride"), [(4, 2), ((5, 3), (3, 2)), (16, 16), (7, 7)])
def test_ablation_equals_captum(network: Network, size: object, stride: object) -> None:
    from captum import attr

    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(4))
    mine = ablate(network, image, "bee", size=size, stride=stride)  # type: ignore[arg-type]
    sides = [(value, value) if isinstance(value, int) else value for value in (size, stride)]
    theirs = attr.Occlusion(network.module).attribute(
        network.prepare(image[None]),
        sliding_window_shapes=(3, *sides[0]),
        strides=(3, *sides[1]),
        target=2,
        baselines=0,
    )
    assert torch.allclose(mine.heat, theirs[0, 0].float(), atol=5e-6)


def test_ablation_finds_the_planted_spot() -> None:
    """A unit that looks at one corner loses everything there, and nothing elsewhere, whatever the fill."""

    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 2:6, 8:12].mean((1, 2, 3))[:, None]

    network = Network(Corner(), 16, mean=(0.0,) * 3, std=(1.0,) * 3)
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    image[:, 2:6, 8:12] = 1.0
    for fill in FILLS:
        found = ablate(network, image, 0, size=4, stride=2, fill=fill)
        y, x = divmod(int(found.drops.argmax()), found.drops.shape[1])
        assert (y * 2, x * 2) == (2, 8) and float(found.drops[-1, 0]) == pytest.approx(0, abs=1e-6)
    deletion, insertion = curves(network, ablate(network, image, 0, size=4, stride=2), steps=8)
    assert deletion.activations[0] == pytest.approx(1.0) == insertion.activations[-1]
    assert deletion.area < insertion.area and deletion.shares == insertion.shares
    assert len(deletion.probabilities) == 9


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"size": 17}, "doesn't fit"),
        ({"size": 4, "stride": 5}, "expected 1 to 4"),
        ({"size": 4, "stride": 0}, "stride is 0, expected pixels above 0"),
        ({"size": 4, "stride": 2, "fill": "blurr"}, "did you mean 'blur'"),
    ],
)
def test_ablation_says_what_is_wrong(network: Network, arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(DgnError, match=expected):
        ablate(network, torch.rand(3, 16, 16), "ant", **arguments)  # type: ignore[arg-type]


# --- facets --------------------------------------------------------------------------------------------------


class TwoFaced(nn.Module):
    """A unit that answers to much red, or to fine stripes; its features tell them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Identity()
        self.head = nn.Linear(4, 1)
        self.head.weight.data = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
        self.head.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        red = (x[:, 0] - x[:, 1:].mean(1)).mean((1, 2)).clamp(min=0) * 4
        stripes = (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().mean((1, 2, 3)) * 4
        rest = x.mean((2, 3))[:, 1:] * 0.2
        return self.head(self.look(torch.stack([red, stripes, rest[:, 0], rest[:, 1]], 1)))


def test_planted_facets_are_separated(tmp_path: Path) -> None:
    """Red and striped images: the unit answers to both, its facets hold one kind each, and so do their starts."""
    rng = np.random.default_rng(0)
    for index in range(60):
        pixels = rng.integers(60, 120, (24, 24, 3))
        if index < 20:
            pixels[..., 0] += rng.integers(80, 130)
        elif index < 40:
            pixels[:, ::2] += rng.integers(70, 110)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{index:02d}.png")
    network = Network(TwoFaced(), 24, mean=(0.0,) * 3, std=(1.0,) * 3)
    (one,), squares, _ = find_examples(network, parse_units("output:0", network), tmp_path, k=36)
    kinds = torch.tensor([int(example.name[:2]) // 20 for example in one.top])
    assert set(kinds.tolist()) == {0, 1}
    pixels = squares.tensors([example.index for example in one.top])
    features = late_features(network, pixels)
    assert features.shape == (36, 4)
    for count, tsne in ((2, False), (None, False), (2, True)):
        facets = cluster(features, count, members=5, tsne=tsne)
        purity = sum(int(torch.bincount(kinds[facets.labels == f]).max()) for f in range(facets.count)) / len(kinds)
        assert facets.count == 2 and purity >= 0.9, (count, tsne, facets.scores)
    starts = mean_images(pixels, facets)
    assert torch.allclose(mean_codes(PixelPrior(24), pixels, facets), starts, atol=1e-6)
    kind_of = [int(kinds[rows[0]]) for rows in facets.nearest]
    result = dgn.synthesize(
        network, "output:0", prior=PixelPrior(24), seeds=[0, 1], start=starts, steps=15, lr=0.01, lr_end=0.0,
        precision="fp32",
    )  # fmt: skip
    redness = (result.images[:, 0] - result.images[:, 1:].mean(1)).mean((1, 2))
    assert float(redness[kind_of.index(0)]) > float(redness[kind_of.index(1)]) + 0.1


def test_too_few_for_facets() -> None:
    with pytest.raises(DgnError, match="1 example images can't make 2 facets"):
        cluster(torch.rand(1, 4), 2)
    assert cluster(torch.rand(1, 4)).nearest == [[0]]
    assert cluster(torch.rand(3, 4), 3).count == 3
    assert cluster(torch.ones(5, 4), 1).nearest[0] != []
    with pytest.raises(DgnError, match="facets is 0"):
        cluster(torch.rand(3, 4), 0)
