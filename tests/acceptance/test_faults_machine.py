"""A machine that fails: a full disk, read-only folders, full memory, a second process, a network that is down."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import resource as limits
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ALONE, rest_slow
from PIL import Image
from safetensors.torch import load_file

from dgn.cli.main import main

QUIET = ["tracking=off", "progress=false", "threads=1"]


def job(exported: Path, out: Path, *more: str) -> list[str]:
    """Ten rows, two a batch."""
    return ["synthesize", f"network.name={exported}", "trust=true", f"out={out}", "units=[0,1,2,3,4]", "seeds=2",
            "batch=2",
            "prior=pixel", "prior.pixel.size=64", "ascent.steps=3", *QUIET, *more]  # fmt: skip


def contents(run: Path) -> dict[str, Any]:
    """What a run made, without times."""
    with (run / "results.csv").open(newline="") as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    pictures = {path.name: path.read_bytes() for path in sorted((run / "images").glob("*.png"))}
    return {"rows": rows, "codes": (run / "codes.safetensors").read_bytes(), "pictures": pictures}


def whole_files(run: Path) -> int:
    """How many files there are, each of which can be read to its end; no half-written one."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    for path in files:
        assert not path.name.endswith(".part"), path
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
    return len(files)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A file system of its own at a folder; False where this process may not mount."""
    folder.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(call, capture_output=True).returncode == 0
    except OSError:
        done = False
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


@contextlib.contextmanager
def small_disk(folder: Path, room: int) -> Iterator[Callable[[], None]]:
    """A disk of ``room`` bytes, and what gives it more; where none can be mounted, no file may be so large."""
    with mounted(folder, f"size={room}") as real:
        before = limits.getrlimit(limits.RLIMIT_FSIZE)
        if not real:
            limits.setrlimit(limits.RLIMIT_FSIZE, (room // 2, before[1]))

        def more() -> None:
            if real:
                subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True, capture_output=True)
            else:
                limits.setrlimit(limits.RLIMIT_FSIZE, before)

        try:
            yield more
        finally:
            limits.setrlimit(limits.RLIMIT_FSIZE, before)


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a command, but for that on what is assumed of the network."""
    lines = capsys.readouterr().err.strip().splitlines()
    return [line for line in lines if not line.startswith("dgn: assumed of network")]


@pytest.fixture(scope="module")
def whole(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job that nothing disturbed."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(job(exported, run)) == 0
    return run


@pytest.fixture(scope="module")
def whole_sweep(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep that nothing disturbed, one job after the other."""
    run = tmp_path_factory.mktemp("undisturbed") / "sweep"
    assert main(job(exported, run, "-m", "seed=0,2,4")) == 0
    return run


@pytest.mark.slow
@ALONE
@pytest.mark.parametrize("room", [300_000, 500_000, 700_000, 900_000])
def test_full_disk_keeps_what_is_finished_and_goes_on(
    room: int, exported: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fills in a batch, in the pictures, in the joined codes or in the page: one line, whole files, then go on."""
    with small_disk(tmp_path / "disk", room) as more_room:
        run = tmp_path / "disk" / "run"
        capsys.readouterr()
        assert main(job(exported, run)) == 2
        shown = said(capsys)
        assert len(shown) == 1 and shown[0].startswith("dgn: can't write"), shown
        assert "No space left" in shown[0] or "File too large" in shown[0]
        kept = sorted(path.name for path in (run / "parts").glob("*.safetensors"))
        assert kept and whole_files(run)
        stamps = {name: (run / "parts" / name).stat().st_mtime_ns for name in kept}
        assert main(job(exported, run)) == 2  # still full: the same line, and nothing is lost
        assert {name: (run / "parts" / name).stat().st_mtime_ns for name in kept} == stamps
        more_room()
        capsys.readouterr()
        assert main(job(exported, run)) == 0
        assert f"({len(kept)} of 5 batches done)" in capsys.readouterr().err
        assert contents(run) == contents(whole)
        assert json.loads((run / "manifest.json").read_text())["status"] == "done"


@pytest.mark.slow
@ALONE
@pytest.mark.parametrize(("room", "launcher"), [(1_000_000, "basic"), (2_500_000, "local")])
def test_a_sweep_on_a_full_disk(
    room: int, launcher: str, exported: Path, whole_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for one job or two of three: the others are named, each whole file stays, the same command finishes."""
    more = ["-m", "seed=0,2,4", f"launcher={launcher}"]
    more += ["launcher.slots=1"] if launcher == "local" else []
    with small_disk(tmp_path / "disk", room) as more_room:
        run = tmp_path / "disk" / "run"
        capsys.readouterr()
        assert main(job(exported, run, *more)) == 2
        shown = said(capsys)
        full = ("No space left", "File too large", "the disk is full")
        assert any(word in shown[-1] for word in full) and "Traceback" not in "".join(shown), shown
        assert whole_files(run)
        done = [path.parent for path in run.glob("*/manifest.json") if json.loads(path.read_text())["status"] == "done"]
        stamps = {path: path.stat().st_mtime_ns for folder in done for path in folder.glob("*.safetensors")}
        more_room()
        assert main(job(exported, run, *more)) == 0
        assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
        for number in range(3):
            assert contents(run / str(number)) == contents(whole_sweep / str(number))
        assert len((run / "results.csv").read_text().splitlines()) == 31
        assert json.loads((run / "sweep.json").read_text())["status"] == "done"


@pytest.mark.slow
def test_a_file_limit_is_a_full_disk_too(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The joined codes are larger than the system lets a file be: every batch is there, and the command goes on."""
    before = limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        assert main(job(exported, tmp_path / "run")) == 2
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, before)
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 2 and "assumed of network" in shown[0] and "File too large" in shown[1]
    assert len(list((tmp_path / "run" / "parts").iterdir())) == 5 and whole_files(tmp_path / "run") > 10
    assert main(job(exported, tmp_path / "run")) == 0
    assert "(5 of 5 batches done)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", rest_slow(["synthesize", "examples", "ablate", "gallery", "sweep", "here"], "synthesize", "here")
)
def test_read_only_folders(
    verb: str, exported: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One line that names the folder; nothing is made, there or elsewhere. Without mounts a file stands in the way."""
    monkeypatch.chdir(tmp_path)
    if verb == "gallery":
        assert main(job(exported, Path("done"))) == 0
    with mounted(tmp_path / "fixed", "ro,size=1m") as real:
        if not real:
            (tmp_path / "fixed").rmdir()
            (tmp_path / "fixed").write_text("")
        folder = tmp_path / "fixed" / "run"
        out, network = f"out={folder}", [f"network.name={exported}", "trust=true"]
        command = {
            "synthesize": job(exported, folder), "sweep": [*job(exported, folder), "-m", "seed=1,2"],
            "examples": ["examples", *network, out, f"data.root={images}", "units=[0]", "k=1", *QUIET],
            "ablate": ["ablate", *network, out, f"image={images}/00.png", "unit=0", "size=8", "stride=8", *QUIET],
            "gallery": ["gallery", "done", out],
            "here": [word for word in job(exported, folder) if not word.startswith("out=")],
        }[verb]  # fmt: skip
        if verb == "here" and real:
            monkeypatch.chdir(tmp_path / "fixed")
        elif verb == "here":
            (tmp_path / "runs").write_text("")
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        capsys.readouterr()
        assert main(command) == 2
        shown = said(capsys)
        assert len(shown) == 1 and shown[0].startswith("dgn: can't "), shown
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before
        monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@ALONE
def test_two_processes_in_one_folder(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second says so and touches nothing; when the first is gone, killed or stopped, its job is continued."""
    monkeypatch.setenv("DGN_PATIENCE", "0.2")
    run = tmp_path / "run"
    long = job(exported, run, "ascent.steps=400")
    first = subprocess.Popen(
        [sys.executable, "-m", "dgn", *long], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list(run.glob("parts/*")) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGSTOP)  # it holds the folder, and can't finish before the second has looked
        assert first.poll() is None and list(run.glob("parts/*"))
        for second in (long, job(exported, run, "seed=7"), [*long, "resume=false"]):
            assert main(second) == 2
            shown = said(capsys)
            assert len(shown) == 1 and "another process is at work in" in shown[0] and str(run) in shown[0], shown
        assert list(run.glob("parts/*"))
    finally:
        first.kill()
        first.wait()
    assert main(long) == 0
    assert "continuing" in capsys.readouterr().err
    assert len(contents(run)["rows"]) == 10


@pytest.mark.parametrize(
    ("error", "fits"),
    [
        (lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"), 2),
        pytest.param(lambda: torch.OutOfMemoryError("CUDA out of memory."), 2, marks=pytest.mark.slow),
        pytest.param(lambda: MemoryError(), 1, marks=pytest.mark.slow),
    ],
    ids=["cpu allocator", "cuda", "python"],
)
@pytest.mark.slow
def test_memory_that_is_full(
    error: Callable[[], Exception], fits: int, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An allocator that fails inside of the network's forward pass: results are those of the batch that fits."""
    assert main(job(exported, tmp_path / "fits", f"batch={fits}")) == 0
    real, seen = torch.nn.functional.interpolate, []

    def starved(images: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > fits:
            raise error()
        return real(images, *more, **options)

    monkeypatch.setattr(torch.nn.functional, "interpolate", starved)
    capsys.readouterr()
    assert main(job(exported, tmp_path / "starved", "batch=8")) == 0
    shown = capsys.readouterr().err
    assert seen[0] == 8 and f"memory is full: prior pixel goes on with batches of {fits}" in shown, shown
    assert contents(tmp_path / "starved") == contents(tmp_path / "fits")
    assert json.loads((tmp_path / "starved" / "manifest.json").read_text())["batch"] == {"pixel": fits}


@pytest.mark.slow
def test_the_network_is_down(exported: Path, tmp_path: Path) -> None:
    """Weights & Biases online, with a key, behind a closed port: one line, the job is done, its log is kept offline."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "WANDB_API_KEY": "0123456789" * 4, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [word for word in job(exported, tmp_path / "run") if word != "tracking=off"]
    ended = subprocess.run(
        [sys.executable, "-m", "dgn", *command, "tracking=online"], env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("dgn: ") and "assumed of" not in line]
    assert len(lines) == 1 and "Weights & Biases (online) did not start" in lines[0], ended.stderr
    assert "the job goes on, tracked offline" in lines[0] and "Traceback" not in ended.stderr
    assert len(contents(tmp_path / "run")["rows"]) == 10
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "done"
