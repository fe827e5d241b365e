"""What a forward pass gives besides one tensor, modules that are called again, names that look like something else."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dgn
from dgn.analysis.ablation import ablate
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.priors.pixel import PixelPrior
from dgn.units.read import Reader
from dgn.units.unit import Term
from dgn.units.units import parse_units


class Two(nn.Module):
    """Logits ``[N, 5]`` and a map ``[N, 7, 8, 8]``, given as ``wrap`` says."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 4, stride=4)
        self.head = nn.Linear(7, 5)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        maps = self.conv(x)
        return self.wrap(self.head(maps.mean((2, 3))), maps)


@dataclass
class Out:
    logits: Tensor
    maps: Tensor


Named = namedtuple("Named", "logits maps")

TWO: dict[str, tuple[Callable[[Tensor, Tensor], Any], str, str]] = {
    "tuple": (lambda a, b: (b, a), "output.1", "output.0"),
    "list": (lambda a, b: [a, b], "output.0", "output.1"),
    "dict": (lambda a, b: {"logits": a, "maps": b}, "output.logits", "output.maps"),
    "mapping": (lambda a, b: OrderedDict(maps=b, logits=a), "output.logits", "output.maps"),
    "dataclass": (Out, "output.logits", "output.maps"),
    "namedtuple": (Named, "output.logits", "output.maps"),
    "nested": (lambda a, b: {"a": {"scores": a}, "b": [None, (b, "text")]}, "output.a.scores", "output.b.1.0"),
}


@pytest.mark.parametrize("form", TWO)
def test_every_tensor_has_a_name(form: str) -> None:
    wrap, logits, maps = TWO[form]
    torch.manual_seed(0)
    module = Two(wrap)
    network = Network(module, 32)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = module.conv((images - 0.5) / 0.5)
        scores = module.head(features.mean((2, 3)))
    read = network.features(images, ["output", logits, maps])
    torch.testing.assert_close(read["output"], scores)  # the only [N, K]
    torch.testing.assert_close(read[logits], scores)
    torch.testing.assert_close(read[maps], features)
    result = dgn.synthesize(network, ["4", f"{maps}:6@1,2"], prior=PixelPrior(32), steps=3)
    with torch.no_grad():
        features = module.conv((result.images - 0.5) / 0.5)
    torch.testing.assert_close(result.activations[1], features[1, 6, 1, 2])
    assert ablate(network, images[:1], f"{maps}:6", size=8, stride=8).activation == pytest.approx(
        float(read[maps][0, 6].mean()), rel=1e-4
    )


def test_the_output_that_fits_the_class_names_is_chosen() -> None:
    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x[:, 0, 0, :4], x[:, 1, 0, :5]

    network = Network(Scores(), 8, class_names=list("abcde"))
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(network(image), (image[:, 1, 0, :5] - 0.5) / 0.5)
    with pytest.raises(DgnError, match=r"several tensors: name one of output\.0 \[4\], output\.1 \[5\]"):
        parse_units("1", Network(Scores(), 8))
    assert parse_units("output.0:3", Network(Scores(), 8))[0].terms == (Term("output.0", 3),)


def test_one_number_an_image_and_a_list_with_an_entry_an_image() -> None:
    one = Network(Two(lambda a, _: a[:, 2]), 32)
    image = torch.rand(3, 3, 32, 32)
    assert one(image).shape == (3,) and one.layers["output"] == ()
    reader = Reader(one, parse_units(["0"], one) * 3)
    torch.testing.assert_close(reader(one.features(image, reader.layers)), one(image))
    with pytest.raises(DgnError, match="has 1 units"):
        parse_units("1", one)
    each = Network(Two(lambda a, b: [{"scores": s, "maps": m} for s, m in zip(a, b, strict=True)]), 32)
    assert each.layers["output.scores"] == (5,) and each.layers["output.maps"] == (7, 8, 8)
    for count in (1, 2, 4):
        found = each.features(image[:1].expand(count, -1, -1, -1), ["output", "output.maps"])
        assert found["output"].shape == (count, 5) and found["output.maps"].shape == (count, 7, 8, 8)


class Again(nn.Module):
    """One activation function behind three layers, as ResNets have it; a part that gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 5)
        self.act = nn.ReLU()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        maps = self.act(self.b(self.act(self.a(x))))
        high, low = self.pair(maps)
        return self.act(self.c((high - low).flatten(1)))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.amax((2, 3)), x.amin((2, 3))


def test_a_module_that_is_called_again_is_read_at_each_call() -> None:
    torch.manual_seed(0)
    module = Again()
    network = Network(module, 12)
    assert [network.layers[name] for name in ("act", "act.call2", "act.call3")] == [(4, 10, 10), (6, 8, 8), (5,)]
    assert network.survey.calls["act"] == 3 and network.survey.calls["a"] == 1
    images = torch.rand(2, 3, 12, 12)
    x = (images - 0.5) / 0.5
    with torch.no_grad():
        first = module.a(x).relu()
        second = module.b(first).relu()
    read = network.features(images, ["act", "act.call2"])
    torch.testing.assert_close(read["act"], first)
    torch.testing.assert_close(read["act.call2"], second)
    fast = network.fast(["act.call2"]).features(images, ["act.call2"])
    torch.testing.assert_close(fast["act.call2"], second, rtol=1e-4, atol=1e-5)
    image = torch.rand(1, 3, 12, 12)
    expected = network.features(image, ["act.call2"])["act.call2"][0, 3].mean()
    assert ablate(network, image, "act.call2:3", size=6, stride=6).activation == pytest.approx(
        float(expected), rel=1e-4
    )


def test_a_part_that_gives_several_tensors_is_never_read_by_its_plain_name() -> None:
    network = Network(Again(), 12)
    with pytest.raises(DgnError, match=r"layer 'pair'.*several tensors.*pair\.output\.0 \[6\], pair\.output\.1 \[6\]"):
        parse_units("pair:1", network)
    images = torch.rand(2, 3, 12, 12)
    read = network.features(images, ["act.call2", "pair.output.1"])
    torch.testing.assert_close(read["pair.output.1"], read["act.call2"].amin((2, 3)))


def named(*names: str) -> Network:
    return Network(nn.Sequential(nn.Conv2d(3, len(names), 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8,
                   class_names=names)  # fmt: skip


def test_names_that_look_like_something_else() -> None:
    odd = named("a - b", "a", "b", "log(a)", "0.5*a", "x@center", "0:1", "all", "1-2", "-a", "c + d", "0.5*a - b")
    for index, name in enumerate(odd.class_names):
        if name == "0:1":  # also unit 1 of layer 0
            continue
        (unit,) = parse_units(name, odd)
        assert unit.class_index == index and unit.name == name, name
        assert dgn.select_units(name, odd) == [unit]
    with pytest.raises(DgnError, match=r"name of class 6 and a unit of a layer: write output:6"):
        parse_units("0:1", odd)
    (unit,) = parse_units("2*a - b - 0.5*c + d", odd)
    assert unit.terms == (Term("output", 0, None, 2.0), Term("output", 10, None, -0.5))


def test_names_that_are_digits_are_never_taken_for_an_index() -> None:
    same = named("0", "1", "2")
    assert parse_units(["1", 2], same)[1].class_index == 2
    shifted = named("1", "2", "7")
    for given in ("1", 1, "7", 7):
        with pytest.raises(DgnError, match=r"write output:\d for the index, '\d \(\d\)' for the name"):
            parse_units(given, shifted)
    assert parse_units(["7 (2)", "output:1", "0"], shifted)[0].class_index == 2
    assert [unit.class_index for unit in parse_units(["7 (2)", "output:1", "0"], shifted)] == [2, 1, 0]


def test_all_units_of_networks_with_odd_names() -> None:
    assert len(dgn.select_units("output:all", named("1", "2", "7"))) == 3


class Shadows(nn.Module):
    """Modules that are called as dgn calls what has no module: ``output``, ``pair.output``, ``again.call2``."""

    def __init__(self, *, several: bool = False) -> None:
        super().__init__()
        self.output = nn.Linear(4, 6)
        self.again = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), call2=nn.ReLU()))
        self.several = several

    def forward(self, x: Tensor) -> Any:
        y = self.again(x.mean((2, 3)))
        y = self.output(self.again(y[:, :3]))
        return (y * 2, y * 3) if self.several else y * 2


def test_modules_that_are_called_as_outputs_are() -> None:
    torch.manual_seed(0)
    network = Network(Shadows(), 8)
    images = torch.rand(2, 3, 8, 8)
    read = network.features(images, ["output", "output.call1"])
    torch.testing.assert_close(read["output"], 2 * read["output.call1"])
    assert list(network.layers)[-1] == "output"
    both = network.features(images, ["again.call2", "again.call2_", "again.first.call2"])
    assert network.seen("again.call2").module == "again.call2" and network.seen("again.call2_").call.number == 2
    torch.testing.assert_close(both["again.call2_"], both["again.first.call2"].relu())
    with pytest.raises(DgnError, match=r"several tensors: name one of output\.0 \[6\], output\.1 \[6\]"):
        parse_units("1", Network(Shadows(several=True), 8))


def test_as_many_names_as_outputs() -> None:
    short = named("a", "b", "c")
    short.class_names = ("a", "b")
    for read in (
        lambda: parse_units("b", short), lambda: dgn.select_units("b*", short), lambda: dgn.find_classes(short, "b")
    ):  # fmt: skip
        with pytest.raises(DgnError, match="2 class names for 3 outputs"):
            read()
    assert parse_units("1", short)[0].class_index == 1
