"""Sweeps as real processes: launchers, jobs that fail or die, signals, and what is joined at the end."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import SmallCNN
from hydra import compose, initialize_config_dir
from PIL import Image

from dgn.cli import schema
from dgn.cli.main import main
from dgn.resources import resource

TINY = [
    "prior=[pixel,fourier]", "prior.pixel.size=16", "prior.fourier.size=16", "tracking=off", "progress=false",
    "ascent.jitter=0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``network.name=`` of a tiny random network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "small.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(SmallCNN().eval(), (torch.rand(2, 3, 16, 16),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, path)
    return f"network.name={path}"


def start(*arguments: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    """The command as a process group of its own, as a terminal starts it: a shell that runs the tests in its background
    lets them, and their children, ignore Ctrl-C."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **variables}
    call = [sys.executable, "-m", "dgn", *arguments]
    return subprocess.Popen(
        call,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(condition: object, process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    """Wait for something on disk while the process lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as table:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(table)]


def alive(pattern: str) -> list[str]:
    """Command lines of living processes that hold a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if pattern in path.read_text(errors="replace") and "State:\tZ" not in (path.parent / "status").read_text():
                found.append((path.parent / "cmdline").read_text())
        except OSError:  # it has ended
            continue
    return found


def test_killed_sweep_continues(small: str, tmp_path: Path) -> None:
    """SIGKILL of the pool's own process: its children end too; the same command runs what is left, to the same end."""
    job = ["synthesize", "-m", small, "units=all", "shard=1/2,2/2", "seed=0,1", "batch=2", "ascent.steps=150", *TINY]
    pool = ["launcher=local", "launcher.slots=2"]
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
    third = start(*job, f"out={tmp_path}/whole", "launcher.slots=1", "launcher=local", cwd=tmp_path)
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
        for path in (sweep / str(number)).rglob("*.png"):
            other = tmp_path / "whole" / path.relative_to(sweep)
            assert path.read_bytes() == other.read_bytes()
        codes = Path(str(number)) / "codes.safetensors"
        assert (sweep / codes).read_bytes() == (tmp_path / "whole" / codes).read_bytes()


def test_dead_worker_is_replaced(small: str, tmp_path: Path) -> None:
    """One worker is killed from outside: its job alone has failed, and the same command runs just that one."""
    job = ["synthesize", "-m", small, "units=[0,1]", "seed=0,1,2", "ascent.steps=300", "batch=1", *TINY]
    job += ["launcher=local", "launcher.slots=1", f"out={tmp_path}/sweep"]
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_job_cleanly(small: str, tmp_path: Path, number: signal.Signals) -> None:
    """Table and manifest are written, Weights & Biases' run is marked, nothing lives on."""
    job = ["synthesize", small, "units=all", "batch=1", "ascent.steps=400", *TINY, "tracking=offline", "out=run"]
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
    call = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(log)]
    printed = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True).stdout
    (exit_record,) = [json.loads(line) for line in printed.splitlines() if '"type":"exit"' in line.replace(" ", "")]
    assert exit_record["exit"]["exit_code"] == 1


def test_sigterm_ends_the_pool(small: str, tmp_path: Path) -> None:
    job = ["synthesize", "-m", small, "units=all", "seed=0,1,2,3", "batch=1", "ascent.steps=600", *TINY, "out=sweep"]
    mark = {"DGN_MARK": str(tmp_path), "CUDA_VISIBLE_DEVICES": "3,5"}  # a process for each, which sees that one alone
    process = start(*job, "launcher=local", "device=cpu", cwd=tmp_path, **mark)
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


def test_gather_names_what_differs(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs that differ in settings stand in rows of their own, shards in one; each image has its command."""
    monkeypatch.chdir(tmp_path)
    job = ["synthesize", "-m", small, "units=[0,2,4]", "shard=1/2,2/2", "ascent.steps=2,3", *TINY, "out=sweep"]
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


def test_a_bug_in_one_job_stops_no_other(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dgn.cli.synthesize

    monkeypatch.chdir(tmp_path)
    real = dgn.cli.synthesize.plan

    def buggy(*given: object, seeds: list[int], **more: object) -> object:
        if seeds == [1]:
            raise ZeroDivisionError("division by zero")
        return real(*given, seeds=seeds, **more)

    monkeypatch.setattr(dgn.cli.synthesize, "plan", buggy)
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1,2", "ascent.steps=2", *TINY]
    assert main(job) == 2
    said = capsys.readouterr().err
    assert "1 of the sweep's 3 jobs failed: 1 (seed=1): unexpected ZeroDivisionError in synthesize.py" in said
    assert "To run just those: dgn synthesize -m" in said
    monkeypatch.setattr(dgn.cli.synthesize, "plan", real)
    opened = []
    load = dgn.cli.common.load_network
    monkeypatch.setattr(dgn.cli.common, "_NETWORKS", {})
    monkeypatch.setattr(dgn.cli.common, "load_network", lambda *a, **k: opened.append(a) or load(*a, **k))
    assert main([*job[:3], "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, "out=other"]) == 0
    assert len(opened) == 1  # once a process, not once a job
    assert main(job) == 0
    assert "(2 jobs done)" in capsys.readouterr().err
    assert len(list(Path("runs/synthesize").iterdir())) == 1


def mortal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str, deaths: int) -> None:
    """The first processes with a word in their command line end before they import anything."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"""
import os, sys
if any({word!r} in argument for argument in sys.orig_argv):
    for number in range({deaths}):
        try:
            os.close(os.open({str(tmp_path)!r} + f"/death{{number}}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        os._exit(3)
""")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("launcher, word", [("local", "spawn_main"), ("slurm_local", "submitit.core._submit")])
def test_all_jobs_die_before_they_begin(
    launcher: str,
    word: str,
    small: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They have failed, the sweep says so, and its folder stays."""
    monkeypatch.chdir(tmp_path)
    mortal(monkeypatch, tmp_path, word, 2)
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, f"launcher={launcher}"]
    assert main(job) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for number in (0, 1):
        assert re.search(rf"2 of the sweep's 2 jobs failed: .*{number} \(seed={number}\): its process died", said), said
    (sweep,) = Path("runs/synthesize").iterdir()
    facts = json.loads((sweep / "sweep.json").read_text())
    assert (facts["status"], facts["failed"]) == ("failed", [0, 1])
    if launcher == "slurm_local":
        (log, _) = set(re.findall(r"its log is (\S+_log\.err)", said))
        assert Path(log).is_file()


def test_one_job_dies_before_it_begins(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the one that failed, and the one that the same command runs."""
    monkeypatch.chdir(tmp_path)
    mortal(monkeypatch, tmp_path, "spawn_main", 1)
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, "launcher=local"]
    assert main(job) == 2
    said = capsys.readouterr().err
    assert "1 of the sweep's 2 jobs failed: 0 (seed=0): its process died (exit code 3)" in said
    (sweep,) = Path("runs/synthesize").iterdir()
    assert json.loads((sweep / "sweep.json").read_text())["failed"] == [0]
    stamp = (sweep / "jobs" / "1.json").stat().st_mtime_ns
    assert main(job) == 0
    assert "(1 jobs done)" in capsys.readouterr().err
    assert (sweep / "jobs" / "1.json").stat().st_mtime_ns == stamp
    assert {row["job"] for row in rows(sweep / "results.csv")} == {"0", "1"}


def test_a_record_that_cannot_be_written_is_no_success(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk: a job's end is lost, and the sweep is not done."""
    from dgn.cli.job import Record
    from dgn.errors import DgnError

    monkeypatch.chdir(tmp_path)
    write = Record.write

    def full(self: Record, facts: dict[str, object]) -> None:
        if self.number == 1:
            raise DgnError("can't write to 'jobs': No space left on device")
        write(self, facts)

    monkeypatch.setattr(Record, "write", full)
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, "out=sweep"]
    assert main(job) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert json.loads(Path("sweep/sweep.json").read_text())["status"] == "failed"
    monkeypatch.setattr(Record, "write", write)
    assert main(job) == 0


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Slurm's commands as shell scripts: jobs 0 and 1 of the array 77 are taken, and never run."""
    folder.mkdir()
    for name, text in {"srun": "", "sbatch": "echo Submitted batch job 77", **commands}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


SACCT = "printf 'JobID|State|NodeList\\n77_0|%s|n\\n77_1|%s|n\\n'"


def test_slurm_kills_jobs(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm's word for what became of each is in the line."""
    from hydra_plugins.dgn_launchers import _submitit

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_submitit.GRACE, "slurm", 0.0)
    slurm(tmp_path / "bin", monkeypatch, sacct=f"{SACCT} OUT_OF_MEMORY TIMEOUT")
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, "launcher=slurm"]
    assert main(job) == 2
    said = capsys.readouterr().err
    assert "2 of the sweep's 2 jobs failed: 0 (seed=0): its process died (OUT_OF_MEMORY); its log is " in said
    assert "1 (seed=1): its process died (TIMEOUT)" in said and "Traceback" not in said
    (sweep,) = Path("runs/synthesize").iterdir()
    assert json.loads((sweep / "sweep.json").read_text())["failed"] == [0, 1]


def test_sigterm_cancels_slurms_jobs(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole array is cancelled; Slurm's first answer is when the signal comes."""
    monkeypatch.chdir(tmp_path)
    cancelled = tmp_path / "cancelled"
    running = f"kill -TERM $PPID; {SACCT} RUNNING RUNNING"
    answer = f"if [ -e {cancelled} ]; then {SACCT} CANCELLED CANCELLED; else {running}; fi"
    slurm(tmp_path / "bin", monkeypatch, sacct=answer, scancel=f'echo "$@" > {cancelled}')
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, "launcher=slurm"]
    assert main(job) == 143
    assert cancelled.read_text().split() == ["77"]
    assert capsys.readouterr().err.splitlines()[-1] == "dgn: interrupted; the same command continues"


def test_the_time_of_a_slurm_job_is_almost_up() -> None:
    """What submitit raises at its warning before the end is a line that the job can write down, not a bug."""
    from submitit.core.utils import UncompletedJobError

    from dgn.errors import DgnError
    from hydra_plugins.dgn_launchers._submitit import _stoppable_job

    def requeue(*_: object) -> None:
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        signal.signal(signal.SIGUSR2, requeue)
        with pytest.raises(DgnError, match=r"its time, launcher\.minutes, is almost up: .*times"), _stoppable_job():
            signal.raise_signal(signal.SIGUSR2)
        with pytest.raises(SystemExit, match="143"), _stoppable_job():
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_submitits_jobs(small: str, tmp_path: Path, number: signal.Signals) -> None:
    """Each job writes its table and says that it was interrupted, and no process lives on."""
    job = ["synthesize", "-m", small, "units=all", "seed=0,1", "batch=1", "ascent.steps=300", *TINY, "out=sweep"]
    process = start(*job, "launcher=slurm_local", cwd=tmp_path, DGN_MARK=str(tmp_path))
    sweep = tmp_path / "sweep"
    until(lambda: all(list((sweep / job / "parts").glob("[!.]*.safetensors")) for job in "01"), process)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 128 + number and "Traceback" not in said, said
    assert not alive(f"DGN_MARK={tmp_path}")
    facts = json.loads((sweep / "sweep.json").read_text())
    assert (facts["status"], facts["failed"]) == ("interrupted", [0, 1])
    for folder in "01":
        assert json.loads((sweep / "jobs" / f"{folder}.json").read_text())["status"] == "interrupted"
        assert json.loads((sweep / folder / "manifest.json").read_text())["status"] == "interrupted"
        assert rows(sweep / folder / "results.csv")
    assert {row["job"] for row in rows(sweep / "results.csv")} == {"0", "1"}


def test_changed_files_make_another_sweep(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was made from a file's earlier content is never taken for what the command asks for now."""
    monkeypatch.chdir(tmp_path)
    units = Path("units.txt")
    units.write_text("0\n")
    job = ["synthesize", "-m", small, "units=@units.txt,[99]", "ascent.steps=2", *TINY]
    assert main(job) == 2 == main(job)
    assert "(1 jobs done)" in capsys.readouterr().err
    units.write_text("1\n3\n")
    assert main(job) == 2
    assert "jobs done" not in capsys.readouterr().err
    tables = [{row["unit"] for row in rows(path)} for path in sorted(Path("runs/synthesize").glob("*/0/results.csv"))]
    assert tables == [{"0"}, {"1", "3"}]
    named = ["synthesize", "-m", small, "units=@units.txt", "seed=0,1", "ascent.steps=2", *TINY, "out=named"]
    assert main(named) == 0 == main(named)
    units.write_text("2\n")
    capsys.readouterr()
    assert main(named) == 2
    said = capsys.readouterr().err
    assert said.startswith("dgn: 'named' holds this sweep from before a file that it names") and said.count("\n") == 1
    assert {row["unit"] for row in rows(Path("named/results.csv"))} == {"1", "3"}
    assert main([*named, "resume=false"]) == 0
    assert {row["unit"] for row in rows(Path("named/results.csv"))} == {"2"}


def test_changed_configuration_is_not_done(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command line does not show, such as the environment, counts too."""
    monkeypatch.chdir(tmp_path)
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1", "ascent.steps=${oc.env:DGN_STEPS}", *TINY, "out=sweep"]
    monkeypatch.setenv("DGN_STEPS", "2")
    assert main(job) == 0 == main(job)
    assert "is done already" not in capsys.readouterr().err  # not even asked
    monkeypatch.setenv("DGN_STEPS", "3")
    assert main(job) == 2
    assert "2 of the sweep's 2 jobs failed: 0 (seed=0): 'sweep/0' holds another job" in capsys.readouterr().err


def test_a_done_job_returns_its_value_again(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN and None among them, which sweepers that optimise tell apart."""
    import dgn.cli.synthesize
    from dgn.cli.job import Task

    monkeypatch.chdir(tmp_path)
    values = {0: float("nan"), 1: 2.5, 2: None, 3: float("-inf")}
    got: list[object] = []
    call = Task.__call__
    monkeypatch.setattr(Task, "__call__", lambda self, config: got.append(call(self, config)))
    monkeypatch.setattr(dgn.cli.synthesize, "run", lambda config: values[config.seed])
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1,2,3", *TINY, "out=sweep"]
    assert main(job) == 0
    monkeypatch.setattr(dgn.cli.synthesize, "run", lambda config: 1 / 0)
    assert main(job) == 0
    assert repr(got) == repr(2 * list(values.values()))
    for path in Path("sweep/jobs").iterdir():
        assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_gather_draws_nothing_from_outside(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that somebody changed names a picture elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert main(["synthesize", "-m", small, "units=[0,1]", "seed=0", "ascent.steps=1", *TINY, "out=sweep"]) == 0
    Image.new("RGB", (16, 16), (255, 0, 255)).save("secret.png")
    table = Path("sweep/0/results.csv")
    text = table.read_text().replace(rows(table)[0]["image"], "../../secret.png")
    table.write_text(text)
    assert main(["gather", "sweep"]) == 0
    colours = {colour for _, colour in Image.open("sweep/grid.png").getcolors(2**24)}
    assert (255, 0, 255) not in colours and len(colours) > 100


@pytest.mark.parametrize("name", ["hydra.mode=MULTIRUN", "++hydra.mode=multirun", "hydra.mode=RUN"])
def test_hydras_own_mode_is_refused(
    name: str, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep that dgn does not know of would be neither locked nor gathered, and could fail without a word."""
    monkeypatch.chdir(tmp_path)
    assert main(["synthesize", small, "units=[0],[99]", "ascent.steps=1", *TINY, name]) == 2
    assert capsys.readouterr().err == (
        "dgn: hydra.mode can't be given: -m runs a sweep, and a command without it one job\n"
    )
    assert not list(tmp_path.iterdir())


WRONG = {
    "launcher=local launcher.slots=-1": "launcher.slots is -1, expected a whole number above 0, or null",
    "launcher=local launcher.slots=0": "launcher.slots is 0",
    "launcher=local launcher.slots=1.5": "launcher.slots is 1.5",
    "launcher=local launcher.slots=true": "launcher.slots is True",
    "launcher=local launcher.slots=abc": "launcher.slots is 'abc'",
    "launcher=local launcher.slots=[1]": "launcher.slots is [1]",
    "launcher=local launcher.threads=0": "launcher.threads is 0",
    "launcher=local launcher.slotz=2": "no key 'launcher.slotz'",
    "launcher=local +hydra.launcher.x=1": "unexpected keyword argument 'x'",
    "launcher=local hydra.launcher=null": "Hydra launcher is not configured",
    "launcher=local hydra.launcher._target_=os.getcwd": "Invalid plugin 'os.getcwd'",
    "launcher=nothing": "no launcher 'nothing'; expected one of: basic, local, ray, slurm, slurm_local",
    "launcher=null": "Config group override must be a string or a list",
    "launcher.slots=2": "no key 'launcher.slots'",
    "hydra/launcher=dgn_locl": "no hydra/launcher 'dgn_locl'; did you mean 'dgn_local'",
    "launcher=slurm": 'the jobs can\'t go to slurm: Could not detect "srun"',
    "hydra/launcher=submitit_slurm": 'Could not detect "srun"',
    "launcher=slurm launcher.gpus=abc": "launcher.gpus: Value 'abc' of type 'str' could not be converted to Integer",
    "launcher=slurm launcher.at_once=0": "launcher.at_once is 0, expected 1 or more",
    "launcher=slurm_local launcher.minutes=-1": "launcher.minutes is -1, expected 1 or more",
    "launcher=slurm_local hydra.launcher.nodes=2": "the jobs can't go to local: LocalExecutor can use only one node",
    "launcher=ray launcher.gpus=-1": "launcher.gpus is -1, expected a number, 0 or more",
    "launcher=ray launcher.gpus=abc": "launcher.gpus is 'abc'",
    "launcher=ray launcher.cpus=null": "launcher.cpus is None",
    "launcher=ray launcher.address=7": "launcher.address is 7, expected a Ray cluster",
    "launcher=ray launcher.init=3": "launcher.init is 3, expected keywords of ray.init",
    "launcher=ray +launcher.init.x=1 launcher.address=local": "launcher=ray can't start the jobs: Unknown keyword",
    "launcher=ray launcher.address=nowhere": "launcher=ray can't start the jobs: ",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_launcher(
    words: str, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    assert main(["synthesize", "-m", small, "units=[0]", "seed=0,1", "ascent.steps=1", *TINY, *words.split()]) == 2
    said = capfd.readouterr().err
    assert said.startswith("dgn: ") and WRONG[words] in said and said.count("\n") == 1, said
    assert not Path("runs").exists()


def test_submitit(small: str, tmp_path: Path) -> None:
    """What Slurm would run, by submitit's local executor; a job that fails is said here, not in its log alone."""
    job = ["synthesize", "-m", small, "units=[0],[7]", "ascent.steps=2", *TINY, "launcher=slurm_local", "out=sweep"]
    process = start(*job, cwd=tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert "1 of the sweep's 2 jobs failed: 1 (units=[7]): unit 7 is out of range" in said
    assert {row["job"] for row in rows(tmp_path / "sweep" / "results.csv")} == {"0"}


def test_slurm_composes() -> None:
    """The configuration that goes to Slurm."""
    schema.register()
    with initialize_config_dir(str(resource("conf")), version_base="1.3"):
        overrides = ["launcher=slurm", "launcher.partition=gpu", "launcher.gpus=2", "hydra.launcher.account=me"]
        chosen = compose("synthesize", overrides, return_hydra_config=True).hydra.launcher
    assert chosen._target_.endswith("_submitit.SlurmLauncher")
    assert (chosen.partition, chosen.gpus_per_node, chosen.account, chosen.mem_gb) == ("gpu", 2, "me", 32)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Arguments for a real cluster that was there before, which declares two GPUs; its workers can import ``die``."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "die.py").write_text(DIE)
    ports = ["--port=0", "--include-dashboard=false", "--disable-usage-stats"]
    variables = {**os.environ, "HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
    variables["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    variables.pop("CUDA_VISIBLE_DEVICES", None)
    call = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-gpus=2", "--num-cpus=4"]
    log = (folder / "head.log").open("w+")
    head = subprocess.Popen([*call, *ports], env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        text = ""
        end = time.monotonic() + 90
        while not (found := re.search(r"--address='([\d.]+:\d+)'", text)):
            assert head.poll() is None and time.monotonic() < end, text
            time.sleep(0.2)
            text = (folder / "head.log").read_text()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("HOME", "RAY_AUTH_MODE", "PYTHONPATH"):
                patch.setenv(name, variables[name])
            yield ["launcher=ray", f"launcher.address='{found[1]}'", "launcher.gpus=0.5", "device=cpu"]
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)
        log.close()


DIE = """
import os
from hydra.experimental.callback import Callback

class Die(Callback):
    def on_job_start(self, config, **_):
        if config.hydra.job.num == 0:
            os._exit(3)
"""


def test_ray(small: str, tmp_path: Path, cluster: list[str]) -> None:
    """Jobs get a GPU each, or halves of them."""
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1,2", "ascent.steps=2", *TINY, *cluster, "out=sweep"]
    process = start(*job, cwd=tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    manifests = [json.loads((tmp_path / "sweep" / f"{job}" / "manifest.json").read_text()) for job in range(3)]
    assert {manifest["visible_gpus"] for manifest in manifests} <= {"0", "1"}
    assert len(rows(tmp_path / "sweep" / "results.csv")) == 6


def test_a_job_dies_in_ray(small: str, tmp_path: Path, cluster: list[str]) -> None:
    """Before it begins: it has failed, and the other one is done."""
    job = ["synthesize", "-m", small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, *cluster, "out=sweep"]
    process = start(*job, "+hydra.callbacks.die._target_=die.Die", cwd=tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in said, said
    assert "1 of the sweep's 2 jobs failed: 0 (seed=0): it died in Ray: " in said
    assert {row["job"] for row in rows(tmp_path / "sweep" / "results.csv")} == {"1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_rays_jobs(small: str, tmp_path: Path, cluster: list[str], number: signal.Signals) -> None:
    """Each running job writes its table and says that it was interrupted."""
    job = ["synthesize", "-m", small, "units=all", "seed=0,1", "batch=1", "ascent.steps=300", *TINY, *cluster]
    process = start(*job, "out=sweep", cwd=tmp_path)
    sweep = tmp_path / "sweep"
    until(lambda: all(list((sweep / job / "parts").glob("[!.]*.safetensors")) for job in "01"), process)
    process.send_signal(number)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 128 + number and "Traceback" not in said, said
    facts = json.loads((sweep / "sweep.json").read_text())
    assert (facts["status"], facts["failed"]) == ("interrupted", [0, 1])
    for folder in "01":
        assert json.loads((sweep / "jobs" / f"{folder}.json").read_text())["status"] == "interrupted"
        assert json.loads((sweep / folder / "manifest.json").read_text())["status"] == "interrupted"
    assert {row["job"] for row in rows(sweep / "results.csv")} == {"0", "1"}
