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
        "the process of job 1 died" in said and "1 of the sweep's 3 jobs failed: 1 (seed=1): its process died" in said
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
    assert chosen._target_.endswith("submitit_launcher.SlurmLauncher")
    assert (chosen.partition, chosen.gpus_per_node, chosen.account, chosen.mem_gb) == ("gpu", 2, "me", 32)


def test_ray(small: str, tmp_path: Path) -> None:
    """A real cluster that was there before, which declares two GPUs: jobs get one each, or halves of them."""
    ports = ["--port=0", "--include-dashboard=false", "--disable-usage-stats"]
    variables = {**os.environ, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    variables.pop("CUDA_VISIBLE_DEVICES", None)
    call = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-gpus=2", "--num-cpus=4"]
    log = (tmp_path / "head.log").open("w+")
    head = subprocess.Popen([*call, *ports], env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        text = ""
        end = time.monotonic() + 90
        while not (found := re.search(r"--address='([\d.]+:\d+)'", text)):
            assert head.poll() is None and time.monotonic() < end, text
            time.sleep(0.2)
            text = (tmp_path / "head.log").read_text()
        job = [
            "synthesize",
            "-m",
            small,
            "units=[0]",
            "seed=0,1,2",
            "ascent.steps=2",
            *TINY,
            "launcher=ray",
            "out=sweep",
        ]
        more = [f"launcher.address='{found[1]}'", "launcher.gpus=0.5", "device=cpu"]
        process = start(*job, *more, cwd=tmp_path, HOME=str(tmp_path), RAY_AUTH_MODE="disabled")
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        manifests = [json.loads((tmp_path / "sweep" / f"{job}" / "manifest.json").read_text()) for job in range(3)]
        assert {manifest["visible_gpus"] for manifest in manifests} <= {"0", "1"}
        assert len(rows(tmp_path / "sweep" / "results.csv")) == 6
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)
        log.close()
