"""CUDA graphs, where there is no CUDA: a stand-in with the same memory, whose results live until the next call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from conftest import small_generator
from torch import Tensor

import dgn
from dgn.graphs import MOST_ROWS, Graphed
from dgn.network import Network
from dgn.priors.deep import GeneratorPrior
from dgn.priors.pixel import PixelPrior


class Recorder:
    """In the place of ``torch.cuda.make_graphed_callables``."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, ...]] = []
        self.replayed = 0

    def __call__(self, call: Callable[..., Sequence[Tensor]], sample: tuple[Tensor, ...]) -> Callable[..., Any]:
        self.recorded.append(tuple(sample[0].shape))
        static = [one.detach().clone() for one in call(*sample)]
        recorder = self

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
                recorder.replayed += 1
                with torch.enable_grad():
                    ctx.x = x.detach().requires_grad_()
                    ctx.found = call(ctx.x)
                for kept, new in zip(static, ctx.found, strict=True):
                    kept.copy_(new.detach())
                return tuple(kept.detach() for kept in static)

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor) -> Tensor:
                return torch.autograd.grad(ctx.found, ctx.x, gradients)[0]

        return Replay.apply


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr("dgn.graphs._on_gpu", lambda _: True)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", found)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda _: None)
    return found


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("make", [lambda: PixelPrior(16), lambda: GeneratorPrior(small_generator())])
def test_an_ascent_is_the_same(network: Network, recorder: Recorder, make: Callable[[], dgn.Prior], keep: str) -> None:
    """Nothing of a step is still looked at when the next one writes over it."""
    seen: dict[bool, list[Tensor]] = {True: [], False: []}

    def climb(graphs: bool) -> dgn.Synthesis:
        return dgn.synthesize(
            network, ["ant", "late:2", "stem:*"], prior=make(), steps=9, seeds=[0, 1], jitter=0.1, noise=0.02, frames=4,
            keep=keep, precision="fp32", graphs=graphs, on_step=lambda _i, _n, _a, images: seen[graphs].append(images),
        )  # fmt: skip

    plain, replayed = climb(False), climb(True)
    assert recorder.recorded and recorder.replayed >= 6
    for name in ("images", "activations", "codes", "history", "frames"):
        torch.testing.assert_close(getattr(replayed, name), getattr(plain, name), msg=name)
    for one, other in zip(seen[True], seen[False], strict=True):
        torch.testing.assert_close(one, other)


def test_when_nothing_is_recorded(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, 3)

    def times(call: Callable[[Tensor], tuple[Tensor, ...]], given: Tensor, wanted: bool = True) -> int:
        recorder.recorded.clear()
        graphed = Graphed(call, wanted=wanted)
        for _ in range(4):
            torch.testing.assert_close(graphed(given)[0], call(given)[0])
        return len(recorder.recorded)

    def square(x: Tensor) -> tuple[Tensor, ...]:
        return (x.square(),)

    leaf = x.clone().requires_grad_()
    assert times(square, leaf) == 1
    assert times(square, leaf, wanted=False) == 0
    assert times(square, x) == 0  # no gradient is wanted
    assert times(square, torch.rand(MOST_ROWS + 1, 3, requires_grad=True)) == 0
    assert times(lambda x: (x.detach() + 1,), leaf) == 0  # none flows

    def waits(_: object) -> None:
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: waits(mode) if mode == "error" else None)
    assert times(square, leaf) == 0


def test_a_replay_that_differs_is_not_used(recorder: Recorder) -> None:
    """A graph can't hold what changes from call to call."""
    count = 0

    def changing(x: Tensor) -> tuple[Tensor, ...]:
        nonlocal count
        count += 1
        return (x * count,)

    graphed = Graphed(changing, wanted=True)
    x = torch.ones(1, requires_grad=True)
    found = [float(graphed(x)[0].detach()) for _ in range(5)]
    assert recorder.recorded == [(1,)]
    assert found == sorted(found) and len(set(found)) == 5 and recorder.replayed == 1
