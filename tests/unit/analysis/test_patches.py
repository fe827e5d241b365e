"""What a patch can't change isn't computed: cuts and crops against the plain forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dgn.analysis.ablation import patches
from dgn.analysis.ablation.ablation import ablate
from dgn.analysis.ablation.cuts import Cut, changed, choose_cuts, needed
from dgn.analysis.ablation.search import find_cuts
from dgn.network.network import Network
from dgn.units.read import Reader
from dgn.units.unit import Unit
from dgn.units.units import parse_units


class Deep(nn.Module):
    """Strides, dilation, pooling and a residual block; the skip makes its inside no place to cut."""

    def __init__(self, *, skip: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.skip = skip
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 12, 5, 2, 2), nn.MaxPool2d(3, 1, 1), nn.SiLU())
        self.late = nn.Conv2d(12, 16, 3, 2, 1)
        self.head = nn.Linear(16, 7)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.2, 0.2), part.running_var.uniform_(0.3, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        y = first + self.body(first)
        y = self.late(self.down(y)).mean((2, 3))
        if self.skip:  # the output looks at the image too
            y = y + x.mean((1, 2, 3))[:, None] * 0.1
        return self.head(torch.tanh(y))


def brute(network: Network, image: Tensor, unit: Unit, size: int, stride: int) -> Tensor:
    """The drops, one image at a time."""
    read = Reader(network, [unit])
    whole = read(network.features(image[None], unit.layers))
    rows = []
    for top in range(0, image.shape[1] - size + 1, stride):
        row = []
        for left in range(0, image.shape[2] - size + 1, stride):
            covered = image.clone()
            covered[:, top : top + size, left : left + size] = 0.5
            row.append(float(whole - read(network.features(covered[None], unit.layers))))
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("spec", ["3", "late:2", "late:2@1,2", "2 - 0.5*late:1"])
@pytest.mark.parametrize("threads", [1, 3])
def test_crops_equal_whole_images(spec: str, threads: int) -> None:
    network = Network(Deep(), 64)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    (unit,) = parse_units(spec, network)
    torch.set_num_threads(threads)
    counts: list[int] = []
    found = ablate(network, image, unit, size=6, stride=4, batch=5, note=lambda done, total: counts.append(done))
    assert torch.get_num_threads() == threads
    expected = brute(network, image, unit, 6, 4)[: found.drops.shape[0], : found.drops.shape[1]]
    inside = found.drops[: expected.shape[0], : expected.shape[1]]
    assert found.how == "crops" and counts[-1] == found.drops.numel() and counts == sorted(counts)
    assert torch.allclose(inside, expected, atol=2e-6) and float(expected.abs().max()) > 1e-3


def test_what_looks_past_the_cut_is_computed_whole() -> None:
    network = Network(Deep(skip=True), 64)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = ablate(network, image, 3, size=6, stride=4)
    assert found.how == "whole images" and [cut.layer for cut in find_cuts(network, ["output"])[0]] == [""]
    (unit,) = parse_units(3, network)
    expected = brute(network, image, unit, 6, 4)
    assert torch.allclose(found.drops[: len(expected), : len(expected)], expected, atol=2e-6)


def test_a_wrong_cut_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If what was found out of a network is wrong, the check of each image says so and the result is right."""
    network = Network(Deep(), 64)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    good = ablate(network, image, 3, size=6, stride=4)

    def narrow(*_: object) -> tuple[list[Cut], float]:
        cuts, rest = find_cuts(network, ["output"])
        return [cuts[0], *(Cut(c.layer, c.channels, c.shape, c.stride, cost=c.cost) for c in cuts[1:])], rest

    network.known.clear()
    monkeypatch.setattr(patches, "find_cuts", narrow)
    other = ablate(network, image, 3, size=6, stride=4)
    assert good.how == "crops" and other.how == "whole images"
    assert torch.allclose(good.drops, other.drops, atol=2e-6)


def test_changed_weights_are_noticed() -> None:
    network = Network(Deep(), 64)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    ablate(network, image, 3, size=6, stride=4)
    network.module.get_submodule("late").weight.mul_(-1)
    (unit,) = parse_units(3, network)
    expected = brute(network, image, unit, 6, 4)
    found = ablate(network, image, 3, size=6, stride=4)
    assert torch.allclose(found.drops[: len(expected), : len(expected)], expected, atol=2e-6)


def test_cuts_see_what_the_layers_say() -> None:
    cuts, _ = find_cuts(Network(Deep(), 64), ["output"])
    named = {cut.layer: cut for cut in cuts}
    assert "body" not in named  # the residual sum reads what lies before it
    stem = named["stem"]
    assert (stem.stride, stem.pad, stem.field) == ((2, 2), (1, 1), (3, 3))
    down = named["down"].behind(named["down.0"])
    # of the stem's output: dilated 3 x 3 (field 5), then 5 x 5 with stride 2, then pooling 3 x 3
    assert (down.stride, down.pad, down.field) == ((2, 2), (6, 6), (13, 13))
    assert changed(stem, 0, (10, 16)) == (5, 9) and needed(stem, cuts[0], 0, (5, 9)) == (8, 18)
    chain, gain = choose_cuts(cuts, 1e9, ([(0, 6)], [(0, 6)]))
    assert chain and gain < 1.1  # where the rest costs all, nothing can be saved
