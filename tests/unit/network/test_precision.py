"""bf16: the fused convolutions' values and gradients, and when it is chosen."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_generator
from safetensors.torch import load_file
from torch import Tensor, nn
from watched import Watched, watched_prior

import dgn
from dgn.ascent.objectives import Objective, pieces
from dgn.ascent.settings import AscentSettings
from dgn.cli.main import main
from dgn.network.fast.convolution import Convolution
from dgn.network.fast.precision import autocast, choose, resolve
from dgn.network.network import Network
from dgn.priors.deep import GeneratorPrior
from dgn.priors.fourier import FourierPrior, MacoPrior
from dgn.priors.pixel import PixelPrior
from dgn.synthesis.plan import plan
from dgn.units.units import parse_units

CPU = torch.device("cpu")


@pytest.mark.skipif(not torch.cpu._is_avx512_supported(), reason="without AVX512 PyTorch's own bf16 is asked")
@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.7, 0.7), None])
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
    assert float((slope - gradient).norm()) < 0.1 * float(gradient.norm())  # some cross a bound by rounding


@pytest.mark.filterwarnings("ignore:TF32")  # which these flags are about, too
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.35, 0.35)])
def test_pytorchs_own_kernels_give_the_modules_values(act: nn.Module, precision: str) -> None:
    """Where oneDNN is not asked, as on a GPU: cast once, activated in place, and what is clipped gets no gradient."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), act, nn.Conv2d(8, 4, 3, stride=2), nn.Identity())
    network = Network(module, 17)
    with torch.backends.mkldnn.flags(enabled=False):
        fast = network.fast(["output"])
    images = torch.rand(2, 3, 17, 17)
    found = []
    for one in (network, fast, copy.deepcopy(fast)):
        x = images.clone().requires_grad_()
        for _ in range(2):  # the second time what was cast is at hand
            with autocast(CPU, precision), torch.backends.mkldnn.flags(enabled=False):
                y = one(x)
                slope = torch.autograd.grad(y.float().square().sum(), x)[0]
        found.append((y.detach(), slope))
    kernels = [part.plans for part in fast.module.modules() if isinstance(part, Convolution)]
    assert kernels and not any(kernels)  # of oneDNN's
    for values, slope in found[1:]:
        torch.testing.assert_close(values, found[0][0])
        torch.testing.assert_close(slope, found[0][1])


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


def test_generators_climb_in_float32(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    """Rounded gradients cost their ascents a thirtieth of the activation; who asks for bf16 gets it."""
    processor(monkeypatch, amx=True, avx512=True)
    chosen = {}
    for prior in (GeneratorPrior(small_generator()), PixelPrior(16), FourierPrior(16), MacoPrior(16)):
        asked = plan(network, "ant", prior, precision="bf16").settings.precision
        chosen[prior.name] = (plan(network, "ant", prior).settings.precision, asked)
    assert chosen.pop("dgn") == ("fp32", "bf16") and len(chosen) == 3
    assert set(chosen.values()) == {("bf16", "bf16")}


def test_a_plan_says_which(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    """So that the manifest does, and a run that another processor continues is another run."""
    processor(monkeypatch, amx=False, avx512=True)
    assert plan(network, "ant", PixelPrior(16)).settings.precision == "bf16"
    assert plan(network, "ant", PixelPrior(16), precision="fp32").settings.precision == "fp32"
    processor(monkeypatch, amx=False, avx512=False)
    assert plan(network, "ant", PixelPrior(16)).settings.precision == "fp32"


class Stern(torch.autograd.Function):
    """Its gradient takes float32 alone."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        assert g.dtype == torch.float32
        return g


class Odd(nn.Module):
    """Does something with its convolution's output that bf16 does not bear."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((2, 3))
        if self.kind == "nan":
            return y / (y.dtype == torch.float32)
        if self.kind == "no slope":
            return Stern.apply(y)  # type: ignore[no-any-return,no-untyped-call]
        if self.kind == "numpy":
            return y + torch.from_numpy(y.detach().numpy().copy())
        return y.sin() if self.kind == "plain" else (1e4 * y).sin()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("plain", "bf16"), ("numpy", "fp32"), ("steep", "fp32"), ("nan", "fp32"), ("no slope", "fp32")],
)
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


def test_bf16_is_for_convolutions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it is known to be slower, or not known to be faster; AMX is fast anywhere."""
    processor(monkeypatch, amx=False, avx512=True)
    plain = Network(nn.Sequential(nn.Flatten(), nn.Linear(27, 4)), 3)
    strided = nn.Conv2d(8, 8, 3, stride=2, groups=8, padding=1, padding_mode="reflect")
    slow = Network(nn.Sequential(nn.Conv2d(3, 8, 3), strided), 9)
    assert choose(plain, ["output"]) == "fp32" and choose(slow, ["output"]) == "fp32"
    assert choose(plain, ["output"], "bf16") == "bf16"
    processor(monkeypatch, amx=True, avx512=True)
    fresh = Network(nn.Sequential(nn.Flatten(), nn.Linear(27, 4)), 3)
    assert choose(fresh, ["output"]) == "bf16"


def test_a_search_without_gradients_ranks_in_float32(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    processor(monkeypatch, amx=False, avx512=True)
    settings = {"rule": "cmaes", "population": 4}
    assert plan(network, "ant", PixelPrior(16), **settings).settings.precision == "fp32"
    assert plan(network, "ant", PixelPrior(16), precision="bf16", **settings).settings.precision == "bf16"


@pytest.mark.parametrize("prior", ["pixel", "fourier", "maco"])
@pytest.mark.parametrize("transforms", [[], ["blur"], ["brightness"], ["rotate"], ["shift", "blur"]])
def test_images_larger_than_the_input_climb(prior: str, transforms: list[str], network: Network) -> None:
    """An antialiased reduction has no kernel for bf16."""
    written = {"pixel": PixelPrior, "fourier": FourierPrior, "maco": MacoPrior}[prior](24)
    seen = []
    found = dgn.synthesize(
        network, "ant", written, steps=4, transforms=transforms, jitter=0.0, scale=0.0, noise=0.0, precision="bf16",
        on_step=lambda *given: seen.append(given[3].dtype),
    )  # fmt: skip
    assert set(seen) == {torch.float32} and bool(found.history.isfinite().all())


def test_likeness_is_measured_in_float32(network: Network) -> None:
    """Cosines near 1 differ by less than bf16 can say."""
    units = parse_units(["ant"] * 3, network)
    settings = AscentSettings(precision="bf16", diversity=2.0, diversity_layer="late")
    objective = Objective(network, units, range(3), settings, CPU)
    x = 0.5 + 0.01 * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    climbed = objective(x, x, x).climbed
    with autocast(CPU, "bf16"):
        features = objective.network.features(x, objective.layers)
    assert features["late"].dtype == torch.bfloat16
    maps = features["late"].double().flatten(2)
    grams = torch.nn.functional.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
    others = ((grams @ grams.T).sum(1) - 1) / 2
    expected = features["output"].float()[:, units[0].class_index] - 2 * others
    torch.testing.assert_close(climbed.detach().double(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_a_job_goes_on_in_the_precision_that_it_began_in(
    watched: type[Watched], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: list[str], exported: Path
) -> None:
    """On another processor: the same folder, the same job, the same bits."""
    monkeypatch.chdir(tmp_path)
    job = ["synthesize", *small, "units=[0,1,2]", "prior=pixel", *watched_prior(), "ascent.steps=3", "batch=1"]
    job += ["tracking=off", "progress=false", "threads=1"]
    job += ["out=run"]
    processor(monkeypatch, amx=True, avx512=True)
    watched.interrupts(2)
    assert main(job) == 130
    watched.reset()
    processor(monkeypatch, amx=False, avx512=False)
    assert main(job) == 0 and watched.begun == [[0]] * 2
    assert json.loads(Path("run/manifest.json").read_text())["ascent"]["pixel"]["precision"] == "bf16"
    network, codes = dgn.load_network(str(exported), trust=True), load_file("run/codes.safetensors")["pixel"]
    for precision in ("bf16", "fp32"):
        alone = dgn.synthesize(network, [0, 1, 2], PixelPrior(16), steps=3, batch=1, precision=precision)
        same = [torch.equal(code, other) for code, other in zip(codes, alone.codes, strict=True)]
        assert same == [precision == "bf16"] * 3
