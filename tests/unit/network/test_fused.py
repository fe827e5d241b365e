"""The ascent's faster copy of a network: the same numbers under the same names, whatever the module does."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import NAMES, Repeated, SmallCNN, WideCNN, rest_slow, small_generator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import dgn
from dgn.ascent.loop import Ascent
from dgn.ascent.settings import AscentSettings
from dgn.cli.bar import Bar
from dgn.cli.tracking import Tracker
from dgn.network.fast.convolution import Convolution
from dgn.network.fast.fused import find_groups, fuse
from dgn.network.fast.readback import Readback
from dgn.network.network import Network
from dgn.network.sources import load_network
from dgn.priors.deep import GeneratorPrior
from dgn.priors.pixel import PixelPrior
from dgn.units.units import parse_units


def fused_parts(network: Network) -> list[str]:
    return [name for name, part in network.module.named_modules() if isinstance(part, Convolution)]


def statistics(module: nn.Module) -> nn.Module:
    """BatchNorms that do something."""
    generator = torch.Generator().manual_seed(5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            for tensor, low in (
                (part.running_mean, -0.5),
                (part.running_var, 0.5),
                (part.weight, 0.5),
                (part.bias, -0.5),
            ):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return module


def both(network: Network, layers: list[str], images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Values and gradients, of the network itself and of its faster copy."""
    found = []
    for one in (network, network.fast(layers)):
        x = images.clone().requires_grad_()
        read = one.features(x, layers)
        weights = [torch.linspace(0.5, 1.5, value.numel()).view_as(value) for value in read.values()]
        total = sum((value * weight).sum() for value, weight in zip(read.values(), weights, strict=True))
        found.append([*(read[layer] for layer in layers), torch.autograd.grad(total, x)[0]])
    return list(zip(*found, strict=True))


NETWORKS = ["timm/test_resnet", "timm/test_efficientnet", "torchvision/mobilenet_v2"]


@pytest.mark.parametrize("name", rest_slow(NETWORKS, *NETWORKS[:2]))
def test_every_layer_has_its_own_value(name: str) -> None:
    """Read one at a time, as units are, and with a gradient."""
    torch.manual_seed(0)
    network = load_network(name, weights="none", input_size=37)
    statistics(network.module)
    assert len(fused_parts(network.fast(["output"]))) > 5
    images = torch.rand(2, 3, 37, 37)
    layers = list(network.layers)
    for layer in [*layers[:24], *layers[-8:]]:
        for expected, found in both(network, [layer], images):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.detach().abs().max()))


def test_a_layer_inside_a_group_leaves_that_group_alone(cnn: SmallCNN) -> None:
    network = Network(statistics(cnn), 16)
    assert "block.conv" in fused_parts(network.fast(["output"]))
    parts = dict(network.fast(["block.conv"]).module.named_modules())
    assert isinstance(parts["block.norm"], nn.BatchNorm2d) and isinstance(parts["stem"], Convolution)
    images = torch.rand(2, 3, 16, 16)
    for expected, found in both(network, ["block.conv", "block.norm", "late", "output"], images):
        torch.testing.assert_close(found, expected)


class Odd(nn.Module):
    """Each of its convolutions gives something that a fused one could not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.norm, self.act = kind, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6()
        self.hidden = [self.conv] if kind == "hidden" else []
        if kind == "batch statistics":
            self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "hidden":
            return self.act(self.norm(self.hidden[0](x)))
        y = self.conv(x)
        z = self.norm(y)
        if self.kind == "read twice":
            return self.act(z) + y
        if self.kind == "norm read twice":
            return self.act(z) - z
        if self.kind == "value read":
            return self.act(z) * y.detach().mean().item()
        if self.kind == "changed in place":
            return self.act(z).mul_(-1)
        if self.kind == "conv twice":
            return self.act(z) + self.act(self.norm(self.conv(x.flip(3))))
        if self.kind == "activated twice":
            first = self.act(z)
            first.sub_(0.3)
            return self.act(first)
        return self.act(z)


@pytest.mark.parametrize(
    "kind",
    ["plain", "hidden", "batch statistics", "read twice", "norm read twice", "value read", "changed in place",
     "conv twice", "activated twice"],
)  # fmt: skip
def test_odd_modules_give_what_they_give(kind: str) -> None:
    torch.manual_seed(1)
    network = Network(statistics(Odd(kind)), 9)
    for expected, found in both(network, ["output"], torch.rand(2, 3, 9, 9)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.2, 0.7), nn.SiLU(), None])
@pytest.mark.parametrize(
    "geometry",
    [{"kernel_size": 1}, {"kernel_size": 3, "padding": 1}, {"kernel_size": 3, "stride": 2, "padding": 1},
     {"kernel_size": 3, "padding": 1, "groups": 4}, {"kernel_size": 5, "stride": 2, "padding": 2, "groups": 4},
     {"kernel_size": 3, "padding": 2, "dilation": 2}, {"kernel_size": (1, 3), "padding": (0, 3)},
     {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, {"kernel_size": 3, "padding": "same", "bias": False}],
)  # fmt: skip
def test_values_and_gradients_of_every_geometry(geometry: dict[str, Any], act: nn.Module | None) -> None:
    torch.manual_seed(2)
    first = nn.Conv2d(3, 8, 1)
    module = nn.Sequential(first, nn.Conv2d(8, 8, **geometry), nn.BatchNorm2d(8), act or nn.Identity())
    network = Network(statistics(module), 11)
    assert len(fused_parts(network.fast(["output"]))) >= 1
    for expected, found in both(network, ["output"], torch.rand(2, 3, 11, 11)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7, (3, 4)])
@pytest.mark.parametrize("padding", [0, 1, (0, 1)])
@pytest.mark.parametrize("size", [13, 14, 16])
def test_strides_on_images(kernel: Any, padding: Any, size: int) -> None:
    """The first layer's gradient."""
    torch.manual_seed(3)
    kernels = (kernel, kernel) if isinstance(kernel, int) else kernel
    module = nn.Sequential(nn.Conv2d(3, 5, kernels, stride=2, padding=padding), nn.BatchNorm2d(5), nn.ReLU())
    network = Network(statistics(module), (size, size + 1))
    for expected, found in both(network, ["output"], torch.rand(2, 3, size, size + 1)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_without_onednns_functions_pytorch_convolves(tmp_path: Path) -> None:
    """They are private and may go: dgn is imported without them, and the fused copy gives the same numbers."""
    script = tmp_path / "without.py"
    script.write_text("""
import types
import torch
torch.ops.mkldnn = types.SimpleNamespace()
import dgn
from dgn.network.fast.convolution import NATIVE, Convolution
from dgn.network.fast.precision import choose
torch.manual_seed(0)
nn = torch.nn
network = dgn.Network(nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)), 16)
fast = network.fast(["output"])
assert not NATIVE and sum(isinstance(part, Convolution) for part in fast.module.modules()) == 2
x = torch.rand(2, 3, 16, 16, requires_grad=True)
found = [(y.detach(), torch.autograd.grad(y.square().sum(), x)[0]) for y in (network(x), fast(x))]
torch.testing.assert_close(*found)
torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported = lambda: True, lambda: False
assert choose(network, ["output"]) == "fp32"
assert bool(dgn.synthesize(network, ["output:1@1,1"], "pixel", steps=3).history.isfinite().all())
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_changed_weights_and_hooks_are_seen(cnn: SmallCNN) -> None:
    network = Network(statistics(cnn), 16)
    images = torch.rand(1, 3, 16, 16)
    before = network.fast(["output"])(images)
    network.module.block.norm.bias.add_(1)
    torch.testing.assert_close(network.fast(["output"])(images), network(images))
    assert not torch.allclose(before, network(images))
    handle = network.module.stem.register_forward_hook(lambda _m, _i, y: y * 0)
    assert network.fast(["output"]) is network
    handle.remove()
    assert network.fast(["output"]) is not network


def test_a_copy_made_without_gradients_has_them_later(cnn: SmallCNN) -> None:
    """Region ablation asks in inference mode; an ascent through the same copy comes afterwards."""
    network, images = Network(statistics(cnn), 32), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        fast = network.fast(["output"])
        assert fused_parts(fast)
        torch.testing.assert_close(fast(images), network(images), rtol=1e-4, atol=1e-5)
    for value, same in both(network, ["output"], images):
        torch.testing.assert_close(same, value, rtol=1e-3, atol=1e-4)
    assert network.fast(["output"]).module is fast.module


def test_networks_are_copied_and_pickled_as_before(cnn: SmallCNN) -> None:
    network = Network(statistics(cnn), 16)
    images = torch.rand(1, 3, 16, 16)
    expected = network.fast(["output"])(images)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        torch.testing.assert_close(again.fast(["output"])(images), expected)


def test_the_module_itself_stays_as_it_is(cnn: SmallCNN) -> None:
    network = Network(statistics(cnn), 16)
    state = copy.deepcopy(network.module.state_dict())
    names = [name for name, _ in network.module.named_modules()]
    network.fast(["output"])(torch.rand(1, 3, 16, 16))
    assert names == [name for name, _ in network.module.named_modules()]
    assert all(torch.equal(state[key], value) for key, value in network.module.state_dict().items())
    copied = fuse(network.module, find_groups(network.module, torch.rand(1, 3, 16, 16)))
    assert copied.head.weight.data_ptr() == network.module.head.weight.data_ptr()  # what doesn't change is shared


@pytest.mark.parametrize("change", [{}, {"views": 2}, {"penalties": ["lp"]}, {"keep": "best"}, {"epsilon3": 1e-3}])
def test_pieces_climb_as_the_whole_does(change: dict[str, Any], cnn: SmallCNN) -> None:
    """Samples with seeds of their own and in common, whatever the cut: the same draws, the same way up."""
    units = ["ant", "stem:3", "late:1@1,2", "block:*", "0.5*bee - stem:1"]
    options = {"prior": PixelPrior(16), "steps": 6, "seeds": [0, 3], "jitter": 0.1, "noise": 0.05, "precision": "fp32"}
    seen: list[tuple[int, Tensor]] = []
    found, largest = [], []

    def watch(images: Tensor, draws: Any) -> Tensor:
        largest[-1] = max(largest[-1], len(images))
        return images

    for module in (cnn, WideCNN(3, cnn), WideCNN(1, cnn)):
        network = Network(module, 16, class_names=NAMES)
        largest.append(0)
        noted = {"on_step": lambda i, _n, _a, x: seen.append((i, x)), "transforms": ["shift", watch]}
        found.append(dgn.synthesize(network, units, **noted, **options, **change))
    assert largest == ([20, 4, 2] if "views" in change else [10, 3, 1])
    for other in found[1:]:
        torch.testing.assert_close(other.images, found[0].images, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.history, found[0].history, rtol=1e-4, atol=1e-4)
    assert [step for step, _ in seen] == [*range(6)] * 3 and {len(images) for _, images in seen} == {10}
    torch.testing.assert_close(seen[5][1], seen[17][1], rtol=1e-4, atol=1e-4)


class Torn(nn.Module):
    """What a unit's gradient is depends on the piece, here of one sample: none at all where it is darker than grey."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = Repeated(round(30e6 / 4))

    def forward(self, x: Tensor) -> Tensor:
        self.wide(x)
        return (x.detach() if float(x.detach().mean()) < 0 else x).mean((1, 2, 3))[:, None]


def test_a_piece_without_a_gradient_stops_alone() -> None:
    start = torch.stack([torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), 0.6)])
    result = dgn.synthesize(Network(Torn(), 8), [0], PixelPrior(8), seeds=[0, 1], start=start, steps=4)
    assert result.frozen_at.tolist() == [0, -1] and torch.equal(result.images[0], start[0])
    assert float(result.images[1].mean()) > 0.6


class NoLooking(TorchDispatchMode):
    """Fails where the host asks for a tensor's value: it would wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name
        assert name not in {"aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::is_nonzero"}, name
        return func(*args, **(kwargs or {}))


SETTINGS: list[dict[str, Any]] = [
    {}, {"rule": "nguyen2016", "decay": 0.9}, {"keep": "best", "views": 2}, {"jitter": 0.1, "scale": 0.1, "noise": 0.1},
    {"transforms": ["pad", "shift", "scale", "rotate", "crop", "blur", "noise", "brightness", "contrast"]},
    {"penalties": ["lp", "total_variation", "code_l2"]}, {"centre_mask": 0.2, "centre_from": 0.5},
    {"between": [{"blur": {"every": 1}}]}, {"lr_end": 0.01, "epsilon3": 1e-3},
]  # fmt: skip


@pytest.mark.parametrize("change", SETTINGS, ids=lambda change: "-".join(change) or "default")
@pytest.mark.parametrize("prior", ["pixel", "generator"])
def test_a_step_waits_for_nothing(prior: str, change: dict[str, Any], network: Network) -> None:
    if prior == "generator":
        written: Any = GeneratorPrior(small_generator())
        change = {key: value for key, value in change.items() if key != "between"}
    else:
        written = PixelPrior(16)
    units = parse_units(["ant", "late:1", "stem:2@center", "0.5*bee - ant", "p(ant)", "block:*"], network)
    units.append(dgn.direction(network, "late", range(12), cosine=2))
    settings = AscentSettings(steps=4).with_changes(change)
    seeds = range(len(units))
    start = written.start(len(units), list(seeds))
    Ascent(network, units, written, settings, list(seeds)).climb(start)  # what is made once may look
    with NoLooking():
        Ascent(network, units, written, settings, list(seeds)).climb(start)


class Curves:
    """Takes a tracker's place."""

    on = True

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float], bool]] = []

    def curves(self, _prefix: str, step: int, values: dict[str, float], *, keep: bool) -> None:
        self.logged.append((step, values, keep))


def test_a_step_that_is_shown_and_logged_waits_for_nothing(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar's numbers are those of the steps, read when they have come: here two steps later, and at the end."""
    now, unread = 0, []

    class Slow(Readback):
        def __init__(self, values: Tensor) -> None:
            super().__init__(values)
            self.asked = now
            unread.append(self)

        @property
        def ready(self) -> bool:
            return now >= self.asked + 2

        def read(self) -> list[float]:
            assert self.ready or now >= 22, "nothing is waited for"
            unread.remove(self)
            return super().read()

    units, curves = parse_units(["ant", "bee"], network), Curves()
    history: list[list[float]] = []
    with Bar("pixel", [(unit, 0) for unit in units], True, curves, read=Slow) as bar:  # type: ignore[arg-type]

        def step(i: int, steps: int, activations: Tensor, images: Tensor) -> None:
            nonlocal now
            now = i + 1
            with NoLooking():
                bar.step(i, steps, activations, images)
            history.append(activations.tolist())
            assert len(unread) <= 2

        result = dgn.synthesize(network, units, PixelPrior(16), steps=22, precision="fp32", on_step=step)
    assert not unread and torch.equal(torch.tensor(history), result.history)
    assert [(at, keep) for at, _, keep in curves.logged] == [(0, False), (10, False), (20, False), (21, True)]
    for at, values, _ in curves.logged:
        ant, bee = history[at]
        assert values == {"mean": (ant + bee) / 2, "ant s0": ant, "bee s0": bee}
    assert f"activation={sum(history[-1]) / 2:.2f}" in capsys.readouterr().err


def test_a_step_that_nobody_sees_is_not_read(network: Network, tmp_path: Path) -> None:
    def read(_: Tensor) -> None:
        raise AssertionError("asked for")

    rows = [(unit, 0) for unit in parse_units(["ant", "bee"], network)]
    with Bar("pixel", rows, False, Tracker("off", tmp_path, {}), read=read) as bar, NoLooking():  # type: ignore[arg-type]
        for i in range(11):
            bar.step(i, 11, torch.zeros(2), torch.zeros(0))


def test_a_batch_that_is_cut_after_its_last_step_keeps_its_names(network: Network) -> None:
    """Memory may be full only when the images are looked at: the bar then sees the same rows again."""
    curves = Curves()
    rows = [(unit, seed) for unit in parse_units(["ant", "bee"], network) for seed in (0, 1)]
    with Bar("pixel", rows, False, curves) as bar:  # type: ignore[arg-type]
        bar.step(0, 1, torch.arange(4.0), torch.zeros(0))
        bar.again()
        for first in (0, 2):
            bar.step(0, 1, torch.arange(4.0)[first : first + 2], torch.zeros(0))
    names = {"ant s0": 0.0, "ant s1": 1.0, "bee s0": 2.0, "bee s1": 3.0}
    found = [(at, {key: value for key, value in values.items() if key != "mean"}) for at, values, _ in curves.logged]
    assert found == [(0, names), (0, dict(list(names.items())[:2])), (1, dict(list(names.items())[2:]))]


@pytest.mark.gpu
def test_a_readback_does_not_wait_for_the_gpu() -> None:
    values = torch.arange(5.0, device="cuda") * 2
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = Readback(values)
        assert found.ready in (True, False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.read() == [0.0, 2.0, 4.0, 6.0, 8.0] and found.ready


def test_bf16_and_float32_agree_within_a_percent(network: Network) -> None:
    """The same starts and transformations in the loop, seen in float32: apart by a hundredth of what units rise by."""
    names, seeds = ["ant", "bee", "sea urchin", "late:2", "late:5", "stem:3@center"], [0, 1, 2, 3]
    options = {"prior": PixelPrior(16), "steps": 30, "seeds": seeds, "jitter": 0.1, "noise": 0.02}
    full, half = (dgn.synthesize(network, names, precision=one, **options) for one in ("fp32", "bf16"))
    assert not torch.equal(full.history, half.history)
    rise = (full.activations - full.history[0]).view(-1, len(seeds)).mean(1)
    apart = (half.activations - full.activations).view(-1, len(seeds)).mean(1)
    assert bool((rise > 0.1).all())
    assert float(apart.abs().mean()) < 0.01 * float(rise.mean()), apart / rise
    assert bool((apart.abs() < 0.02 * rise).all()), apart / rise  # of a single small unit


def test_functional_activations_stay() -> None:
    """What is no module is not looked for, and not lost."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.norm(self.conv(x)), inplace=True)

    torch.manual_seed(0)
    network = Network(statistics(Functional()), 9)
    assert fused_parts(network.fast(["output"])) == ["conv"]
    for expected, found in both(network, ["output"], torch.rand(2, 3, 9, 9)):
        torch.testing.assert_close(found, expected)


def test_a_copy_for_another_thread_shares_its_kernels(cnn: SmallCNN) -> None:
    """Region ablation gives each thread its own module; kernels' weights are opaque to PyTorch and can't be copied."""
    network, images = Network(statistics(cnn), 32), torch.rand(2, 3, 32, 32)
    module = network.fast(["output"]).module
    with torch.no_grad():
        expected = module(network.prepare(images))  # fills the kernels' weights
        shared: dict[int, Any] = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
        twin = copy.deepcopy(module, shared)
        assert torch.equal(twin(network.prepare(images)), expected)
    pairs = [
        (one, other)
        for one, other in zip(module.modules(), twin.modules(), strict=True)
        if isinstance(one, Convolution) and isinstance(other, Convolution)
    ]
    assert pairs and all(one is not other and one.weight is other.weight for one, other in pairs)
