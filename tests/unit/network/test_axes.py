"""Which axis of a layer is its features: found, said, overridable, refused; checked by reading the layer by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dgn
from dgn.analysis.examples import find_examples
from dgn.analysis.facets import late_features
from dgn.analysis.receptive import ReceptiveFields
from dgn.errors import DgnError
from dgn.network.layout.layout import Grid
from dgn.network.network import Network
from dgn.priors.pixel import PixelPrior
from dgn.units.read import BatchReader, Reader
from dgn.units.units import parse_units


class Head(nn.Module):
    """A linear classifier of what a body gives, ``[N, ...]`` in any order."""

    def __init__(self, body: nn.Module, size: int, channels: int = 3) -> None:
        super().__init__()
        self.body = body
        with torch.no_grad():
            self.head = nn.Linear(body(torch.rand(2, channels, size, size)).flatten(1).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


class Order(nn.Module):
    """Axes in another order."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.axes)


class ChannelsLast(nn.Module):
    """A stage of Swin: patches, a norm over the last axis, a residual block of linear layers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).permute(0, 2, 3, 1))
        return x + self.mlp(x)


class Tokens(nn.Module):
    """A small vision transformer with others in front of the patches, or behind."""

    def __init__(self, before: int = 1, after: int = 0, *, first: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.before = nn.Parameter(torch.randn(1, before, 16))
        self.after = nn.Parameter(torch.randn(1, after, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=not first)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.before.expand(len(x), -1, -1), x, self.after.expand(len(x), -1, -1)], 1)
        return self.block(x.transpose(0, 1) if self.first else x)


def network(body: nn.Module, size: int | tuple[int, int] = 32, **more: Any) -> Network:
    torch.manual_seed(0)
    for parameter in body.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Network(body.eval(), size, **more)


def read(net: Network, spec: str, images: Tensor) -> Tensor:
    """What dgn reads of each image, by both of its readers."""
    (unit,) = parse_units(spec, net)
    reader = Reader(net, [unit] * len(images))
    values = reader(net.features(images, reader.layers))
    torch.testing.assert_close(BatchReader(net, [unit])(images)[0][:, 0], values)
    return values


def raw(net: Network, layer: str, images: Tensor) -> Tensor:
    """What the module's own hook says."""
    got: list[Tensor] = []
    handle = net.module.get_submodule(layer).register_forward_hook(lambda _m, _i, o: got.append(o))
    net.module(net.prepare(images))
    handle.remove()
    return got[0]


@pytest.mark.parametrize("layer", ["norm", "mlp", "mlp.1", "mlp.2", "body"])
def test_channels_last(layer: str) -> None:
    net = network(nn.Sequential(ChannelsLast(), Order(0, 3, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    layer = "0" if layer == "body" else f"0.{layer}"
    images = torch.rand(2, 3, 32, 32)
    maps = raw(net, layer, images)
    assert maps.shape[1:3] == (8, 8) and net.layout(layer).kind == "map, channels last"
    assert len(dgn.select_units(f"{layer}:all", net)) == maps.shape[3]
    torch.testing.assert_close(read(net, f"{layer}:5", images), maps[..., 5].mean((1, 2)))
    torch.testing.assert_close(read(net, f"{layer}:5@2,6", images), maps[:, 2, 6, 5])
    torch.testing.assert_close(read(net, f"{layer}:5@center", images), maps[:, 4, 4, 5])
    torch.testing.assert_close(late_features(net, images, layer), maps.mean((1, 2)))


def test_a_map_whose_sizes_are_all_equal_is_told_by_what_it_answers() -> None:
    """8 x 8 cells of 8 features: no size tells, and a permuted copy differs from the module's own order."""
    net = network(nn.Sequential(ChannelsLast(), Order(0, 3, 1, 2), Order(0, 2, 3, 1), nn.Flatten()))
    assert net.layers["0"] == net.layers["1"] == (8, 8, 8)
    assert net.layout("0").kind == "map, channels last" and net.layout("1").kind == "map"
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(read(net, "1:3@1,6", images), raw(net, "1", images)[:, 3, 1, 6])


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [(0, 0, "tokens, 8 x 8"), (1, 0, "tokens, 1 + 8 x 8"), (7, 0, "tokens, 7 + 8 x 8"), (0, 2, "tokens, 8 x 8 + 2")],
)
def test_tokens_beside_the_grid(before: int, after: int, kind: str) -> None:
    net = network(Tokens(before, after))
    images = torch.rand(2, 3, 32, 32)
    tokens = raw(net, "block", images)
    assert net.layout("block").kind == kind
    torch.testing.assert_close(read(net, "block:5", images), tokens[:, :, 5].mean(1))
    torch.testing.assert_close(read(net, "block:5@2,6", images), tokens[:, before + 2 * 8 + 6, 5])
    torch.testing.assert_close(read(net, "block:5@center", images), tokens[:, before + 4 * 8 + 4, 5])
    torch.testing.assert_close(read(net, "block:5@0", images), tokens[:, 0, 5])


def test_tokens_of_a_network_that_is_not_square() -> None:
    net = network(Tokens(1), (16, 48))
    images = torch.rand(2, 3, 16, 48)
    assert net.layout("block").grid == Grid(4, 12, first=1)
    torch.testing.assert_close(read(net, "block:3@3,10", images), raw(net, "block", images)[:, 1 + 3 * 12 + 10, 3])


def test_tokens_first() -> None:
    """``[L, N, C]``, the default of nn.TransformerEncoderLayer: the samples are on the second axis."""
    net = network(nn.Sequential(Tokens(1, first=True), Order(1, 0, 2), nn.Flatten()))
    images = torch.rand(3, 3, 32, 32)
    tokens = raw(net, "0.block", images)
    assert tokens.shape == (65, 3, 16) and net.layers["0.block"] == (65, 16)
    assert net.layout("0.block").kind == "tokens, 1 + 8 x 8, samples second"
    assert len(dgn.select_units("0.block:all", net)) == 16
    torch.testing.assert_close(read(net, "0.block:9@2,6", images), tokens[1 + 2 * 8 + 6, :, 9])
    result = dgn.synthesize(net, ["0.block:9", "0.block:2"], prior=PixelPrior(32), steps=3)
    own = raw(net, "0.block", result.images)
    torch.testing.assert_close(result.activations, torch.stack([own[:, 0, 9].mean(), own[:, 1, 2].mean()]))


def test_sequences_and_volumes() -> None:
    body = nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 5, 4, stride=4), nn.ReLU(), nn.Unflatten(2, (4, 8, 8)),
                         nn.Conv3d(5, 6, 3, padding=1), nn.ReLU(), nn.Flatten())  # fmt: skip
    net = network(body)
    images = torch.rand(2, 3, 32, 32)
    line, volume = raw(net, "1", images), raw(net, "5", images)
    assert net.layout("2").count == 5 and net.layout("5").kind == "volume"
    torch.testing.assert_close(read(net, "1:4@100", images), line[:, 4, 100])
    torch.testing.assert_close(read(net, "5:2@1,3,5", images), volume[:, 2, 1, 3, 5])
    torch.testing.assert_close(read(net, "5:2@center", images), volume[:, 2, 2, 4, 4])
    for spec, message in (
        ("1:4@1,2", "has positions @I"), ("5:2@1", "has positions @I,I,I"), ("5:2@1,9,0", "4 x 8 x 8 positions"),
    ):  # fmt: skip
        with pytest.raises(DgnError, match=message):
            parse_units(spec, net)


class Windows(nn.Module):
    """Attention in windows: each sample takes four places on the first axis, in a row or apart."""

    def __init__(self, *, apart: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.mix = nn.Linear(8, 12)
        self.apart = apart

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        n = len(x)
        x = x.unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 3, 5, 1).reshape(n, 4, 16, 8)
        x = self.mix(x.transpose(0, 1).flatten(0, 1) if self.apart else x.flatten(0, 1))
        return x.unflatten(0, (4, n)).transpose(0, 1).flatten(1) if self.apart else x.unflatten(0, (n, 4)).flatten(1)


def test_windows_on_the_samples_axis() -> None:
    net = network(Windows())
    images = torch.rand(3, 3, 32, 32)
    windows = raw(net, "mix", images).unflatten(0, (3, 4))
    assert net.layers["mix"] == (4, 16, 12) and net.layout("mix").kind == "4 windows"
    assert len(dgn.select_units("mix:all", net)) == 12
    torch.testing.assert_close(read(net, "mix:7", images), windows[..., 7].mean((1, 2)))
    torch.testing.assert_close(read(net, "mix:7@3,5", images), windows[:, 3, 5, 7])
    with pytest.raises(DgnError, match="no grid"):
        parse_units("mix:7@center", net)
    apart = network(Windows(apart=True))
    with pytest.raises(DgnError, match="don't stand one after the other"):
        parse_units("mix:7", apart)


class Guess(nn.Module):
    """Noise-like mixing of everything with everything: nothing tells places from features."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        weights = torch.randn(x.shape[1], 144, generator=torch.Generator().manual_seed(0))
        return torch.sin(x @ weights).view(-1, 12, 12)


def test_what_stays_ambiguous_is_refused_until_it_is_said() -> None:
    body = nn.Sequential(Guess(), nn.Flatten())
    with pytest.raises(DgnError, match=r"can't be told: name its axes.*network\.axes=\{0: NLC\}"):
        parse_units("0:3", network(body, 8))
    assert parse_units("0:*", network(body, 8))  # the mean square needs no features
    images = torch.rand(2, 3, 8, 8)
    for axes, expected in (("NCL", lambda x: x[:, 3].mean(1)), ("NLC", lambda x: x[:, :, 3].mean(1))):
        net = network(body, 8, axes={"0": axes})
        torch.testing.assert_close(read(net, "0:3", images), expected(raw(net, "0", images)))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"patch": "NCC"}, "one letter for each of its 4 axes"),
        ({"patch": "NHW"}, "one letter for each of its 4 axes"),
        ({"patch": "CNHW"}, "its samples are on axis 1"),
        ({"pacth": "NCHW"}, "'pacth', and no layer is called so"),
    ],
)
def test_axes_that_make_no_sense(axes: dict[str, str], message: str) -> None:
    with pytest.raises(DgnError, match=message):
        parse_units("patch:1", network(Tokens(), axes=axes))


def test_axes_by_pattern_win_over_what_was_found() -> None:
    net = network(Tokens(1), axes={"bl*": "NCL"})
    assert net.layout("block").count == 65 and net.layout("patch").count == 16


def test_examples_and_fields_of_channels_last_maps() -> None:
    net = network(ChannelsLast(8))
    images = [torch.rand(3, 32, 32) for _ in range(5)]
    found, _, _ = find_examples(net, parse_units("mlp.2:5", net), images, k=1)
    maps = raw(net, "mlp.2", torch.stack(images))[..., 5]
    best = int(maps.mean((1, 2)).argmax())
    top = found[0].top[0]
    assert top.index == best and top.activation == pytest.approx(float(maps[best].mean()), rel=1e-4)
    assert top.position == tuple(int(at) for at in divmod(int(maps[best].argmax()), 8))
    y, x = top.position
    assert top.box == (4 * y, 4 * x, 4 * y + 4, 4 * x + 4)
    assert ReceptiveFields(net).box("norm", (1, 2)) == (4, 8, 8, 12)


def test_a_position_is_the_same_part_of_an_image_at_another_input_size() -> None:
    net = network(nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 64)
    (unit,) = parse_units("0:2@15,3", net)
    small = net.at(32)
    reader = Reader(small, [unit])
    images = torch.rand(1, 3, 32, 32)
    maps = raw(small, "0", images)
    torch.testing.assert_close(reader(small.features(images, ["0"])), maps[:, 2, 7, 1])
    result = dgn.synthesize(net, "0:2@15,3", prior=PixelPrior(64), steps=2, input_size=32)
    torch.testing.assert_close(result.activations, raw(net, "0", result.images)[:, 2, 15, 3])


class LastConv(nn.Conv2d):
    """A convolution of somebody's own, with the channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).permute(0, 2, 3, 1)


def test_a_class_with_a_forward_of_its_own_is_not_believed() -> None:
    net = network(nn.Sequential(LastConv(3, 8, 4, stride=4), nn.Flatten()))
    assert net.layers["0"] == (8, 8, 8) and net.layout("0").kind == "map, channels last"
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(read(net, "0:3@1,6", images), raw(net, "0", images)[:, 1, 6, 3])


def test_a_single_feature_is_a_feature() -> None:
    """Gates of tokens and maps with one channel: the places are not taken for features."""
    body = Tokens(0)
    gate = nn.Sequential(body, nn.Linear(16, 1), nn.Flatten())
    net = network(gate)
    images = torch.rand(2, 3, 32, 32)
    assert net.layers["1"] == (64, 1) and net.layout("1").count == 1
    torch.testing.assert_close(read(net, "1:0", images), raw(net, "1", images).mean((1, 2)))
    tall = network(nn.Sequential(nn.Conv2d(3, 1, (1, 32)), nn.Flatten()))
    assert tall.layers["0"] == (1, 32, 1) and tall.layout("0").count == 1
    line = network(nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 1, 1), nn.Flatten()))
    assert line.layout("1").count == 1


def test_pools_over_features() -> None:
    """Maxout: a one-dimensional pool over the features of tokens pools no places."""
    net = network(nn.Sequential(Tokens(0), nn.MaxPool1d(4), nn.Flatten()))
    assert net.layers["1"] == (64, 4) and net.layout("1").count == 4
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(read(net, "1:3@2,6", images), raw(net, "1", images)[:, 2 * 8 + 6, 3])


def test_maps_in_one_order() -> None:
    net = network(ChannelsLast(8))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net.maps(images, ["mlp.0"])["mlp.0"], raw(net, "mlp.0", images).permute(0, 3, 1, 2))
    assert net.map_shape("mlp.0") == (16, 8, 8) and net.at(64).map_shape("mlp.0") == (16, 16, 16)


def test_layouts_follow_the_module_to_another_device() -> None:
    net = network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Order(0, 2, 3, 1), nn.Flatten()))
    assert net.layout("2").count == 4
    net.module.double()
    assert net(torch.rand(1, 3, 32, 32)).dtype == torch.float64  # so that it is known how the module takes images
    assert net.to("cpu").layout("2").count == 4
