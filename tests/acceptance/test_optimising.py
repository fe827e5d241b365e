"""Sweeps whose sweeper proposes values and is told what came of them: Optuna's, run for real."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from conftest import ALONE
from omegaconf import OmegaConf
from processes import rows
from watched import Watched, watched_prior

from dgn.cli.main import main
from dgn.cli.sweeps.job import told

TINY = ["prior=pixel", *watched_prior(), "tracking=off", "progress=false"]
NEEDS = pytest.mark.needs("hydra_plugins.hydra_optuna_sweeper")
OPTUNA = ["hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_jobs=1"]


def command(small: list[str], out: str, *words: str) -> list[str]:
    return ["synthesize", "-m", *small, "units=[0]", *TINY, *OPTUNA, *words, f"out={out}"]


@NEEDS
def test_optuna_finds_the_largest(small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is told is the mean activation of the job's table; the best job is the table's."""
    monkeypatch.chdir(tmp_path)
    assert main(command(small, "sweep", "hydra.sweeper.n_trials=4", "ascent.steps=range(1,9)")) == 0
    found = OmegaConf.load("sweep/optimization_results.yaml")
    table = {row["overrides"].split()[0]: float(row["activation"]) for row in rows(Path("sweep/results.csv"))}
    best = max(table, key=table.__getitem__)
    assert len(set(table.values())) > 1
    assert found.best_value == pytest.approx(table[best], abs=1e-4)
    assert f"ascent.steps={found.best_params['ascent.steps']}" in [k for k in table if table[k] == table[best]]


@NEEDS
@pytest.mark.parametrize("grid", [False, True], ids=["seeded", "grid"])
def test_a_stopped_optimising_sweep_continues(
    grid: bool, watched: type[Watched], small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proposals follow a seed that dgn gives where the user gave none, so the same command goes on."""
    monkeypatch.chdir(tmp_path)
    words = ["hydra.sweeper.n_trials=4", "ascent.steps=3"]
    words += (
        ["hydra/sweeper/sampler=grid", "ascent.lr=choice(0.01,0.1,0.5,1)"] if grid else ["ascent.lr=interval(0.01,1)"]
    )
    assert main(command(small, "whole", *words)) == 0
    watched.interrupts(3)
    assert main(command(small, "sweep", *words)) == 130
    watched.reset()
    assert main(command(small, "sweep", *words)) == 0
    assert len(watched.begun) == 2  # those that were done did not climb again

    def told(out: str) -> list[tuple[str, str]]:
        return [(row["overrides"].split()[0], row["activation"]) for row in rows(Path(out) / "results.csv")]

    assert told("whole") == told("sweep") and len(set(told("whole"))) == 4
    if grid:
        return
    assert main(command(small, "other", *words, "hydra.sweeper.sampler.seed=3")) == 0
    assert not {rate for rate, _ in told("other")} & {rate for rate, _ in told("whole")}


@NEEDS
@pytest.mark.parametrize("nan", [False, True], ids=["failed", "not a number"])
def test_a_job_without_a_value_does_not_end_the_search(
    nan: bool, odd: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gives an error, or the unit's activation is none: that of the second shard."""
    monkeypatch.chdir(tmp_path)
    words = ["hydra.sweeper.n_trials=6", "units=[0,1]"]
    words += ["shard=choice('2/2','1/2')", "ascent.steps=2"] if nan else ["ascent.steps=choice(-1,2)", "shard='1/2'"]
    for _ in range(2):
        assert main(command(odd, "sweep", *words)) == (0 if nan else 2)
        best = OmegaConf.load("sweep/optimization_results.yaml").best_params
        assert best == ({"shard": "1/2"} if nan else {"ascent.steps": 2})
        if not nan:
            assert " of the sweep's 6 jobs failed" in capsys.readouterr().err


@NEEDS
@pytest.mark.parametrize("first", [-1, 2])
def test_a_grid_keeps_its_best_when_a_job_failed(
    first: int, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the last one, after which Optuna's sampler stops the study: an error outside of its own loop."""
    monkeypatch.chdir(tmp_path)
    words = ["hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=2", f"ascent.steps=choice({first},{1 - first})"]
    assert main(command(small, "sweep", *words)) == 2
    assert OmegaConf.load("sweep/optimization_results.yaml").best_params == {"ascent.steps": 2}
    assert "1 of the sweep's 2 jobs failed" in capsys.readouterr().err


@NEEDS
@ALONE
@pytest.mark.parametrize("launcher", ["local", pytest.param("slurm_local", marks=pytest.mark.needs("submitit"))])
def test_a_launcher_tells_optuna_of_failures(
    launcher: str, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Jobs of other processes, which answer through a pipe or a record."""
    monkeypatch.chdir(tmp_path)
    words = ["hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]
    words += ["ascent.steps=choice(-1,2)", f"launcher={launcher}"]
    here = {"hydra.sweeper.n_jobs=1", *watched_prior()[:2]}  # a class of the tests is not to be found elsewhere
    assert main([word for word in command(small, "sweep", *words) if word not in here]) == 2
    assert OmegaConf.load("sweep/optimization_results.yaml").best_params == {"ascent.steps": 2}
    said = capfd.readouterr().err
    assert "1 of the sweep's 2 jobs failed" in said and "steps is -1" in said


def test_what_a_sweeper_is_told() -> None:
    """Of a process that died, too: launchers ask the same function."""
    basic = OmegaConf.create({"sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"}})
    optuna = OmegaConf.create(
        {"sweeper": {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}}
    )
    nan = float("nan")
    assert repr([told(value, basic) for value in (nan, 2.0, None, -math.inf)]) == "[nan, 2.0, None, -inf]"
    assert [told(value, optuna) for value in (nan, 2.0, None, -math.inf)] == [None, 2.0, None, None]
