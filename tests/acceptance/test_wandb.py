"""Weights & Biases: the command of its sweeps' agents, what a job logs, and what logging may cost."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ALONE
from processes import wandb_records

from dgn.cli.main import main
from dgn.cli.tracking import ALLOWANCE, SHARE, Tracker
from dgn.resources import resource

SHORT = [
    "ascent.steps=2",
    "ascent.screen=32",
    "ascent.race_steps=1",
    "ascent.refine_steps=1",
    "ascent.input_size=96",
    "prior.maco.size=32",
]


@pytest.mark.slow
@ALONE
def test_command_of_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's own code builds and starts the command of conf/wandb/sweep.yaml, here without a server."""
    from wandb.wandb_agent import Agent

    sweep = yaml.safe_load((resource("conf") / "wandb" / "sweep.yaml").read_text())
    command = [word.replace("tracking=online", "tracking=offline") for word in sweep["command"]]
    command = [*command[:-1], *SHORT, "threads=1", command[-1]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_RUN_ID", "unset")  # restored afterwards
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "unset")
    agent = SimpleNamespace(
        _in_jupyter=False, _function=None, _sweep_command=command, _forward_signals=False, _run_processes={}
    )
    values = {"ascent.lr": 0.03, "ascent.jitter": 0.03, "prior": "[maco]"}
    assert set(values) == set(sweep["parameters"])
    args = {name: {"value": value} for name, value in values.items()}
    Agent._command_run(agent, {"run_id": "abc123", "args": args, "program": None})
    assert agent._run_processes["abc123"].wait() == 0
    (run,) = (tmp_path / "runs" / "synthesize").iterdir()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["ascent"]["maco"]["lr"] == 0.03 and manifest["ascent"]["maco"]["jitter"] == 0.03
    (log,) = (run / "wandb").glob("offline-run-*")
    logged = wandb_records(log)
    (started,) = [record["run"] for record in logged if record["type"] == "run"]
    assert started["run_id"] == "abc123"
    assert manifest["versions"]["torch"] in json.dumps(started["config"])
    text = json.dumps([record for record in logged if record["type"] == "summary"])
    assert sweep["metric"]["name"] in text and "maco/activation" in text
    assert set(manifest["summary"]) >= {"activation", "log_probability", "probability"}


@pytest.mark.slow
def test_value_of_a_job_goes_to_the_sweeper(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an optimising sweeper sees is the mean over the first prior's rows."""
    monkeypatch.chdir(tmp_path)
    job = ["synthesize", "-m", *small, "units=[0,1]", "prior=[pixel,fourier]", "prior.pixel.size=16", "out=sweep"]
    job += ["prior.fourier.size=16", "ascent.steps=1,2", "tracking=off", "progress=false"]
    assert main([*job, "objective=log_probability"]) == 0
    import csv
    import math

    for number in range(2):
        with Path(f"sweep/{number}/results.csv").open() as file:
            chances = [float(row["probability"]) for row in csv.DictReader(file) if row["prior"] == "pixel"]
        value = json.loads(Path(f"sweep/jobs/{number}.json").read_text())["value"]
        summary = json.loads(Path(f"sweep/{number}/manifest.json").read_text())["summary"]
        assert value == summary["log_probability"] == summary["pixel/log_probability"]
        assert value == pytest.approx(sum(map(math.log, chances)) / 2, abs=0.02)


def test_objective_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "objective=activatio"]) == 2
    assert "did you mean 'activation'" in capsys.readouterr().err
    assert main(["synthesize", "units=['blocks.1:3']", "objective=probability"]) == 2
    assert "needs units that are classes" in capsys.readouterr().err


class Clock:
    """Time that only what is done moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    thread_time = monotonic


class Summary(dict[str, float]):
    """Tells when it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def update(self, values: dict[str, float]) -> None:  # type: ignore[override]
        super().update(values)
        self.told.set()


class Costly:
    """A run whose every call takes a fifth of a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.logged, self.cost = clock, 0, 0.0
        self.summary = Summary()

    def finish(self, **_: object) -> None:
        pass

    def wait(self, tracker: Tracker) -> None:
        """Until all that it was given is done."""
        self.summary.told.clear()
        tracker.summary({})
        assert self.summary.told.wait(30)

    def define_metric(self, *_: object, **__: object) -> None:
        pass

    def log(self, _: object) -> None:
        self.clock.now += 0.2
        self.cost += 0.2
        self.logged += 1


def test_curves_keep_to_their_share(tmp_path: Path) -> None:
    clock = Clock()
    run = Costly(clock)
    tracker = Tracker("offline", tmp_path, {}, begin=lambda **_: run, clock=clock)
    for step in range(500):
        clock.now += 1.0
        tracker.curves("dgn", step, {"mean": 0.0})
        run.wait(tracker)
    elapsed = clock.now - 100.0
    assert 3 <= run.logged < 50
    assert run.cost <= ALLOWANCE + SHARE * elapsed + 0.2 + 1e-9
    tracker.summary({"activation": 2.0})  # never left out
    tracker.finish()
    assert run.summary == {"activation": 2.0}


def test_the_folder_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that an agent has started works in another folder than the job."""
    monkeypatch.chdir(tmp_path)
    told: list[str] = []

    def begin(**how: object) -> Costly:
        told.append(str(how["dir"]))
        return Costly(Clock())

    Tracker("offline", Path("run"), {}, begin=begin).finish()
    assert told == [str(tmp_path / "run")]


def test_tables_keep_to_their_share_of_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of very many examples all numbers are logged, and the pictures of the first rows: of a number, and of a time."""
    clock = Clock()
    tables: list[dict[str, list[list[object]]]] = []

    def picture(path: str, **_: object) -> str:
        clock.now += cost
        return Path(path).name

    def table(columns: list[str]) -> SimpleNamespace:
        data: list[list[object]] = []
        return SimpleNamespace(data=data, add_data=lambda *values: data.append(list(values)))

    monkeypatch.setattr("wandb.Image", picture)
    monkeypatch.setattr("wandb.Table", table)
    columns = ("unit", "kind", "rank", "activation", "name")
    rows = [
        {"unit": "a", "kind": "top", "rank": rank, "activation": 0.5, "name": "x", "image": f"{rank}.png",
         "field": f"{rank}f.png" if rank % 2 else ""}
        for rank in range(1000)
    ]  # fmt: skip
    for cost, most in ((0.0, 512), (0.01, round(ALLOWANCE / 0.01))):
        run = SimpleNamespace(log=tables.append, finish=lambda **_: None)
        tracker = Tracker("offline", tmp_path, {}, begin=lambda run=run, **_: run, clock=clock)
        tracker.table("examples", rows, tmp_path, pictures={"image": "image", "field": "field"}, columns=columns)
        tracker.finish()
        data = tables[-1]["examples"].data
        assert [values[4] for values in data] == list(range(1000))  # every rank
        shown = [value for values in data for value in values[:2] if value is not None]
        assert most <= len(shown) <= most + 1 and shown[:4] == ["0.png", "1.png", "1f.png", "2.png"]


@pytest.mark.parametrize("broken", ["import", "Settings", "init"])
def test_the_job_goes_on_where_it_does_not_start(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise ValueError("no good\nat all")

    if broken == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        monkeypatch.setattr(f"wandb.{broken}", fail)
    tracker = Tracker("offline", tmp_path, {})
    tracker.summary({"activation": 1.0})
    tracker.finish()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dgn: Weights & Biases (offline) did not start: ") and line.endswith("; the job goes on")


@pytest.mark.slow
def test_jobs_of_a_sweep_share_a_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sweep's folder; each is named by what it overrides. A job alone has its folder's name, and no group."""
    begun: list[dict[str, object]] = []

    def begin(**given: object) -> None:
        begun.append(given)
        raise RuntimeError("not here")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wandb.init", begin)
    job = ["synthesize", "prior=pixel", "prior.pixel.size=32", "ascent.steps=1", "ascent.input_size=64"]
    job += ["units=[zebra]", "tracking=offline", "tracking.project=mine", "progress=false", "threads=1"]
    assert main([*job, "out=alone"]) == 0
    assert main([job[0], "-m", *job[1:], "seed=3,4"]) == 0
    (sweep,) = Path("runs/synthesize").iterdir()
    assert [(one["group"], one["job_type"], one["project"]) for one in begun] == [
        (None, "synthesize", "mine"), (sweep.name, "synthesize", "mine"), (sweep.name, "synthesize", "mine"),
    ]  # fmt: skip
    assert begun[0]["name"] == "alone"
    assert all(f"seed={seed}" in str(one["name"]).split(",") for one, seed in zip(begun[1:], (3, 4), strict=True))
