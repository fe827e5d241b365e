"""Networks that work alone work here: layouts, numbers, programs, norms, wrappers; and arguments of any kind."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

import dgn
from dgn.analysis.ablation import ablate, curves
from dgn.analysis.receptive import ReceptiveFields
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.priors import load_prior

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def cnn(channels: int = 3, classes: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )  # fmt: skip


class Views(nn.Module):
    """The classic: a view of maps, of each image or of each map."""

    def __init__(self, shape: Callable[[Tensor], tuple[int, ...]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shape, self.conv, self.norm, self.relu = shape, nn.Conv2d(3, 6, 5, 2), nn.BatchNorm2d(6), nn.ReLU()
        self.head = nn.Linear(6 * 14 * 14, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.conv(x)))
        return self.head(y.view(self.shape(y)).reshape(len(x), -1))


class Standardised(nn.Conv2d):
    """A view of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.view(self.weight.size(0), -1)
        return F.conv2d(x, self.weight - flat.mean(1)[:, None, None, None], self.bias)


class Wrap(nn.Module):
    def __init__(self, function: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.function = cnn(), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.inner, x)


class Keeps(Wrap):
    """Its last activation stays on it, and so does what can't be copied."""

    def forward(self, x: Tensor) -> Any:
        self.seen = {"block": [self.inner[:5](x)]}  # type: ignore[index]
        return self.inner(x)


def by(change: Callable[[nn.Sequential], object]) -> nn.Module:
    module = cnn()
    change(module)
    return module


def kept() -> nn.Module:
    module = Keeps(lambda *_: None)
    module.lock, module.lines = threading.Lock(), (line for line in "ab")
    module(IMAGES)
    return module


def spectral() -> nn.Module:
    module = by(lambda m: nn.utils.spectral_norm(m[4]))
    module(IMAGES)  # its power iteration has begun, and its weight is computed
    return module


def patched() -> nn.Module:
    module = cnn()
    forward = module.forward
    module.forward = lambda x: forward(x) * 2 if module[0].out_channels == 8 else None  # type: ignore[method-assign]
    return module


def checkpointed() -> nn.Module:
    run = torch.utils.checkpoint.checkpoint
    return Wrap(lambda inner, x: inner[6:](run(inner[:6], x, use_reentrant=False)))  # type: ignore[index]


class Double(nn.Module):
    """Two kinds of numbers, of which the first that it names is not the image's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.conv = nn.Linear(8, 5).double(), nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)).double())  # type: ignore[no-any-return]


class Compiled(Wrap):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


MODULES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    # a module, and a layer of it
    "a view of each image": (lambda: Views(lambda y: (y.size(0), -1)), "conv"),
    "a view of each map": (lambda: Views(lambda y: (y.size(0) * y.size(1), -1)), "norm"),
    "a view of weights": (lambda: nn.Sequential(Standardised(3, 4, 3), nn.Flatten(), nn.Linear(3600, 5)), "0"),
    "half": (lambda: cnn().half(), "4"),
    "bfloat16": (lambda: cnn().bfloat16(), "4"),
    "double": (lambda: cnn().double(), "4"),
    "half, norms whole": (lambda: by(lambda m: (m.half(), m[1].float())), "1"),
    "a double head": (Double, "conv"),
    "weight norm": (lambda: by(lambda m: nn.utils.weight_norm(m[0])), "0"),
    "spectral norm": (spectral, "4"),
    "parametrised": (lambda: by(lambda m: nn.utils.parametrizations.weight_norm(m[4])), "4"),
    "keeps its activations": (kept, "inner.4"),
    "a checkpoint": (checkpointed, "inner.4"),
    "a patched forward": (patched, "4"),
    "scripted": (lambda: torch.jit.script(cnn().eval()), "output"),
    "traced": (lambda: torch.jit.trace(cnn().eval(), IMAGES), "output"),
    "scripted and frozen": (lambda: torch.jit.freeze(torch.jit.script(cnn().eval())), "output"),
    "a script inside": (lambda: nn.Sequential(torch.jit.script(cnn(classes=7)), nn.Linear(7, 5)), "0"),
    "compiled": (lambda: torch.compile(cnn(), backend="eager"), "4"),
    "compiled inside": (lambda: by(lambda m: m.__setitem__(4, torch.compile(m[4], backend="eager"))), "4"),
    "a compiled forward": (lambda: Compiled(lambda *_: None), "inner.4"),
    "compiled in place": (lambda: by(lambda m: m.compile(backend="eager")), "4"),
    "parallel": (lambda: nn.DataParallel(cnn()), "4"),
    "traced by fx": (lambda: torch.fx.symbolic_trace(cnn()), "4"),
}


def by_hand(module: nn.Module, layer: str, images: Tensor) -> Tensor:
    """A layer as a hook on a copy of the module's own sees it, normalised by hand, each image in float32."""
    module = module.eval()
    if isinstance(module, nn.DataParallel):
        module = module.module
    module = getattr(module, "_orig_mod", module)
    dtype = next((weight.dtype for weight in module.parameters() if weight.dim() == 4), torch.float32)
    found: list[Tensor] = []
    handle = None
    if layer != "output":
        part = module.get_submodule(layer)
        handle = nn.Module.register_forward_hook(part, lambda _m, _i, output: found.append(output.clone()))
    with torch.no_grad():
        output = module(((images - 0.5) / 0.5).to(dtype))
    if handle is not None:
        handle.remove()
    return (found[0] if found else output).float()


@pytest.mark.parametrize("kind", MODULES)
def test_it_gives_its_own_numbers_and_gradients_flow(kind: str) -> None:
    make, layer = MODULES[kind]
    module = make()
    modes = [getattr(part, "training", None) for part in module.modules()]
    network = Network(module, 32).to("cpu")
    assert modes == [getattr(part, "training", None) for part in module.modules()]
    assert network.layer_shape("output") == (5,)
    read = network.features(IMAGES, list(dict.fromkeys([layer, "output"])))
    close = {"rtol": 2e-2, "atol": 2e-2} if network.dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-5}
    for name in read:
        torch.testing.assert_close(read[name].float(), by_hand(module, name, IMAGES), **close)
    for unit in (f"{layer}:1", 2):
        found = dgn.synthesize(network, [unit], prior=load_prior("pixel", size=32), steps=4)
        assert found.activations.dtype == torch.float32 and found.frozen_at.tolist() == [-1]
        assert float(found.history[-1]) > float(found.history[0])
        image, mean = found.images, lambda x: x.flatten(2).mean(2) if x.dim() == 4 else x
        row = mean(by_hand(module, layer if unit != 2 else "output", image))[0]
        torch.testing.assert_close(found.activations[0], row[1 if unit != 2 else 2], **close)


@pytest.mark.parametrize(
    "kind", ["a view of each image", "a view of each map", "half", "scripted", "keeps its activations"]
)
def test_patches_give_what_whole_images_give(kind: str) -> None:
    module = MODULES[kind][0]()
    network = Network(module, 32).to("cpu")
    found = ablate(network, IMAGES[0], 2, size=16, stride=16)
    covered = IMAGES[:1].repeat(4, 1, 1, 1)
    for row, (top, left) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
        covered[row, :, top : top + 16, left : left + 16] = 0.5
    values = by_hand(module, "output", torch.cat([IMAGES[:1], covered]))[:, 2]
    close = 5e-3 if network.dtype == torch.half else 1e-4
    torch.testing.assert_close(found.drops.flatten(), values[0] - values[1:], rtol=close, atol=close)
    deletion, _ = curves(network, found, steps=2)
    assert deletion.activations[0] == pytest.approx(float(values[0]), abs=close)


def test_many_patches_of_a_network_that_needs_contiguous_images() -> None:
    network = Network(Views(lambda y: (y.size(0) * y.size(1), -1)), 32)
    found = ablate(network, IMAGES[0], 2, size=8, stride=4)
    again = ablate(Network(Views(lambda y: (y.size(0), -1)), 32), IMAGES[0], 2, size=8, stride=4)
    torch.testing.assert_close(found.drops, again.drops, rtol=1e-4, atol=1e-5)
    assert found.drops.shape == (7, 7) and float(found.drops.abs().max()) > 0


def test_a_module_that_passes_with_one_image_alone_is_tried_with_several() -> None:
    """Channels-last, one image passes and several don't: which is found out before a loop meets them."""
    module = Views(lambda y: (y.size(0) * y.size(1), -1))
    network = Network(module, 32)
    assert network.layers and network.fast(["output"]) is network
    found = dgn.synthesize(network, [2], prior=load_prior("pixel", size=32), steps=4, seeds=3)
    torch.testing.assert_close(found.activations, by_hand(module, "output", found.images)[:, 2], rtol=1e-4, atol=1e-5)
    assert bool((found.history[-1] > found.history[0]).all()) and network.memory_format == torch.contiguous_format


def test_what_a_network_takes_is_tried_once_and_remembered_by_its_views() -> None:
    calls: list[bool] = []
    network = Network(Views(lambda y: calls.append(y.is_contiguous()) or (y.size(0), -1)), 32).to("cpu")
    assert network.memory_format == torch.channels_last
    network.features(IMAGES, ["output"])
    assert calls[0] is False and all(calls[1:]) and network.memory_format == torch.contiguous_format
    network.features(IMAGES, ["output"])
    network.at(32)(IMAGES)
    assert all(calls[1:]) and network.fast(["output"]) is network
    assert network.to("cpu").module.conv.weight.is_contiguous()


def test_a_network_that_fails_for_other_reasons_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(10, 2))
    network = Network(module, 32).to("cpu")
    with pytest.raises(DgnError, match="failed on an image of 32 x 32 px: mat1 and mat2"):
        _ = network.layers
    assert network.memory_format == torch.channels_last and network.dtype == torch.float32
    assert network.module[0].weight.is_contiguous(memory_format=torch.channels_last)
    untouched = Network(module, 32)
    with pytest.raises(DgnError, match="mat1 and mat2"):
        untouched(IMAGES)
    assert untouched.module[0].weight.is_contiguous()


def test_layers_inside_a_program_are_named_as_such() -> None:
    network = Network(torch.jit.script(cnn().eval()), 32)
    assert list(network.layers) == ["output"]
    for look in (lambda: network.layer_shape("4"), lambda: network.features(IMAGES, ["4"])):
        with pytest.raises(DgnError, match="'4' is inside a TorchScript program, of which the output alone"):
            look()


def test_the_callers_module_stays_untouched() -> None:
    module = kept().train()
    module.inner[1].running_mean.fill_(0.25)  # type: ignore[index]
    before = copy.deepcopy(module.inner.state_dict())
    seen, graph = module.seen["block"][0], module.seen["block"][0].grad_fn
    network = Network(module, 32)
    dgn.synthesize(network, [1], prior=load_prior("pixel", size=32), steps=2)
    assert module.seen["block"][0] is seen and seen.grad_fn is graph and module.training
    assert all(torch.equal(before[key], value) for key, value in module.inner.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    assert module.inner[2].inplace and network.module.lock is module.lock  # type: ignore[index]
    assert not network.module.seen["block"][0].requires_grad


def test_a_patched_forward_runs_the_copy_not_the_callers_module() -> None:
    module = patched().train()
    mean = module[1].running_mean.clone()  # type: ignore[index]
    network = Network(module, 32)
    network(IMAGES)
    assert torch.equal(module[1].running_mean, mean)  # type: ignore[index]
    network.module[0].weight.zero_()  # type: ignore[index]
    assert float(network.features(IMAGES, ["0"])["0"].std(0).max()) == 0


def test_a_module_that_takes_one_image_is_told_so() -> None:
    for module in (
        Wrap(lambda inner, x: inner(x.unsqueeze(0))[0]), nn.Sequential(nn.Flatten(0), nn.Linear(3 * 32 * 32, 4)),
    ):  # fmt: skip
        with pytest.raises(DgnError, match=r"takes one image \[C, H, W\] at a time, expected one that takes batches"):
            Network(module, 32)(IMAGES)


def test_a_module_without_numbers_or_none_at_all() -> None:
    with torch.device("meta"):
        module = cnn()
    for empty in (module, nn.Sequential(nn.LazyConv2d(4, 3))):
        with pytest.raises(DgnError, match="is lazy or on the 'meta' device: load its weights first"):
            Network(empty, 32)
    with pytest.raises(DgnError, match=r"is 'function', expected a torch\.nn\.Module"):
        Network(lambda x: x, 32)  # type: ignore[arg-type]


def test_receptive_fields_of_half_and_contiguous_networks() -> None:
    for kind in ("half", "a view of each image"):
        network = Network(MODULES[kind][0](), 32)
        assert ReceptiveFields(network).box(MODULES[kind][1], (3, 4)) == (
            (3, 5, 11, 13) if kind == "half" else (6, 8, 11, 13)
        )


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (32, (32, 32)), (32.0, (32, 32)), (np.int64(32), (32, 32)), (torch.tensor(32), (32, 32)), ([24, 32], (24, 32)),
        ((3, 24, 32), (24, 32)), (torch.Size([3, 24, 32]), (24, 32)), (np.array([24, 32]), (24, 32)),
    ],
)  # fmt: skip
def test_sizes_as_people_have_them(size: Any, shape: tuple[int, int]) -> None:
    network = Network(cnn(), size)
    assert network.input_size == shape and network.channels == 3
    assert all(type(side) is int for side in network.input_size) and network.layers["0"] == (8, *shape)


@pytest.mark.parametrize("size", [0, -3, 2.5, "32", None, (3, 3, 32, 32), (), True, float("nan"), (32, 0), (1.5, 2)])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(DgnError, match=r"input_size is .*expected pixels above 0: a number, \(H, W\) or \(C, H, W\)"):
        Network(cnn(), size)


@pytest.mark.parametrize(
    "std",
    [0.25, [0.25] * 3, np.full(3, 0.25), torch.full((3,), 0.25), torch.full((1, 3, 1, 1), 0.25),
     torch.full((3, 1, 1), 0.25).double(), np.float32(0.25)],
)  # fmt: skip
@pytest.mark.parametrize("mean", [0.5, (0.5, 0.5, 0.5), torch.full((3, 1, 1), 0.5)])
def test_normalisation_as_people_have_it(mean: Any, std: Any) -> None:
    network = Network(cnn(), 32, mean, std)
    assert network.mean == (0.5,) * 3 and network.std == (0.25,) * 3 and type(network.std[0]) is float
    torch.testing.assert_close(network.prepare(IMAGES), (IMAGES - 0.5) / 0.25)


def test_channels_are_read_from_the_shape_the_numbers_or_the_first_convolution() -> None:
    assert Network(cnn(1), (1, 28, 28)).mean == (0.5,)
    assert Network(cnn(4), 28, 0.2, 0.3).std == (0.3,) * 4
    assert Network(cnn(2), 28, [0.1, 0.2], 0.3).std == (0.3,) * 2
    assert Network(cnn(1), (1, 28, 28), 0.1, 0.2).layers["output"] == (5,)


@pytest.mark.parametrize(
    ("mean", "std", "size"),
    [([0.5] * 3, [0.5, 0.5, 0.0], 32), (0.5, 0, 32), (0.5, -1, 32), ([0.5] * 2, [0.5] * 3, 32), (float("nan"), 0.5, 32),
     (0.5, float("nan"), 32), ("0.5", 0.5, 32), ([0.5] * 3, [0.5] * 3, (1, 32, 32)), ([], [], 32)],
)  # fmt: skip
def test_normalisation_that_makes_no_sense(mean: Any, std: Any, size: Any) -> None:
    with pytest.raises(DgnError, match=r"need one value a channel \(\d\), std above 0"):
        Network(cnn(), size, mean, std)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ()), ({}, ()), (["cat", "dog"], ("cat", "dog")), (np.array(["cat", "dog"]), ("cat", "dog")),
        ({0: "cat", 1: "dog"}, ("cat", "dog")), ({"1": "dog", "0": "cat"}, ("cat", "dog")),
        ({"dog": 1, "cat": 0}, ("cat", "dog")), ({np.int64(1): "dog", np.int64(0): "cat"}, ("cat", "dog")),
        ({0: "cat", 2: "dog"}, ("cat", "class 1", "dog")), ({"7": 0, "3": 1}, ("7", "3")), ([0, 1], ("0", "1")),
    ],
)  # fmt: skip
def test_class_names_as_people_have_them(given: Any, names: tuple[str, ...]) -> None:
    assert Network(cnn(), 32, class_names=given).class_names == names


def test_a_class_of_a_dictionary_is_climbed() -> None:
    network = Network(cnn(), 32, class_names={0: "cat", 1: "dog"})
    assert dgn.parse_units("dog", network)[0].class_index == 1


@pytest.mark.parametrize("given", ["cat", {"cat": "dog"}, {0: "a", "0": "b"}, {-1: "a"}, 3, {"cat": 0.5}])
def test_class_names_that_are_none(given: Any) -> None:
    with pytest.raises(DgnError, match=r"class_names is"):
        Network(cnn(), 32, class_names=given)


@pytest.mark.parametrize(
    ("seeds", "found"),
    [(None, [4]), (3, [4, 5, 6]), (np.int64(2), [4, 5]), ([1, 7], [1, 7]), (range(2), [0, 1]),
     (torch.tensor([2, 3]), [2, 3]), (np.array([5]), [5])],
)  # fmt: skip
def test_seeds_as_people_have_them(seeds: Any, found: list[int]) -> None:
    result = dgn.synthesize(Network(cnn(), 32), [1], prior=load_prior("pixel", size=8), steps=1, seed=4, seeds=seeds)
    assert result.seeds == found and len(result.images) == len(found)


@pytest.mark.parametrize("seeds", [0, -1, [], 2.5, "three", [None]])
def test_seeds_that_are_none(seeds: Any) -> None:
    with pytest.raises(DgnError, match="give at least one seed"):
        dgn.synthesize(Network(cnn(), 32), [1], prior="pixel", seeds=seeds)
