"""What a covered patch takes from a unit, against one image at a time."""

from __future__ import annotations

import pytest
import torch
from conftest import rest_slow
from torch import Tensor, nn

from dgn.analysis.ablation import ablate
from dgn.network.network import Network
from dgn.units.read import Reader
from dgn.units.unit import Unit
from dgn.units.units import parse_units


class Deep(nn.Module):
    """Strides, dilation, pooling and a residual block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
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
        return self.head(torch.tanh(self.late(self.down(first + self.body(first))).mean((2, 3))))


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


@pytest.mark.parametrize("spec", rest_slow(["3", "late:2", "late:2@1,2", "2 - 0.5*late:1"], "late:2@1,2"))
def test_drops_are_those_of_single_images(spec: str) -> None:
    """Also after the weights have changed."""
    network = Network(Deep(), 64)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    (unit,) = parse_units(spec, network)
    for _ in range(2):
        counts: list[int] = []
        found = ablate(network, image, unit, size=6, stride=4, batch=5, note=lambda done, _total: counts.append(done))
        expected = brute(network, image, unit, 6, 4)
        inside = found.drops[: expected.shape[0], : expected.shape[1]]
        assert counts[-1] == found.drops.numel() and counts == sorted(counts)
        assert torch.allclose(inside, expected, atol=2e-6) and float(expected.abs().max()) > 1e-3
        network.module.get_submodule("late").weight.mul_(-1)
