"""Run folders: one process at a time, a name for one job alone, and what is finished stays when a job is stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rest_slow
from safetensors.torch import load_file
from smallest import TINY

import dgn.cli.sweeps.resume
from dgn.cli.main import main
from dgn.files.storage import lock
from dgn.synthesis.plan import Plan


@pytest.fixture(autouse=True)
def _at_the_desk(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dgn.cli.sweeps.resume, "PATIENCE", 0.2)
    for name in ("small.pt2", "pictures"):
        Path(name).symlink_to(desk / name)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def nth(number: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """The function, interrupted at its ``number``-th call."""
    calls: list[None] = []

    def call(*given: Any, **more: Any) -> Any:
        calls.append(None)
        if len(calls) == number:
            raise KeyboardInterrupt
        return real(*given, **more)

    return call


def status(folder: str) -> str:
    return str(json.loads(Path(folder, "manifest.json").read_text())["status"])


@pytest.mark.parametrize(
    "verb", rest_slow(["ablate", "evaluate", "examples", "facets", "figure", "train"], "ablate", "examples", "figure")
)
def test_one_process_in_a_folder(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each verb holds its folder's lock while it works, and keeps out of one that another holds."""
    seen: list[object] = []

    def look(*_: object) -> None:
        seen.append(lock(Path("run")))
        raise KeyboardInterrupt

    monkeypatch.setattr(dgn.cli.sweeps.resume, "open_tracker", look)
    command = [verb, *TINY[verb], "out=run"]
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
    assert main(command) == 130 and len(seen) == 2


def test_an_interrupted_ablation_keeps_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third image of three is interrupted: overlays, numbers and the table's rows of two are there."""
    monkeypatch.setattr("dgn.cli.verbs.ablate.ablate", nth(3, dgn.cli.verbs.ablate.ablate))
    images = "image=[pictures/a.png,pictures/0/b.png,pictures/0/c.png]"
    assert main(["ablate", *TINY["ablate"], images, "out=run"]) == 130
    with Path("run/results.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a", "b"]
    assert len(list(Path("run/images").glob("*.png"))) == 2 and status("run") == "interrupted"


@pytest.mark.slow
def test_an_interrupted_evaluation_keeps_its_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["evaluate", *TINY["evaluate"], "out=run"]
    with monkeypatch.context() as patch:
        patch.setattr("dgn.cli.verbs.evaluate.assess", interrupt)
        assert main(command) == 130
    assert status("run") == "interrupted" and Path("run/images/pixel.safetensors").is_file()
    monkeypatch.setattr("dgn.synthesis.plan.Plan.climb", interrupt)  # nothing is left to climb
    assert main(command) == 0 and status("run") == "done"


@pytest.mark.slow
def test_a_method_that_was_killed_goes_on_with_its_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    command, begun, real = ["evaluate", *TINY["evaluate"], "seeds=4", "batch=1"], [], Plan.climb

    def climb(self: Plan, first: int, *more: Any) -> Any:
        begun.append(first)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return real(self, first, *more)

    monkeypatch.setattr(Plan, "climb", climb)
    assert main([*command, "out=killed"]) == 130 and begun == [0, 1, 2]
    assert main([*command, "out=killed"]) == 0 and begun[3:] == [2, 3]
    assert main([*command, "out=whole"]) == 0 and begun[5:] == [0, 1, 2, 3]
    images = [load_file(Path(out, "images/pixel.safetensors"))["images"] for out in ("killed", "whole")]
    assert torch.equal(*images) and len(images[0]) == 4


@pytest.mark.slow
def test_a_finished_figure_stays_when_the_upload_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while Weights & Biases takes its time at the end."""
    real = dgn.cli.tracking.Tracker.finish

    def finish(self: Any, *, failed: bool = False) -> None:
        if not failed:
            raise KeyboardInterrupt
        real(self, failed=failed)

    monkeypatch.setattr(dgn.cli.tracking.Tracker, "finish", finish)
    command = ["figure", "figure=ablation", *(word for word in TINY["figure"] if not word.startswith("figure="))]
    assert main([*command, "figure.images=[pictures/a.png]", "figure.size=8", "figure.stride=8", "out=run"]) == 130
    assert status("run") == "done" and Path("run/ablation.pdf").is_file()
