"""Launchers as real processes: local pools, submitit, Slurm's commands, a Ray cluster; what becomes of their jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ALONE
from hydra import compose, initialize_config_dir
from processes import TINY, alive, rows, start, until

from dgn.cli import schema
from dgn.cli.main import main
from dgn.resources import resource

SUBMITIT = pytest.mark.needs("submitit", "hydra_plugins.hydra_submitit_launcher")


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


@pytest.mark.slow
@ALONE
@pytest.mark.parametrize(
    ("launcher", "word"),
    [("local", "spawn_main"), pytest.param("slurm_local", "submitit.core._submit", marks=SUBMITIT)],
)
def test_all_jobs_die_before_they_begin(
    launcher: str,
    word: str,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They have failed, the sweep says so, and its folder stays."""
    monkeypatch.chdir(tmp_path)
    mortal(monkeypatch, tmp_path, word, 2)
    job = ["synthesize", "-m", *small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, f"launcher={launcher}"]
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


@pytest.mark.slow
@ALONE
def test_one_job_dies_before_it_begins(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the one that failed, and the one that the same command runs."""
    monkeypatch.chdir(tmp_path)
    mortal(monkeypatch, tmp_path, "spawn_main", 1)
    job = ["synthesize", "-m", *small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, "launcher=local"]
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


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Slurm's commands as shell scripts: jobs 0 and 1 of the array 77 are taken, and never run."""
    folder.mkdir()
    for name, text in {"srun": "", "sbatch": "echo Submitted batch job 77", **commands}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


SACCT = "printf 'JobID|State|NodeList\\n77_0|%s|n\\n77_1|%s|n\\n'"


@SUBMITIT
def test_slurm_kills_jobs(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm's word for what became of each is in the line."""
    from hydra_plugins.dgn_launchers import _submitit

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_submitit.GRACE, "slurm", 0.0)
    slurm(tmp_path / "bin", monkeypatch, sacct=f"{SACCT} OUT_OF_MEMORY TIMEOUT")
    job = ["synthesize", "-m", *small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, "launcher=slurm"]
    assert main(job) == 2
    said = capsys.readouterr().err
    assert "2 of the sweep's 2 jobs failed: 0 (seed=0): its process died (OUT_OF_MEMORY); its log is " in said
    assert "1 (seed=1): its process died (TIMEOUT)" in said and "Traceback" not in said
    (sweep,) = Path("runs/synthesize").iterdir()
    assert json.loads((sweep / "sweep.json").read_text())["failed"] == [0, 1]


@SUBMITIT
@ALONE
def test_sigterm_cancels_slurms_jobs(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole array is cancelled; Slurm's first answer is when the signal comes."""
    monkeypatch.chdir(tmp_path)
    cancelled = tmp_path / "cancelled"
    running = f"kill -TERM $PPID; {SACCT} RUNNING RUNNING"
    answer = f"if [ -e {cancelled} ]; then {SACCT} CANCELLED CANCELLED; else {running}; fi"
    slurm(tmp_path / "bin", monkeypatch, sacct=answer, scancel=f'echo "$@" > {cancelled}')
    job = ["synthesize", "-m", *small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, "launcher=slurm"]
    assert main([*job, "launcher.minutes=2", "out=sweep"]) == 143
    (script,) = (tmp_path / "sweep").rglob("*_submission.sh")  # submitit's warning comes 2 minutes before the end
    assert "#SBATCH --signal=USR2@30\n" in script.read_text() and "#SBATCH --time=2\n" in script.read_text()
    assert cancelled.read_text().split() == ["77"]
    assert capsys.readouterr().err.splitlines()[-1] == "dgn: interrupted; the same command continues"


@SUBMITIT
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


LASTING = ["units=all", "seed=0,1", "seeds=200", "batch=1", "ascent.steps=300"]
"""Jobs that no signal comes too late for."""


@SUBMITIT
@ALONE
def test_ctrl_c_ends_submitits_jobs(small: list[str], tmp_path: Path) -> None:
    """Each job writes its table and says that it was interrupted, and no process lives on."""
    job = ["synthesize", "-m", *small, *LASTING, *TINY, "out=sweep"]
    process = start(*job, "launcher=slurm_local", cwd=tmp_path, DGN_MARK=str(tmp_path))
    sweep = tmp_path / "sweep"
    until(lambda: all(list((sweep / job / "parts").glob("[!.]*.safetensors")) for job in "01"), process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in said, said
    assert not alive(f"DGN_MARK={tmp_path}")
    facts = json.loads((sweep / "sweep.json").read_text())
    assert (facts["status"], facts["failed"]) == ("interrupted", [0, 1])
    for folder in "01":
        assert json.loads((sweep / "jobs" / f"{folder}.json").read_text())["status"] == "interrupted"
        assert json.loads((sweep / folder / "manifest.json").read_text())["status"] == "interrupted"
        assert rows(sweep / folder / "results.csv")
    assert {row["job"] for row in rows(sweep / "results.csv")} == {"0", "1"}


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


def needed(words: str) -> list[pytest.MarkDecorator]:
    return [SUBMITIT] if "slurm" in words else [pytest.mark.needs("ray")] if "launcher=ray" in words else []


@pytest.mark.parametrize("words", [pytest.param(words, marks=needed(words)) for words in WRONG])
def test_wrong_launcher(
    words: str, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    if words.endswith("slurm"):
        monkeypatch.setenv("PATH", str(tmp_path))  # also on a machine that has Slurm
    assert main(["synthesize", "-m", *small, "units=[0]", "seed=0,1", "ascent.steps=1", *TINY, *words.split()]) == 2
    said = capfd.readouterr().err
    assert said.startswith("dgn: ") and WRONG[words] in said and said.count("\n") == 1, said
    assert not Path("runs").exists()


@SUBMITIT
@ALONE
def test_submitit(small: list[str], tmp_path: Path) -> None:
    """What Slurm would run, by submitit's local executor; a job that fails is said here, not in its log alone."""
    job = ["synthesize", "-m", *small, "units=[0],[7]", "ascent.steps=2", *TINY, "launcher=slurm_local", "out=sweep"]
    process = start(*job, cwd=tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert "1 of the sweep's 2 jobs failed: 1 (units=[7]): unit 7 is out of range" in said
    assert {row["job"] for row in rows(tmp_path / "sweep" / "results.csv")} == {"0"}


@pytest.mark.needs("submitit")
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
    variables["DGN_MARK"] = str(folder)
    variables.pop("CUDA_VISIBLE_DEVICES", None)
    call = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-gpus=2", "--num-cpus=4"]
    log = (folder / "head.log").open("w+")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a script in the background, which the head inherits
    head = subprocess.Popen([*call, *ports], env=variables, stdout=log, stderr=log, start_new_session=True)
    signal.signal(signal.SIGINT, before)
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
        for process in alive(f"DGN_MARK={folder}"):  # asked, the head takes half a minute
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
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


@pytest.mark.needs("ray")
@ALONE
def test_ray(small: list[str], tmp_path: Path, cluster: list[str]) -> None:
    """Jobs get a GPU each, or halves of them."""
    job = ["synthesize", "-m", *small, "units=[0]", "seed=0,1,2", "ascent.steps=2", *TINY, *cluster, "out=sweep"]
    process = start(*job, cwd=tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    manifests = [json.loads((tmp_path / "sweep" / f"{job}" / "manifest.json").read_text()) for job in range(3)]
    assert {manifest["visible_gpus"] for manifest in manifests} <= {"0", "1"}
    assert len(rows(tmp_path / "sweep" / "results.csv")) == 6


@pytest.mark.needs("ray")
@ALONE
def test_a_job_dies_in_ray(small: list[str], tmp_path: Path, cluster: list[str]) -> None:
    """Before it begins: it has failed, and the other one is done."""
    job = ["synthesize", "-m", *small, "units=[0]", "seed=0,1", "ascent.steps=2", *TINY, *cluster, "out=sweep"]
    process = start(*job, "+hydra.callbacks.die._target_=die.Die", cwd=tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in said, said
    assert "1 of the sweep's 2 jobs failed: 0 (seed=0): it died in Ray: " in said
    assert {row["job"] for row in rows(tmp_path / "sweep" / "results.csv")} == {"1"}


@pytest.mark.needs("ray")
@ALONE
def test_signal_ends_rays_jobs(small: list[str], tmp_path: Path, cluster: list[str]) -> None:
    """Each running job writes its table and says that it was interrupted."""
    job = ["synthesize", "-m", *small, *LASTING, *TINY, *cluster]
    process = start(*job, "out=sweep", cwd=tmp_path)
    sweep = tmp_path / "sweep"
    until(lambda: all(list((sweep / job / "parts").glob("[!.]*.safetensors")) for job in "01"), process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in said, said
    facts = json.loads((sweep / "sweep.json").read_text())
    assert (facts["status"], facts["failed"]) == ("interrupted", [0, 1])
    for folder in "01":
        assert json.loads((sweep / "jobs" / f"{folder}.json").read_text())["status"] == "interrupted"
        assert json.loads((sweep / folder / "manifest.json").read_text())["status"] == "interrupted"
    assert {row["job"] for row in rows(sweep / "results.csv")} == {"0", "1"}
