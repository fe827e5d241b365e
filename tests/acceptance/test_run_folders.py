"""Run folders: one process at a time, a name for one job alone, and what is finished stays when a job is stopped."""

from __future__ import annotations

import _thread
import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import rest_slow
from safetensors.torch import load_file
from smallest import TINY
from watched import Watched, behind_the_write, interrupt, looks, watched_prior

from dgn.cli.main import main
from dgn.cli.sweeps.resume import hold
from dgn.errors import DgnError
from dgn.files.storage import lock


@pytest.fixture(autouse=True)
def _at_the_desk(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGN_PATIENCE", "0.2")
    for name in ("small.pt2", "pictures"):
        Path(name).symlink_to(desk / name)


def status(folder: str) -> str:
    return str(json.loads(Path(folder, "manifest.json").read_text())["status"])


@pytest.mark.parametrize("verb", rest_slow(["ablate", "evaluate", "examples", "facets", "figure", "train"]))
def test_one_process_in_a_folder(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each verb holds its folder's lock while it works, and keeps out of one that another holds."""
    seen: list[object] = []

    def look(*_: object) -> None:
        seen.append(lock(Path("run")))
        raise KeyboardInterrupt

    command = [verb, *TINY[verb], "out=run"]
    behind_the_write(monkeypatch, "config.yaml", look)  # one of the first
    assert main(command) == 130
    assert seen == [None] and not Path("run").exists()
    held = lock(Path("run"))
    assert held is not None
    Path("run/config.yaml").write_text("of another job")
    capsys.readouterr()
    assert main(command) == 2
    assert capsys.readouterr().err.splitlines() == [
        "dgn: another process is at work in 'run'; wait for it, or give another out="
    ]
    assert seen == [None] and {path.name for path in Path("run").iterdir()} == {".lock", "config.yaml"}
    assert Path("run/config.yaml").read_text() == "of another job"
    held.close()
    assert main(command) == 2 and "is not empty and holds no run of" in capsys.readouterr().err
    Path("run/config.yaml").unlink()
    behind_the_write(monkeypatch, "config.yaml", look)
    assert main(command) == 130 and len(seen) == 2


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf"])
def test_how_long_it_waits_is_a_number(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGN_PATIENCE", given)
    with pytest.raises(DgnError, match=f"DGN_PATIENCE is '{given}', expected seconds, 0 or more"):
        hold(Path("run"))
    assert not Path("run").exists()


@pytest.mark.usefixtures("watched")
def test_an_interrupted_ablation_keeps_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third image of three is interrupted: overlays, numbers and the table's rows of two are there."""
    command = ["ablate", *TINY["ablate"], "unit={_target_:watched.first_output,layers:[output],name:first}"]
    behind_the_write(monkeypatch, "results.csv", lambda: looks.interrupts(len(looks.seen) + 1), number=2)
    assert main([*command, "image=[pictures/a.png,pictures/0/b.png,pictures/0/c.png]", "out=run"]) == 130
    with Path("run/results.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a", "b"]
    assert len(list(Path("run/images").glob("*.png"))) == 2 and status("run") == "interrupted"


@pytest.mark.slow
def test_an_interrupted_evaluation_keeps_its_methods(watched: type[Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["evaluate", *TINY["evaluate"], *watched_prior(), "out=run"]
    with monkeypatch.context() as patch:
        behind_the_write(patch, "pixel.safetensors", interrupt)
        assert main(command) == 130
    assert status("run") == "interrupted" and Path("run/images/pixel.safetensors").is_file()
    assert len(watched.begun) == 1
    assert main(command) == 0 and status("run") == "done"
    assert len(watched.begun) == 1  # nothing was left to climb


@pytest.mark.slow
def test_a_method_that_was_killed_goes_on_with_its_next_batch(watched: type[Watched]) -> None:
    command = ["evaluate", *TINY["evaluate"], *watched_prior(), "seeds=4", "batch=1"]
    watched.interrupts(3)
    assert main([*command, "out=killed"]) == 130 and watched.begun == [[0], [1], [2]]
    watched.reset()
    assert main([*command, "out=killed"]) == 0 and watched.begun == [[2], [3]]
    assert main([*command, "out=whole"]) == 0 and watched.begun[2:] == [[0], [1], [2], [3]]
    images = [load_file(Path(out, "images/pixel.safetensors"))["images"] for out in ("killed", "whole")]
    assert torch.equal(*images) and len(images[0]) == 4


@pytest.mark.slow
def test_a_finished_figure_stays_when_the_upload_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while Weights & Biases takes its time at the end."""
    uploading = SimpleNamespace(
        log=lambda *_, **__: None, define_metric=lambda *_, **__: None, summary={},
        finish=lambda **_: _thread.interrupt_main(),
    )  # fmt: skip
    monkeypatch.setattr("wandb.init", lambda **_: uploading)
    words = [word for word in TINY["figure"] if not word.startswith(("figure=", "tracking="))]
    command = ["figure", "figure=ablation", "tracking=offline", *words]
    assert main([*command, "figure.images=[pictures/a.png]", "figure.size=8", "figure.stride=8", "out=run"]) == 130
    assert status("run") == "done" and Path("run/ablation.pdf").is_file()
