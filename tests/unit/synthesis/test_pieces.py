"""Batches one by one, and memory that is full."""

from __future__ import annotations

import pytest
import torch
from watched import Watched

from dgn.errors import DgnError
from dgn.memory import out_of_memory
from dgn.network.network import Network
from dgn.priors.pixel import PixelPrior
from dgn.report.table import result_rows
from dgn.synthesis.main import pieces, synthesize
from dgn.synthesis.plan import plan
from dgn.synthesis.result import join

FP32 = {"precision": "fp32", "steps": 4}


def test_pieces_are_the_whole(network: Network) -> None:
    units = ["ant", "bee", "late:3"]
    parts = list(pieces(network, units, PixelPrior(16), seeds=[0, 1], batch=4, frames=2, **FP32))
    assert [len(part.units) for part in parts] == [4, 2]
    whole = synthesize(network, units, PixelPrior(16), seeds=[0, 1], batch=4, frames=2, **FP32)
    joined = join(parts)
    for name in ("images", "codes", "activations", "history", "frozen_at", "frames", "frame_activations"):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    assert joined.units == whole.units and joined.seeds == whole.seeds == [0, 1] * 3
    later = list(plan(network, units, PixelPrior(16), seeds=[0, 1], batch=4, **FP32).pieces(first=4))
    assert torch.equal(later[0].codes, whole.codes[4:])


def test_starts_of_each_row_go_to_their_piece(network: Network) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    result = synthesize(network, ["ant", "bee", "late:3"], PixelPrior(16), start=images, steps=1, batch=2)
    assert torch.allclose(result.images, images, atol=1e-5)
    with pytest.raises(DgnError, match="2 start codes for 3 samples"):
        synthesize(network, ["ant", "bee", "late:3"], PixelPrior(16), start=images[:2], steps=1)


@pytest.mark.slow
def test_batch_is_halved_where_memory_is_full(network: Network, watched: type[Watched]) -> None:
    cuts: list[int] = []

    def full(count: int) -> None:
        if count > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    watched.fails(full)
    limit = 3
    job = plan(network, "late:3", Watched(16), seeds=range(8), **FP32)
    result = join(list(job.pieces(on_cut=cuts.append)))
    assert [len(batch) for batch in watched.begun] == [8, 4, 2, 2, 2, 2] and cuts == [4, 2]
    assert result.seeds == list(range(8))
    watched.begun.clear()
    apart = plan(network, ["ant", "bee"], Watched(16), seeds=[0, 1, 2], diversity=1.0, **FP32)
    assert [len(part.units) for part in apart.pieces()] == [3, 3]
    assert [len(batch) for batch in watched.begun] == [6, 3, 3]
    limit = 2
    with pytest.raises(DgnError, match="the 3 seeds of one unit of prior 'pixel' can't climb"):
        list(apart.pieces())


@pytest.mark.slow
def test_the_last_look_is_halved_where_memory_is_full(network: Network) -> None:
    """The table's probabilities take a pass of their own: in batches, and in smaller ones where memory is full."""
    result = synthesize(network, ["ant", "bee", "late:3"], PixelPrior(16), seeds=[0, 1, 2], **FP32)
    whole, seen, limit = result_rows(result, network, 1.0), [], 2

    def limited(_: object, given: tuple[torch.Tensor]) -> None:
        seen.append(len(given[0]))
        if len(given[0]) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    network.module.register_forward_pre_hook(limited)
    rows = result_rows(result, network, 1.0, batch=8)
    assert seen == [8, 4, 2, 2, 2, 2, 1]
    for row, like in zip(rows, whole, strict=True):
        assert row["log_probability"] == pytest.approx(like["log_probability"], abs=1e-5)
        assert row["unit"] == like["unit"] and row["rank"] == like["rank"]
    limit = 0
    with pytest.raises(DgnError, match="one image does not fit into this memory"):
        result_rows(result, network, 1.0)


def test_other_errors_are_not_of_memory(network: Network, watched: type[Watched]) -> None:
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"))
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"))
    with pytest.raises(RuntimeError) as real:
        torch.empty(1 << 60)
    assert out_of_memory(real.value)

    def broken(count: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    watched.fails(broken)
    with pytest.raises(RuntimeError, match="shapes"):
        synthesize(network, "ant", Watched(16), **FP32)
    assert len(watched.begun) == 1
