"""Locks, files that are written whole, tensors that are joined on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgn.files.storage import join_tensors, lock, write_atomic


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
    first, second, other = torch.rand(2, 3, 4), torch.rand(5, 3, 4), torch.rand(1, 7)
    for name, tensor in {"a": first, "b": second, "c": other}.items():
        save_file({"codes": tensor, "images": torch.zeros(9, dtype=torch.uint8)}, tmp_path / f"{name}.safetensors")
    paths = {name: tmp_path / f"{name}.safetensors" for name in "abc"}
    join_tensors(
        tmp_path / "all.safetensors", {"x": [paths["a"], paths["b"]], "y": [paths["c"]]}, "codes", {"x": "own"}
    )
    joined = load_file(tmp_path / "all.safetensors")
    assert torch.equal(joined["x"], torch.cat([first, second])) and torch.equal(joined["y"], other)
