"""Batches one by one, memory that is full, the writing thread, locks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ALONE
from watched import Watched

from dgn.errors import DgnError
from dgn.files.storage import join_tensors, lock, write_atomic
from dgn.memory import out_of_memory
from dgn.network.network import Network
from dgn.priors.pixel import PixelPrior
from dgn.report.table import result_rows
from dgn.runs.writer import Writer
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


def test_writer_keeps_order_and_loses_nothing() -> None:
    done: list[int] = []
    gate = threading.Event()
    with Writer(most=2) as writer:
        writer.put(gate.wait)
        threading.Timer(0.05, gate.set).start()
        for index in range(20):  # more than the queue holds: put waits
            writer.put(lambda index=index: done.append(index))
    assert done == list(range(20))
    with pytest.raises(KeyboardInterrupt), Writer() as writer:
        writer.put(lambda: done.append(20))
        raise KeyboardInterrupt
    assert done[-1] == 20


def test_writer_says_what_went_wrong() -> None:
    def fail() -> None:
        raise DgnError("no space left")

    with pytest.raises(DgnError, match="no space"), Writer() as writer:
        writer.put(fail)
    writer = Writer()
    writer.put(fail)
    with pytest.raises(DgnError, match="no space"):
        writer.close()
    writer.close()


INTERRUPTED = """
import itertools, random, signal, sys
from dgn.files.channel import ahead
from dgn.runs.writer import Writer

def stop(*_):
    raise KeyboardInterrupt

def write():
    with Writer() as writer:
        alarm()
        while True:
            writer.put(lambda: None)

def read():
    batches = ahead(itertools.count())
    next(batches)
    alarm()
    for _ in batches:
        pass

def alarm():
    signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-4, 2e-3))

signal.signal(signal.SIGALRM, stop)
moments, done = random.Random(0), 0
for _ in range(300):
    try:
        {"write": write, "read": read}[sys.argv[1]]()
    except KeyboardInterrupt:
        done += 1
print(done)
"""


@pytest.mark.slow
@ALONE
@pytest.mark.parametrize("way", ["write", "read"])
def test_threads_end_wherever_the_main_one_is_interrupted(way: str) -> None:
    """Between the taking of a lock and what lets it go, too: a job waited for its own lock there, and never ended."""
    call = [sys.executable, "-c", INTERRUPTED, way]
    ended = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True)
    assert int(ended.stdout) == 300


@pytest.mark.slow
def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from dgn.files.storage import lock; held = lock(Path({str(tmp_path)!r})); "
    code += "print(held is not None, flush=True); import time; time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "True\n"
    assert lock(tmp_path) is None and lock(tmp_path, wait=0.2) is None
    other.kill()
    other.wait()
    held = lock(tmp_path)
    assert held is not None and lock(tmp_path) is None
    held.close()
    assert lock(tmp_path) is not None


def test_a_lock_on_a_removed_folder_is_none(tmp_path: Path) -> None:
    """One process waits while another removes the folder and lets go; what it then holds keeps a third out."""
    folder = tmp_path / "run"
    held = lock(folder)
    assert held is not None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lock, folder, wait=30)
        time.sleep(0.15)
        shutil.rmtree(folder)
        held.close()
        first = waiting.result()
    assert first is not None and (folder / ".lock").exists()
    assert lock(folder) is None


def test_writing_leaves_the_umask_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole process's: a thread that sets it to read it can leave another's files open to everyone."""
    mask = os.umask(0o077)
    os.umask(mask)
    set_to: list[int] = []
    monkeypatch.setattr(os, "umask", set_to.append)
    write_atomic(tmp_path / "a.txt", b"a")
    assert set_to == [] and (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask


def test_joined_tensors_are_the_concatenation(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    first, second, other = torch.rand(2, 3, 4), torch.rand(5, 3, 4), torch.rand(1, 7)
    for name, tensor in {"a": first, "b": second, "c": other}.items():
        save_file({"codes": tensor, "images": torch.zeros(9, dtype=torch.uint8)}, tmp_path / f"{name}.safetensors")
    paths = {name: tmp_path / f"{name}.safetensors" for name in "abc"}
    join_tensors(
        tmp_path / "all.safetensors", {"x": [paths["a"], paths["b"]], "y": [paths["c"]]}, "codes", {"x": "own"}
    )
    joined = load_file(tmp_path / "all.safetensors")
    assert torch.equal(joined["x"], torch.cat([first, second])) and torch.equal(joined["y"], other)
