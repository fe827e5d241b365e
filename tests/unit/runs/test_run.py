"""Run folders: what is written, taken up, refused, and removed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dgn.errors import DgnError
from dgn.runs.past import read_run, title_of
from dgn.runs.run import Run

ROW = {"unit": "ant", "prior": "pixel", "seed": 0, "activation": 1.5, "image": "images/ant.png", "unsaid": 3}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_new_folder_is_one_jobs_alone() -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: Run.new("ablate"), range(40)))
    folders = [run.folder for run in runs]
    assert len(set(folders)) == 40 and all(folder.is_dir() for folder in folders)
    for run in runs[1:]:
        assert run.discard() and not run.folder.exists()
    runs[0].write_text("results.csv", "a\n")
    assert not runs[0].discard() and [path.name for path in Path("runs/ablate").iterdir()] == [folders[0].name]


def test_a_new_folder_is_removed_with_those_around_it() -> None:
    run = Run.new("ablate")
    run.write_text("config.yaml", "a: 1\n")
    run.write_manifest({"status": "running"})
    assert run.discard() and not Path("runs").exists()
    Path("runs").write_text("")
    with pytest.raises(DgnError, match=r"can't make the run folder 'runs/ablate/.*': Not a directory"):
        Run.new("ablate")


def test_what_a_run_wrote_is_taken_up() -> None:
    """Its table and manifest are read back; in its folder only the same verb goes on."""
    run = Run(Path("run"), ["results.csv"])
    run.write_table([ROW, {**ROW, "facet": 2}])
    run.write_manifest({"verb": "facets", "status": "done", "started": "now", "network": "net", "overrides": ["k=1"]})
    past = read_run(Path("run"))
    assert [row["facet"] for row in past.rows] == ["", "2"] and "unsaid" not in past.rows[0]
    assert past.column("unit") == ["ant"] and past.overrides == ["k=1"]
    assert title_of([past, past]) == "What units of net want to see"
    again = Run(Path("run"), ["results.csv"])
    assert again.take_up("facets")["status"] == "done" and again.holds("results.csv")
    again.check_way()
    with pytest.raises(DgnError, match="holds a run of dgn facets"):
        Run(Path("run")).take_up("synthesize")
    Path("run/results.csv").write_text("mine")
    with pytest.raises(DgnError, match="is not what dgn wrote there"):
        again.check_way()


def test_runs_are_joined_beside_others() -> None:
    Path("pool/0").mkdir(parents=True)
    with pytest.raises(DgnError, match="is not empty"):
        Run(Path("pool"), (), "gather.json").take_up("gather")
    run = Run(Path("pool"), (), "gather.json")
    assert run.take_up("gather", beside=True) == {}
    Path("pool/gather.json").write_text("{}")
    with pytest.raises(DgnError, match=r"gather.json' is not what dgn wrote there"):
        run.take_up("gather", beside=True)


def test_a_folder_that_is_no_run() -> None:
    with pytest.raises(DgnError, match=r"lacks results\.csv or manifest\.json"):
        read_run(Path("."))
    Path("manifest.json").write_text("{}")
    Path("results.csv").write_text("unit,seed\nant,1\n")
    with pytest.raises(DgnError, match="no columns activation, image, prior"):
        read_run(Path("."))
    Path("manifest.json").write_text("{")
    with pytest.raises(DgnError, match="can't be read"):
        read_run(Path("."))
