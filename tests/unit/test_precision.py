"""bf16: the fused convolutions' values and gradients, and when it is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dgn
from dgn.ascent.objectives import pieces
from dgn.convolution import Convolution
from dgn.network import Network
from dgn.precision import autocast, choose, resolve
from dgn.priors.pixel import PixelPrior
from dgn.settings import AscentSettings
from dgn.synthesis import plan

CPU = torch.device("cpu")


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 on this processor")
@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6(), None])
@pytest.mark.parametrize(
    "geometry",
    [{"kernel_size": 1}, {"kernel_size": 3, "padding": 1}, {"kernel_size": 3, "stride": 2, "padding": 1},
     {"kernel_size": 3, "padding": 1, "groups": 8}, {"kernel_size": 5, "stride": 2, "padding": 2, "groups": 8},
     {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2}, {"kernel_size": 3, "padding": 2, "dilation": 2}],
)  # fmt: skip
def test_values_and_gradients_are_those_of_float32(geometry: dict[str, Any], act: nn.Module | None) -> None:
    torch.manual_seed(2)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, **geometry), nn.BatchNorm2d(8), act or nn.Identity()
    )
    network = Network(module, 23)
    fast = network.fast(["output"])
    assert sum(isinstance(part, Convolution) for part in fast.module.modules()) == 2
    images = torch.rand(2, 3, 23, 23)

    def look(one: Network, precision: str) -> tuple[Tensor, Tensor]:
        x = images.clone().requires_grad_()
        with autocast(CPU, precision):
            y = one(x)
        weights = torch.linspace(0.5, 1.5, y.numel()).view_as(y)
        return y.detach(), torch.autograd.grad((y * weights).sum(), x)[0]

    values, gradient = look(network, "fp32")
    found, slope = look(fast, "bf16")
    assert found.dtype == torch.bfloat16 and slope.dtype == torch.float32
    assert float((found.float() - values).norm()) < 0.02 * float(values.norm())
    assert float((slope - gradient).norm()) < 0.05 * float(gradient.norm())


def processor(monkeypatch: pytest.MonkeyPatch, *, amx: bool, avx512: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)


@pytest.mark.parametrize(
    ("amx", "avx512", "climbs", "trains"),
    [(False, False, "fp32", "fp32"), (False, True, "bf16", "fp32"), (True, True, "bf16", "bf16")],
)
def test_auto_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, climbs: str, trains: str
) -> None:
    processor(monkeypatch, amx=amx, avx512=avx512)
    assert resolve(CPU) == climbs and resolve(CPU, trains=True) == trains
    assert resolve(CPU, "fp32") == "fp32" and resolve(CPU, "bf16") == "bf16"


def test_a_plan_says_which(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    """So that the manifest does, and a run that another processor continues is another run."""
    processor(monkeypatch, amx=False, avx512=True)
    assert plan(network, "ant", PixelPrior(16)).settings.precision == "bf16"
    assert plan(network, "ant", PixelPrior(16), precision="fp32").settings.precision == "fp32"
    processor(monkeypatch, amx=False, avx512=False)
    assert plan(network, "ant", PixelPrior(16)).settings.precision == "fp32"


class Odd(nn.Module):
    """Does something with its convolution's output that bf16 does not bear."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((2, 3))
        if self.kind == "numpy":
            return y + torch.from_numpy(y.detach().numpy().copy())
        return y.sin() if self.kind == "plain" else (1e4 * y).sin()


@pytest.mark.parametrize(("kind", "expected"), [("plain", "bf16"), ("numpy", "fp32"), ("steep", "fp32")])
def test_a_network_that_bf16_does_not_suit_climbs_in_float32(
    monkeypatch: pytest.MonkeyPatch, kind: str, expected: str
) -> None:
    processor(monkeypatch, amx=False, avx512=True)
    torch.manual_seed(0)
    network = Network(Odd(kind), 9)
    assert choose(network, ["output"]) == expected
    found = dgn.synthesize(network, "output:1", PixelPrior(9), steps=2)
    assert bool(found.history.isfinite().all())


def test_a_piece_holds_twice_as_many_in_half_precision(network: Network) -> None:
    rows = [len(range(*piece.indices(10**9))) for precision in ("fp32", "bf16")
            for piece in pieces(network, 10**9, AscentSettings(precision=precision), CPU)[:1]]  # fmt: skip
    assert rows[1] == pytest.approx(2 * rows[0], rel=0.01)
