"""Sweeps as real processes: jobs that fail or are killed, changes, signals, and what is joined at the end."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from conftest import ALONE
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from PIL import Image
from processes import TINY, alive, rows, start, until, wandb_records
from watched import Watched, watched_prior

from dgn.cli.main import main

SOLO = ["prior=pixel", *(word for word in TINY if "fourier" not in word)]
"""The same with one prior."""


@pytest.mark.slow
@ALONE
def test_killed_sweep_continues(small: list[str], tmp_path: Path) -> None:
    """SIGKILL of the pool's own process: its children end too; the same command runs what is left, to the same end."""
    job = ["synthesize", "-m", *small, "units=all", "shard=1/2,2/2", "seed=0,1", "batch=2", "ascent.steps=80", *TINY]
    pool = ["launcher=local", "launcher.slots=2", "launcher.threads=1"]
    first = start(*job, *pool, cwd=tmp_path, DGN_MARK=str(tmp_path))
    sweeps = tmp_path / "runs" / "synthesize"
    until(lambda: [path for path in sweeps.glob("*/jobs/*.json") if '"done"' in path.read_text()], first)
    first.kill()
    first.communicate()
    end = time.monotonic() + 60
    while alive(f"DGN_MARK={tmp_path}"):
        assert time.monotonic() < end, alive(f"DGN_MARK={tmp_path}")
        time.sleep(0.05)
    (sweep,) = sweeps.iterdir()
    done = {path: path.stat().st_mtime_ns for path in sweep.glob("jobs/*.json") if '"done"' in path.read_text()}
    assert json.loads((sweep / "sweep.json").read_text())["status"] == "running" and 0 < len(done) < 4
    second = start(*job, *pool, cwd=tmp_path)
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert f"continuing the sweep runs/synthesize/{sweep.name} ({len(done)} jobs done)" in said
    assert len(list(sweeps.iterdir())) == 1
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    assert json.loads((sweep / "sweep.json").read_text())["status"] == "done"
    third = start(*job, f"out={tmp_path}/whole", cwd=tmp_path)  # in one process: the same to the bit
    third.communicate(timeout=300)
    assert third.returncode == 0
    for name in ("results.csv", "grid.png"):
        if name == "results.csv":
            mine, other = rows(sweep / name), rows(tmp_path / "whole" / name)
            assert len(mine) == 20
            strip = [{key: value for key, value in row.items() if key != "overrides"} for row in mine]
            assert strip == [{key: value for key, value in row.items() if key != "overrides"} for row in other]
        else:
            assert (sweep / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for number in range(4):
        pictures = sorted((sweep / str(number)).glob("images/*.png"))
        assert len(pictures) == len(list((tmp_path / "whole" / str(number)).glob("images/*.png"))) in (4, 6)
        for path in [*pictures, *(sweep / str(number)).glob("trajectory/*.png")]:
            other = tmp_path / "whole" / path.relative_to(sweep)
            assert path.read_bytes() == other.read_bytes()
        codes = Path(str(number)) / "codes.safetensors"
        assert (sweep / codes).read_bytes() == (tmp_path / "whole" / codes).read_bytes()


@pytest.mark.slow
@ALONE
def test_dead_worker_is_replaced(small: list[str], tmp_path: Path) -> None:
    """One worker is killed from outside: its job alone has failed, and the same command runs just that one."""
    job = ["synthesize", "-m", *small, "units=[0,1]", "seed=0,1,2", "ascent.steps=100", "batch=1", *TINY]
    job += ["launcher=local", "launcher.slots=1", "launcher.threads=1", f"out={tmp_path}/sweep"]
    process = start(*job, cwd=tmp_path)
    sweep = tmp_path / "sweep"
    until(lambda: list((sweep / "1" / "parts").glob("[!.]*.safetensors")), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    (worker,) = workers
    os.kill(worker, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2
    assert (
        "job 1: its process died (exit code -9)" in said
        and "1 of the sweep's 3 jobs failed: 1 (seed=1): its process died" in said
    )
    stamps = {number: (sweep / number / "results.csv").stat().st_mtime_ns for number in "02"}
    again = start(*job, cwd=tmp_path)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert re.search(r"continuing \S*sweep/1 \([1-4] of 4 batches done\)", said), said
    assert stamps == {number: (sweep / number / "results.csv").stat().st_mtime_ns for number in "02"}
    assert {row["job"] for row in rows(sweep / "results.csv")} == {"0", "1", "2"}


@pytest.mark.slow
@ALONE
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_job_cleanly(small: list[str], tmp_path: Path, number: signal.Signals) -> None:
    """Table and manifest are written, Weights & Biases' run is marked, nothing lives on."""
    job = ["synthesize", *small, "units=all", "batch=1", "ascent.steps=400", *TINY, "tracking=offline", "out=run"]
    process = start(*job, cwd=tmp_path, DGN_MARK=str(tmp_path))
    run = tmp_path / "run"
    until(lambda: len(list((run / "parts").glob("[!.]*.safetensors"))) >= 2, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in said, said
    assert "interrupted" in said
    manifest = json.loads((run / "manifest.json").read_text())
    kept = len(list((run / "parts").glob("[!.]*.safetensors")))
    assert manifest["status"] == "interrupted" and len(rows(run / "results.csv")) == kept >= 2
    assert not alive(f"DGN_MARK={tmp_path}")
    (log,) = (run / "wandb").glob("offline-run-*")
    (exit_record,) = [record for record in wandb_records(log) if record["type"] == "exit"]
    assert exit_record["exit"]["exit_code"] == 1


@pytest.mark.slow
@ALONE
def test_sigterm_ends_the_pool(small: list[str], tmp_path: Path) -> None:
    job = ["synthesize", "-m", *small, "units=all", "seed=0,1,2,3", "batch=1", "ascent.steps=600", *TINY, "out=sweep"]
    mark = {"DGN_MARK": str(tmp_path), "CUDA_VISIBLE_DEVICES": "3,5"}  # a process for each, which sees that one alone
    process = start(*job, "launcher=local", "launcher.threads=1", "device=cpu", cwd=tmp_path, **mark)
    sweep = tmp_path / "sweep"
    until(lambda: all(list((sweep / job / "parts").glob("[!.]*.safetensors")) for job in "01"), process)
    process.terminate()
    _, said = process.communicate(timeout=90)
    assert process.returncode == 143 and "Traceback" not in said, said
    assert not alive(f"DGN_MARK={tmp_path}")
    facts = json.loads((sweep / "sweep.json").read_text())
    assert facts["status"] == "interrupted" and facts["failed"] == [0, 1]
    assert {row["job"] for row in rows(sweep / "results.csv")} == {"0", "1"}
    manifests = [json.loads((sweep / job / "manifest.json").read_text()) for job in "01"]
    assert [manifest["status"] for manifest in manifests] == ["interrupted"] * 2
    assert [manifest["visible_gpus"] for manifest in manifests] == ["3", "5"]


@pytest.mark.slow
def test_gather_names_what_differs(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs that differ in settings stand in rows of their own, shards in one; each image has its command."""
    monkeypatch.chdir(tmp_path)
    job = ["synthesize", "-m", *small, "units=[0,2,4]", "shard=1/2,2/2", "ascent.steps=2,3", *TINY, "out=sweep"]
    assert main(job) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-3:] == ["sweep/results.csv", "sweep/index.html", "sweep/grid.png"]
    before = Path("sweep/index.html").read_bytes()
    assert main(["gather", "sweep"]) == 0
    assert Path("sweep/index.html").read_bytes() == before
    table = rows(Path("sweep/results.csv"))
    assert len(table) == 12 and all(Path("sweep", row["image"]).is_file() for row in table)
    page = before.decode()
    heads = json.loads(re.search(r'"methods": (\[.*?\])', page)[1])
    assert heads == [f"ascent.steps={steps} · {prior}" for steps in (2, 3) for prior in ("pixel", "fourier")]
    commands = re.findall(r'"c": "(.*?)"', page)
    assert len(commands) == 12 and not [command for command in commands if "shard" in command or "out=" in command]
    assert main(["gallery", "sweep"]) == 0
    assert main(["gather", str(tmp_path / "nowhere")]) == 2
    assert main(["gather", "sweep/0"]) == 2
    assert "no run of dgn synthesize below" in capsys.readouterr().err
    assert main([*job, "seed=3"]) == 2
    assert "holds another sweep" in capsys.readouterr().err
    assert main(["synthesize", "-m", "units=[0]", "sed=1,2"]) == 2
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_bug_in_one_job_stops_no_other(
    small: list[str], watched: type[Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    watched.fails(lambda _: 1 / (watched.begun[-1] != [1]))
    job = ["synthesize", "-m", *small, "units=[0]", "seed=0,1,2", "ascent.steps=2", *SOLO, *watched_prior()]
    assert main(job) == 2
    said = capsys.readouterr().err
    assert "1 of the sweep's 3 jobs failed: 1 (seed=1): unexpected ZeroDivisionError in loop.py" in said
    assert "To run just those: dgn synthesize -m" in said
    watched.reset()
    opened, load = [], torch.export.load
    monkeypatch.setattr(torch.export, "load", lambda *a, **k: opened.append(a) or load(*a, **k))
    other = ["synthesize", "-m", *small, "network.fit=fit", "units=[0]", "seed=0,1", "ascent.steps=2", "out=other"]
    assert main([*other, *SOLO]) == 0
    assert len(opened) == 1  # once a process, not once a job
    assert main(job) == 0
    assert "(2 jobs done)" in capsys.readouterr().err and watched.begun == [[1]]
    assert len(list(Path("runs/synthesize").iterdir())) == 1


@pytest.mark.slow
def test_a_record_that_cannot_be_written_is_no_success(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk: a job's end is lost, and the sweep is not done."""
    monkeypatch.chdir(tmp_path)
    rename = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).parts[-2:] == ("jobs", "1.json"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    job = ["synthesize", "-m", *small, "units=[0]", "seed=0,1", "ascent.steps=2", *SOLO, "out=sweep"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main(job) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert json.loads(Path("sweep/sweep.json").read_text())["status"] == "failed"
    assert main(job) == 0


@pytest.mark.slow
def test_changed_files_make_another_sweep(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was made from a file's earlier content is never taken for what the command asks for now."""
    monkeypatch.chdir(tmp_path)
    units = Path("units.txt")
    units.write_text("0\n")
    job = ["synthesize", "-m", *small, "units=@units.txt,[99]", "ascent.steps=2", *SOLO]
    assert main(job) == 2 == main(job)
    assert "(1 jobs done)" in capsys.readouterr().err
    units.write_text("1\n3\n")
    assert main(job) == 2
    assert "jobs done" not in capsys.readouterr().err
    tables = [{row["unit"] for row in rows(path)} for path in sorted(Path("runs/synthesize").glob("*/0/results.csv"))]
    assert tables == [{"0"}, {"1", "3"}]
    named = ["synthesize", "-m", *small, "units=@units.txt", "seed=0,1", "ascent.steps=2", *SOLO, "out=named"]
    assert main(named) == 0 == main(named)
    units.write_text("2\n")
    capsys.readouterr()
    assert main(named) == 2
    said = capsys.readouterr().err
    assert said.startswith("dgn: 'named' holds this sweep from before a file that it names") and said.count("\n") == 1
    assert {row["unit"] for row in rows(Path("named/results.csv"))} == {"1", "3"}
    assert main([*named, "resume=false"]) == 0
    assert {row["unit"] for row in rows(Path("named/results.csv"))} == {"2"}


@pytest.mark.slow
def test_changed_configuration_is_not_done(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command line does not show, such as the environment, counts too."""
    monkeypatch.chdir(tmp_path)
    job = ["synthesize", "-m", *small, "units=[0]", "seed=0,1", "ascent.steps=${oc.env:DGN_STEPS}", *SOLO, "out=sweep"]
    monkeypatch.setenv("DGN_STEPS", "2")
    assert main(job) == 0 == main(job)
    assert "is done already" not in capsys.readouterr().err  # not even asked
    monkeypatch.setenv("DGN_STEPS", "3")
    assert main(job) == 2
    assert "2 of the sweep's 2 jobs failed: 0 (seed=0): 'sweep/0' holds another job" in capsys.readouterr().err


class Told(Callback):
    """Keeps what jobs return to Hydra."""

    values: ClassVar[list[object]] = []

    def on_job_end(self, config: object, job_return: JobReturn, **_: object) -> None:
        self.values.append(job_return.return_value)


@pytest.mark.slow
def test_a_done_job_returns_its_value_again(
    odd: list[str], watched: type[Watched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN and None among them, which sweepers that optimise tell apart."""
    monkeypatch.chdir(tmp_path)
    Told.values.clear()
    tell = f"+hydra.callbacks.told._target_={__name__}.Told"
    Image.new("RGB", (16, 16), "red").save("red.png")
    sweeps = [
        ["synthesize", *odd, "units=[1],[0],[2]", "ascent.steps=2", *SOLO, *watched_prior(), "out=sweep"],
        ["ablate", *odd, "image=red.png", "unit=0", "size=8,4", "tracking=off", "progress=false", "out=none"],
    ]
    for verb, *words in sweeps:
        assert main([verb, "-m", *words, tell]) == 0
    once, Told.values = Told.values, []
    activation = float(rows(Path("sweep/1/results.csv"))[0]["activation"])
    assert repr(once) == repr([math.nan, once[1], -math.inf, None, None])
    assert once[1] == pytest.approx(activation, rel=1e-4) and len(watched.begun) == 3
    made = Path("none/0/results.csv").stat().st_mtime_ns
    for verb, *words in sweeps:
        assert main([verb, "-m", *words, tell]) == 0
    assert repr(Told.values) == repr(once)
    assert len(watched.begun) == 3 and Path("none/0/results.csv").stat().st_mtime_ns == made  # nothing ran again
    records = [*Path("sweep/jobs").iterdir(), *Path("none/jobs").iterdir()]
    assert len(records) == 5
    for path in records:
        assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_gather_draws_nothing_from_outside(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that somebody changed names a picture elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert main(["synthesize", "-m", *small, "units=[0,1]", "seed=0", "ascent.steps=1", *SOLO, "out=sweep"]) == 0
    Image.new("RGB", (16, 16), (255, 0, 255)).save("secret.png")
    table = Path("sweep/0/results.csv")
    text = table.read_text().replace(rows(table)[0]["image"], "../../secret.png")
    table.write_text(text)
    assert main(["gather", "sweep"]) == 0
    colours = {colour for _, colour in Image.open("sweep/grid.png").getcolors(2**24)}
    assert (255, 0, 255) not in colours and len(colours) > 100


@pytest.mark.parametrize("name", ["hydra.mode=MULTIRUN", "++hydra.mode=multirun", "hydra.mode=RUN"])
def test_hydras_own_mode_is_refused(
    name: str, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep that dgn does not know of would be neither locked nor gathered, and could fail without a word."""
    monkeypatch.chdir(tmp_path)
    assert main(["synthesize", *small, "units=[0],[99]", "ascent.steps=1", *SOLO, name]) == 2
    assert capsys.readouterr().err == (
        "dgn: hydra.mode can't be given: -m runs a sweep, and a command without it one job\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_flag_of_a_sweep_may_stand_anywhere(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """argparse by itself refuses overrides behind a flag that stands between them."""
    monkeypatch.chdir(tmp_path)
    for place, flag in enumerate(("-m", "--multirun")):
        words = ["synthesize", *small, "units=[0]", "ascent.steps=1", flag, "seed=0,1", *SOLO, f"out={place}"]
        assert main(words) == 0
        assert len(rows(tmp_path / str(place) / "results.csv")) == 2


@pytest.mark.slow
def test_a_job_is_composed_once_and_a_file_may_still_make_it_a_sweep(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra alone composes twice, first to find out; here that is done only where a file of one's own is searched."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    composed: list[object] = []
    load = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, *args: object, **more: object) -> object:
        composed.append(self)
        return load(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    monkeypatch.chdir(tmp_path)
    job = ["synthesize", *small, "units=[0]", "ascent.steps=2", "tracking=off", "progress=false"]
    assert main([*job, "prior=pixel", "out=one"]) == 0 and len(composed) == 1
    Path("found/prior").mkdir(parents=True)
    Path("found/prior/twice.yaml").write_text(
        "# @package _global_\nprior: {pixel: {path: pixel, size: 16}}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1'}}}\n"
    )
    assert main([*job, f"hydra.searchpath=[file://{tmp_path}/found]", "prior=twice"]) == 0
    assert len(list(Path("runs").rglob("results.csv"))) == 2
