"""A guest in someone's program: its settings, its random states, its memory and its threads."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import rest_slow
from torch import Tensor, nn

import dgn
from dgn.analysis.ablation import ablate, curves
from dgn.analysis.examples import find_examples
from dgn.analysis.facets import cluster, late_features, mean_codes
from dgn.analysis.receptive import ReceptiveFields
from dgn.guest import at_home, guest
from dgn.network.fast.convolution import Convolution
from dgn.network.fast.fused import MOST_COPIES
from dgn.network.fast.precision import choose
from dgn.network.network import Network, kept
from dgn.network.sources import load_network
from dgn.priors import load_prior

IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Random(nn.Module):
    """A small network that also drops at random, as some do in evaluation."""

    def __init__(self, drops: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.second, self.head, self.drops = nn.Conv2d(8, 12, 3, stride=2), nn.Linear(12, 5), drops

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.conv(x)))
        y = self.second(F.dropout(y, self.drops, training=self.drops > 0))
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def network() -> Network:
    return Network(Random(), 32)


@contextmanager
def setting(get: Callable[[], Any], put: Callable[[Any], object], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
        assert get() == value
    finally:
        put(before)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "double by default": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "half by default": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float16),
    "another device": lambda: setting(torch.get_default_device, torch.set_default_device, torch.device("meta")),
    "a device context": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": lambda: setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
}


def state() -> tuple[Any, ...]:
    """All that a program may have set, and its random states."""
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"), torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(), torch.is_anomaly_enabled(), torch.get_num_threads(),
        torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),
        torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32,
    )  # fmt: skip


def pixels(size: int = 32) -> Any:
    return load_prior("pixel", size=size)


DOORS: dict[str, Callable[[Network], Any]] = {
    "synthesize": lambda n: dgn.synthesize(n, [1, "conv:2"], prior=pixels(), steps=3, seeds=2).images,
    "fourier": lambda n: dgn.synthesize(n, [1], prior=load_prior("fourier", size=32), steps=2).images,
    "a black box": lambda n: dgn.synthesize(n, [1], prior=pixels(6), steps=2, rule="cmaes").images,
    "diversity": lambda n: dgn.synthesize(n, ["conv:1"], prior=pixels(), steps=2, seeds=2, diversity=1.0).images,
    "pieces": lambda n: [part.images for part in dgn.pieces(n, [0, 1], prior=pixels(), steps=2, batch=1)],
    "ablate": lambda n: ablate(n, IMAGES[0], 1, size=8, stride=4).drops,
    "curves": lambda n: curves(n, ablate(n, IMAGES[0], 1, size=16, stride=16), steps=2)[0].activations,
    "find_examples": lambda n: [
        (one.index, one.activation, one.box)
        for one in find_examples(n, dgn.parse_units(["conv:1", 2], n), [(image, 0) for image in IMAGES], k=2)
        .units[0]
        .top
    ],
    "facets": lambda n: cluster(late_features(n, IMAGES), 2).labels,
    "codes": lambda n: mean_codes(pixels(), IMAGES, cluster(late_features(n, IMAGES), 2)),
    "fields": lambda n: ReceptiveFields(n).box("second", (2, 3)),
    "select_units": lambda n: [unit.name for unit in dgn.select_units("conv:all", n)],
    "Network": lambda n: Network(n.module, 24).layers,
    "load_network": lambda _: load_network("timm/test_resnet", weights="none", input_size=32).layers,
    "fast": lambda n: n.fast(["output"]).name,
}


@cache
def undisturbed(door: str) -> Any:
    """What it gives by itself."""
    return DOORS[door](Network(Random(), 32))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b) and not a.is_inference() and a.device.type == "cpu"
    if isinstance(a, list) and a and isinstance(a[0], Tensor):
        return all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", rest_slow(SETTINGS, "inference_mode", "half by default", "a device context"))
def test_whatever_is_set_changes_nothing_and_stays(name: str, network: Network) -> None:
    images = IMAGES.clone()
    for door, look in DOORS.items():
        fresh = Network(network.module, 32)
        with SETTINGS[name]():
            before = state()
            found = look(fresh)
            assert state() == before, door
        assert same(undisturbed(door), found), door
    assert torch.equal(images, IMAGES)


@pytest.mark.parametrize("name", SETTINGS)
def test_whatever_is_set_stays_after_an_error(name: str, network: Network) -> None:
    def stop(*_: object) -> None:
        torch.rand(3)
        raise KeyError("mine")

    with SETTINGS[name]():
        before = state()
        with pytest.raises(KeyError, match="mine"):
            dgn.synthesize(network, [1], prior=pixels(), steps=3, on_step=stop)
        assert state() == before
        with pytest.raises(dgn.DgnError):
            dgn.synthesize(network, ["nothing"], prior=pixels())
        assert state() == before


def test_random_states_are_never_advanced() -> None:
    """Not by networks that draw in their forward pass, by new modules, or by PyTorch's loader of data."""
    network = Network(Random(drops=0.3), 32)
    for door, look in DOORS.items():
        before = state()
        look(network)
        assert state() == before, door
    before = state()
    load_prior("dgn")
    assert state() == before


def test_a_program_has_its_own_settings_between_pieces(network: Network) -> None:
    with torch.no_grad():
        torch.manual_seed(1)
        expected = torch.rand(4)
        torch.manual_seed(1)
        made, drawn = dgn.pieces(network, [0, 1, 2], prior=pixels(), steps=2, batch=1), []
        for piece in made:
            assert not torch.is_grad_enabled() and not piece.images.requires_grad
            drawn.append(torch.rand(1))
        drawn.append(torch.rand(1))
        assert torch.equal(torch.cat(drawn), expected)
        made = dgn.pieces(network, [0, 1, 2], prior=pixels(), steps=2, batch=1)
        next(made)
        made.close()  # type: ignore[attr-defined]
        assert not torch.is_grad_enabled()


def test_tensors_of_an_inference_mode_can_be_starts_and_images(network: Network) -> None:
    with torch.inference_mode():
        image = IMAGES[0] * 1.0
        module = Random()
    assert image.is_inference()
    found = dgn.synthesize(network, [1], prior=pixels(), steps=3, start=image)
    torch.testing.assert_close(
        found.images, dgn.synthesize(network, [1], prior=pixels(), steps=3, start=IMAGES[0]).images
    )
    assert torch.equal(
        ablate(network, image, 1, size=8, stride=8).drops, ablate(network, IMAGES[0], 1, size=8, stride=8).drops
    )
    with torch.inference_mode():
        made = Network(module, 32).to("cpu")
    assert not any(tensor.is_inference() for tensor in made.module.state_dict().values())
    assert same(
        dgn.synthesize(network, [1], prior=pixels(), steps=3).images,
        dgn.synthesize(made, [1], prior=pixels(), steps=3).images,
    )


def test_precision_that_is_set_layer_by_layer(network: Network) -> None:
    """Then PyTorch forbids to read whether cuDNN uses TF32 at all."""
    cudnn = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    try:
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = "tf32", "ieee"
        with pytest.raises(RuntimeError):
            _ = cudnn.allow_tf32
        assert ReceptiveFields(network).box("conv", (4, 4)) == (3, 3, 6, 6)
        assert network.fast(["output"]) is not network
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("tf32", "ieee")
    finally:
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = before


def test_the_first_who_comes_sets_and_the_last_who_goes_puts_back() -> None:
    with setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64):
        first, second = at_home(), at_home()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float32
        second.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64


@pytest.mark.parametrize(
    "door",
    [
        lambda n: dgn.synthesize(n, [1]), lambda n: dgn.pieces(n, [1]), lambda n: dgn.parse_units([1], n),
        lambda n: dgn.select_units([1], n), lambda n: find_examples(n, [], [(IMAGES[0], 0)]),
        lambda n: ablate(n, IMAGES[0], 1), lambda n: late_features(n, IMAGES), lambda n: ReceptiveFields(n),
        lambda n: dgn.direction(n, "conv", [1.0] * 8), lambda n: dgn.find_classes(n, "cat"),
        lambda n: dgn.synthesize(units=[1], network=n),
    ],
)  # fmt: skip
def test_a_bare_module_or_a_name_is_told_how_to_be_wrapped(door: Callable[[Any], Any]) -> None:
    with pytest.raises(dgn.DgnError, match=r"a bare Random, expected a dgn\.Network: wrap it, dgn\.Network\(module, "):
        door(Random())
    with pytest.raises(dgn.DgnError, match=r"the name 'resnet50', expected .*give dgn\.load_network\('resnet50'\)"):
        door("resnet50")


def test_a_module_where_a_name_is_meant_is_told_how_to_be_wrapped() -> None:
    with pytest.raises(dgn.DgnError, match=r"a bare Random, expected a dgn\.Network"):
        load_network(Random())  # type: ignore[arg-type]
    with pytest.raises(dgn.DgnError, match=r'^prior is a bare Random.*dgn\.load_prior\("module", module=module, .*$'):
        dgn.synthesize(Network(Random(), 32), [1], prior=Random())  # type: ignore[arg-type]
    with pytest.raises(dgn.DgnError, match=r"no file '.*net\.pt2'"):
        load_network(Path("net.pt2"))


def test_a_callers_generator_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(4, 3 * 8 * 8), nn.Unflatten(1, (3, 8, 8)), nn.Sigmoid())
    prior = load_prior("module", module=module, options={"code_shape": [4]})
    assert all(parameter.requires_grad for parameter in module.parameters()) and module.training
    code = prior.start(2)
    torch.testing.assert_close(prior.decode(code), module(code))


# --- memory --------------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """Ten convolutions with a norm each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        parts = [(nn.Conv2d(3 if not i else 8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for i in range(10)]
        self.layers = nn.Sequential(*(part for row in parts for part in row))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))  # type: ignore[no-any-return]


def test_fused_copies_share_their_convolutions_and_the_last_few_are_kept() -> None:
    network = Network(Deep(), 16)
    copies = []
    for layer in list(network.layers):
        fast = network.fast([layer])
        expected, features = network.features(IMAGES, [layer]), fast.features(IMAGES, [layer])
        torch.testing.assert_close(features[layer], expected[layer], rtol=1e-4, atol=1e-5)
        if fast is not network:
            copies.append(weakref.ref(fast.module))
        del fast
    alive = living(copies)
    assert len(alive) == MOST_COPIES < len(copies)
    assert len({id(part) for copy in alive for part in copy.modules() if isinstance(part, Convolution)}) <= 20
    assert network.fast([list(network.layers)[-1]]).module is copies[-1]() and living(copies) == alive


def living(copies: list[weakref.ref[nn.Module]]) -> list[nn.Module]:
    """Those that something holds, in order, each once."""
    gc.collect()
    return list(dict.fromkeys(module for copy in copies if (module := copy()) is not None))


def test_the_copy_used_last_stays(network: Network) -> None:
    kept_copy = network.fast(["output"]).module
    copies = [weakref.ref(kept_copy)]
    for size in range(17, 17 + 2 * MOST_COPIES):
        copies.append(weakref.ref(network.at(size).fast(["output"]).module))
        assert network.fast(["output"]).module is kept_copy
    assert len(living(copies)) == MOST_COPIES


def test_kernels_are_kept_for_the_last_sizes_only(network: Network) -> None:
    from dgn.network.fast.convolution import MOST_PLANS

    fast = network.fast(["output"])
    for size in range(20, 20 + MOST_PLANS + 9):
        fast.module(torch.rand(1, 3, size, size))
    plans = [part.plans for part in fast.module.modules() if type(part).__name__ == "Convolution"]
    assert plans and all(0 < len(part) <= MOST_PLANS for part in plans)
    torch.testing.assert_close(fast(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("door", DOORS)
def test_nothing_keeps_a_dead_network(door: str) -> None:
    network = Network(Random(), 32)
    DOORS[door](network)
    view = network.at(40).fast(["output"])
    gone = [weakref.ref(one) for one in (network, network.module, network.turn, view, view.module)]
    del network, view
    gc.collect()
    assert [ref() for ref in gone] == [None] * 5


def test_nothing_keeps_a_dead_network_that_can_not_be_fused() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)), 32)
    assert network.fast(["output"]) is network
    choose(network, ["output"])
    ablate(network, IMAGES[0], 1, size=8, stride=4)
    gone = [weakref.ref(network), weakref.ref(network.module)]
    del network
    gc.collect()
    assert [ref() for ref in gone] == [None] * 2


def test_networks_can_be_copied_and_pickled(network: Network) -> None:
    expected = ablate(network, IMAGES[0], 1, size=8, stride=4).drops
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.turn is not network.turn and other.module is not network.module
        assert torch.equal(ablate(other, IMAGES[0], 1, size=8, stride=4).drops, expected)


# --- threads -------------------------------------------------------------------------------------------------


def in_threads(jobs: list[Callable[[], Any]]) -> list[Any]:
    """All at once, each in a thread of its own."""
    begin = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        begin.wait(60)
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result(120) for future in [pool.submit(run, job) for job in jobs]]


def test_one_network_and_its_views_in_several_threads(network: Network) -> None:
    layers = ["conv", "norm", "second", "output"]
    views = [network, network.at(24), network.fast(["output"]), network]
    expected = [view.features(IMAGES, [layer])[layer] for view, layer in zip(views, layers, strict=True)]

    def look(view: Network, layer: str) -> list[Tensor]:
        return [view.features(IMAGES, [layer])[layer] for _ in range(30)]

    found = in_threads([lambda v=v, k=k: look(v, k) for v, k in zip(views, layers, strict=True)])
    assert all(torch.equal(one, right) for rows, right in zip(found, expected, strict=True) for one in rows)
    assert not any(part._forward_hooks for part in network.module.modules())


def test_whole_jobs_of_one_network_in_several_threads(network: Network) -> None:
    prior = load_prior("fourier", size=32)

    def jobs(net: Network) -> list[Callable[[], Any]]:
        return [
            lambda: dgn.synthesize(net, ["conv:1"], prior=prior, steps=6).images,
            lambda: dgn.synthesize(net, [2], prior=prior, steps=6, input_size=24).images,
            lambda: ablate(net, IMAGES[0], 1, size=8, stride=4).drops,
            lambda: find_examples(net, "norm:1", [(x, 0) for x in IMAGES], k=3).units[0].mean,
            lambda: sorted(net.at(28).layers),
        ]

    expected = [job() for job in jobs(copy.deepcopy(network))]  # which keeps for itself what it finds out
    before = state()
    assert all(map(same, in_threads(jobs(network)), expected))
    assert state() == before


def test_the_shipped_prior_in_several_threads() -> None:
    prior = load_prior("dgn")
    codes = [prior.start(1, [seed]) for seed in range(3)]
    with torch.no_grad():
        expected = [prior.decode(code) for code in codes]

        def decode(code: Tensor) -> Tensor:
            with torch.no_grad():
                return prior.decode(code)

        found = in_threads([lambda code=code: decode(code) for code in codes])
    for one, right in zip(found, expected, strict=True):
        torch.testing.assert_close(one, right)


def test_threads_with_networks_of_their_own_do_not_wait() -> None:
    """One is held in the middle of its pass until the other has done all of its work, layers included."""
    done, inside = threading.Event(), threading.Event()

    class Held(Random):
        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            assert done.wait(60)
            return super().forward(x)

    held, free = Network(Held(), 32), Network(Random(), 32)

    def work() -> Any:
        assert inside.wait(60)
        try:
            return dgn.synthesize(free, ["conv:1"], prior=pixels(), steps=2).images
        finally:
            done.set()

    shapes, images = in_threads([lambda: held.layers, work])
    assert shapes["output"] == (5,) and torch.equal(
        images, dgn.synthesize(free, ["conv:1"], prior=pixels(), steps=2).images
    )


def test_an_error_ends_a_threads_turn(network: Network) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    handle = network.module.second.register_forward_pre_hook(fail)

    def first() -> str:
        for look in (lambda: network(IMAGES), lambda: network.at(20).layers, lambda: network.features(IMAGES, ["no"])):
            with pytest.raises((RuntimeError, dgn.DgnError)):
                look()
        return "failed"

    assert in_threads([first, first]) == ["failed"] * 2
    handle.remove()
    assert in_threads([lambda: network(IMAGES).shape]) == [(6, 5)]


def test_unknown_layers_in_one_thread_while_another_lists_them() -> None:
    """Each needs what the other holds, were layers kept under one lock for all."""
    for _ in range(5):
        network = Network(Random(), 32)

        def wrong(network: Network = network) -> str:
            with pytest.raises(dgn.DgnError, match=r"no layer 'convv'.*did you mean 'conv'"):
                network.features(IMAGES, ["convv"])
            return "wrong"

        assert in_threads([wrong, lambda network=network: "conv" in network.layers]) == ["wrong", True]


def test_a_kept_property_is_computed_once() -> None:
    class One:
        @kept
        def value(self) -> list[int]:
            """Its doc."""
            return []

    one = One()
    assert one.value is one.value and One.value.__doc__ == "Its doc."


def test_a_door_keeps_what_it_is() -> None:
    @guest
    def door(network: Network, more: int = 2) -> int:
        """Its doc."""
        return more

    @guest
    def items(count: int) -> Iterator[bool]:
        for _ in range(count):
            yield torch.is_grad_enabled()

    assert door.__doc__ == "Its doc." and door(None) == 2  # type: ignore[arg-type]
    with torch.no_grad():
        assert list(items(2)) == [True, True]
