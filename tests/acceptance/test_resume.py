"""Jobs that are killed, stopped or out of room continue with the same command and end with the same results."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ALONE
from PIL import Image
from safetensors.torch import load_file
from watched import Watched, watched_prior

from dgn.cli.main import main
from dgn.files.storage import lock
from dgn.images.pictures import to_image
from dgn.priors import load_prior
from dgn.synthesis.plan import default_batch

TINY = [
    "prior=[pixel,fourier]", "prior.pixel.size=16", "prior.fourier.size=16", "tracking=off", "progress=false",
    "ascent.jitter=0.1", "threads=1",
]  # fmt: skip


def contents(run: Path) -> dict[str, bytes | list[dict[str, str]]]:
    """What a run made, without times."""
    with (run / "results.csv").open() as file:
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    files = {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.png"))}
    return {"rows": rows, "codes": (run / "codes.safetensors").read_bytes(), **files}


@pytest.mark.slow
@ALONE
def test_twenty_kills(exported: Path, tmp_path: Path) -> None:
    """SIGKILL at 20 random moments: never more is done again than the batch in flight; the results are the same."""
    job = [f"network.name={exported}", "trust=true", "units=[0,1,2,3]", "seeds=2", "batch=2", "ascent.steps=40", *TINY]
    call = [sys.executable, str(Path(__file__).with_name("killing.py")), str(tmp_path), "20", "1", *job]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["killed_with"]) == 20 and set(report["codes"]) == {0}
    assert report["redone"] == [] and report["said"] and all(report["said"])
    assert len(set(report["killed_with"])) > 3  # at different places of the job
    whole = contents(tmp_path / "whole")
    assert len(whole["rows"]) == 16 and len(whole) == 2 + 2 * 16 + 1  # images and their ways
    finished = sorted(tmp_path.glob("killed*/manifest.json"))
    assert finished
    for path in finished:
        assert json.loads(path.read_text())["status"] == "done"
        assert contents(path.parent) == whole
        assert not (path.parent / "parts").exists() and not list(path.parent.rglob("*.part"))


def one(exported: Path, *more: str) -> list[str]:
    return [
        "synthesize",
        f"network.name={exported}",
        "trust=true",
        "units=[0,1]",
        "batch=1",
        "ascent.steps=3",
        *TINY,
        *more,
    ]


def test_a_failed_job_is_found_and_continued(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without out=, the unfinished run of the same job goes on; another job, and one that a process holds, don't."""
    monkeypatch.chdir(tmp_path)
    rename, batches = os.replace, []

    def full_disk(source: Path, target: Path) -> None:
        if Path(target).parent.name == "parts":
            batches.append(target)
            if len(batches) == 4:
                raise OSError(28, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        assert main(one(exported)) == 2
    assert "No space left" in capsys.readouterr().err
    (run,) = Path("runs/synthesize").iterdir()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed" and len((run / "results.csv").read_text().splitlines()) == 4
    assert main(one(exported, "seed=1")) == 0
    held = lock(run)
    assert held is not None and main(one(exported)) == 0
    assert len(list(Path("runs/synthesize").iterdir())) == 3
    held.close()
    capsys.readouterr()
    assert main(one(exported)) == 0
    assert f"continuing {run} (3 of 4 batches done)" in capsys.readouterr().err
    assert len(list(Path("runs/synthesize").iterdir())) == 3
    assert json.loads((run / "manifest.json").read_text())["status"] == "done"
    others = [contents(path) for path in Path("runs/synthesize").iterdir()]
    assert others.count(contents(run)) == 2


def test_out_that_is_taken(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path}/run"
    assert main(one(exported, out)) == 0
    before = contents(tmp_path / "run")
    stamp = (tmp_path / "run" / "results.csv").stat().st_mtime_ns
    assert main(one(exported, out)) == 0
    assert "done already" in capsys.readouterr().err
    assert (tmp_path / "run" / "results.csv").stat().st_mtime_ns == stamp
    assert main(one(exported, out, "seed=3")) == 2
    assert "holds another job" in capsys.readouterr().err and contents(tmp_path / "run") == before
    assert main(one(exported, out, "seed=3", "resume=false")) == 0
    assert {row["seed"] for row in contents(tmp_path / "run")["rows"]} == {"3"}


def sizes(watched: type[Watched]) -> list[int]:
    return [len(batch) for batch in watched.begun]


@pytest.mark.slow
def test_memory_that_is_full_halves_the_batch(
    exported: Path, tmp_path: Path, watched: type[Watched], capsys: pytest.CaptureFixture[str]
) -> None:
    """The cut is remembered: a continued job climbs in the batches of the one that was not interrupted."""

    def small(count: int) -> None:
        if count > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        if fitting() == stop:
            raise KeyboardInterrupt

    def fitting() -> int:
        return sum(len(batch) <= 2 for batch in watched.begun)

    watched.fails(small)
    stop = 0
    job = [*one(exported), "seeds=5", "batch=8", "prior=pixel", *watched_prior()]
    job = [word for word in job if not word.startswith(("batch=1", "prior=[", "prior.fourier"))]
    assert main([*job, f"out={tmp_path}/whole"]) == 0
    assert sizes(watched) == [8, 4, *[2] * 5] and "batches of 2" in capsys.readouterr().err
    watched.begun.clear()
    stop = 3
    assert main([*job, f"out={tmp_path}/cut"]) == 130
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    assert manifest["batch"] == {"pixel": 2} and manifest["status"] == "interrupted"
    watched.begun.clear()
    stop = 0
    assert main([*job, f"out={tmp_path}/cut"]) == 0
    assert sizes(watched) == [2] * 3 and contents(tmp_path / "cut") == contents(tmp_path / "whole")

    def nothing(_: int) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    watched.fails(nothing)
    capsys.readouterr()
    assert main([*job, f"out={tmp_path}/none"]) == 2
    assert "one sample of prior 'pixel' can't climb in this memory" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_codes_are_joined_from_the_parts(exported: Path, tmp_path: Path) -> None:
    """Row by row, and in each prior's own coordinates: each code decodes to the picture of its row."""
    assert main(one(exported, f"out={tmp_path}/apart")) == 0  # two units, a batch each
    joined = load_file(tmp_path / "apart" / "codes.safetensors")
    assert {name: tuple(code.shape) for name, code in joined.items()} == {
        "pixel": (2, 3, 16, 16), "fourier": (2, 2, 3, 16, 9),
    }  # fmt: skip
    for name, codes in joined.items():
        images = load_prior(name, size=16).decode(codes)
        for unit, image in enumerate(images):
            with Image.open(tmp_path / "apart" / "images" / f"{unit}--{name}--s0.png") as kept:
                assert kept.tobytes() == to_image(image).tobytes(), (name, unit)
        assert not torch.equal(*images)


def test_a_batch_is_the_devices_own(exported: Path, tmp_path: Path) -> None:
    """32 on a CPU, more on a GPU; the run folder says which, so that it can be made again elsewhere."""
    assert [default_batch(torch.device(name)) for name in ("cpu", "cuda")] == [32, 256]
    job = [word for word in one(exported, "device=cpu", f"out={tmp_path}/run") if word != "batch=1"]
    assert main(job) == 0
    assert "\nbatch: 32\n" in (tmp_path / "run" / "config.yaml").read_text()
