"""``dgn evaluate`` as a user meets it: one command, one table; the same command again; a run; bad input."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from watched import Watched, behind_the_write, watched_prior

import dgn
from dgn.cli.main import main

SHORT = [
    "ascent.inner=1",
    "ascent.steps=2", "ascent.screen=32", "ascent.starts=1", "ascent.refine_steps=1", "ascent.input_size=96", "seeds=2",
    "prior.dgn.size=128", "prior.pixel.size=64", "progress=false", "tracking=off",
]  # fmt: skip

pytestmark = pytest.mark.xdist_group("evaluate")  # one evaluation is made once, and looked at by all


class Tiny(nn.Module):
    """A classifier of another family: three numbers an image, a thousand classes."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(3, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(x).flatten(1))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled pictures (three classes, one of them rare) and a judge as an exported program."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    for wnid, count in (("n01443537", 5), ("n02391049", 5), ("n07753592", 1)):  # goldfish, zebra, banana
        (folder / "real" / wnid).mkdir(parents=True)
        for index in range(count):
            small = Image.fromarray(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8))
            small.resize((70, 80)).save(folder / "real" / wnid / f"{index}.png")
    torch.manual_seed(0)
    program = torch.export.export(
        Tiny().eval(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, folder / "tiny.pt2")
    return folder


@pytest.fixture(scope="module")
def evaluated(work: Path) -> Path:
    """The run of an evaluation."""
    assert main(["evaluate", *command(work), f"blind={work / 'sheets'}"]) == 0
    return work / "evaluated"


def command(folder: Path) -> list[str]:
    judges = f"judges=[efficientnet_lite0,{folder / 'tiny.pt2'}]"
    return [
        f"data.root={folder / 'real'}",
        judges,
        "trust=true",
        "prior=[dgn,pixel]",
        "classes=2",
        *SHORT,
        f"out={folder / 'evaluated'}",
    ]


def figures(run: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (run / "figures.csv").open() as file:
        return {(row["method"], row["metric"], row["judge"]): row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_the_table_has_every_metric_of_every_method(evaluated: Path) -> None:
    run = evaluated
    found = figures(run)
    for method in ("real", "dgn", "pixel"):
        assert (method, "activation_over_best", "") in found and (method, "ms_ssim", "") in found
        for judge in ("efficientnet_lite0", "tiny"):
            for metric in ("top1", "top5", "nearest", "kid", "diversity"):
                row = found[method, metric, judge]
                low, value, high = (float(row[name]) for name in ("low", "value", "high"))
                assert low <= high and (metric == "kid" or low <= value <= high), row
    assert float(found["real", "activation_over_best", ""]["high"]) <= 1 + 1e-3
    assert found["photographs", "top1", "tiny"]["n"] == "10"
    for metric in ("psnr", "code", "cycle"):
        assert ("dgn", metric, "") in found and ("pixel", metric, "") not in found
    assert float(found["dgn", "seconds", ""]["value"]) > 0
    table = (run / "table.md").read_text()
    assert "goldfish" not in table and "| KID | tiny |" in table
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "done" and manifest["judges"] == ["efficientnet_lite0", "tiny"]
    for name in ("panels.png", "grid.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 200
    assert (run / "panels.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_a_viewer_is_asked_and_scored(evaluated: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One image of each class by each method, and a photograph; with the answers there, nothing else is needed."""
    sheets = work / "sheets"
    with (sheets / "key.csv").open() as file:
        key = [(row["method"], row["class_index"]) for row in csv.DictReader(file)]
    assert sorted(key) == sorted((m, c) for m in ("dgn", "pixel", "photographs") for c in ("1", "340"))
    (sheets / "answers.csv").write_text(
        "number,name,natural\n"
        + "".join(f"{n},{'fish' if c == '1' else 'moon'},2\n" for n, (_, c) in enumerate(key, 1))
    )
    assert main(["evaluate", f"blind={sheets}"]) == 0
    assert "| dgn | 2 | 0% (0% to 0%) | 50% (0% to 100%) | 2.00" in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_command_takes_up_what_is_there(work: Path) -> None:
    """Nothing is climbed twice, and what did not depend on time is the same to the byte; a lost method is made anew."""
    run = work / "again"
    words = [
        f"data.root={work / 'real'}",
        f"judges=[{work / 'tiny.pt2'}]",
        "trust=true",
        "prior=[pixel,fourier]",
        "classes=2",
        "seeds=1",
    ]
    words += [
        "ascent.steps=2",
        "prior.pixel.size=64",
        "prior.fourier.size=64",
        "progress=false",
        "threads=1",
        "tracking=off",
        f"out={run}",
    ]
    assert main(["evaluate", *words]) == 0
    kept = {name: (run / name).read_bytes() for name in ("figures.csv", "table.md", "panels.png", "grid.png")}
    times = {path: path.stat().st_mtime_ns for path in (run / "images").iterdir()}
    assert {path.name for path in times} == {"fourier.safetensors", "pixel.safetensors"}
    assert main(["evaluate", *words]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {name: (run / name).read_bytes() for name in kept} == kept
    before = figures(run)
    damaged = bytearray((run / "images" / "pixel.safetensors").read_bytes())
    damaged[-5] ^= 1  # its SHA-256 gives it away
    (run / "images" / "pixel.safetensors").write_bytes(damaged)
    assert main(["evaluate", *words]) == 2  # it might be what somebody else did
    assert (run / "images" / "pixel.safetensors").read_bytes() == damaged
    (run / "images" / "pixel.safetensors").unlink()
    assert main(["evaluate", *words]) == 0
    after = figures(run)
    cost = {"seconds", "memory"}
    assert {k: v for k, v in before.items() if k[1] not in cost} == {k: v for k, v in after.items() if k[1] not in cost}


@pytest.mark.slow
def test_python_gives_the_same_figures(work: Path) -> None:
    """But for what they cost."""
    words = [word for word in command(work) if not word.startswith(("prior=", "out=", "prior.dgn"))]
    assert main(["evaluate", *words, "prior=pixel", f"out={work / 'pixels'}"]) == 0
    found = dgn.evaluate(
        dgn.load_network(), dgn.load_prior("pixel", size=64), work / "real", classes=2,
        judges=["efficientnet_lite0", str(work / "tiny.pt2")], inner=1, steps=2, screen=32, starts=1, refine_steps=1,
        input_size=96, trust=True,
    )  # fmt: skip
    rows = figures(work / "pixels")
    cost = ("seconds", "memory")  # memory is told where it rose
    keys = {(figure.method, figure.metric, figure.judge) for figure in found.figures}
    assert {key for key in keys if key[1] != "memory"} == {key for key in rows if key[1] != "memory"}
    for figure in found.figures:
        if figure.metric not in cost:
            row = rows[figure.method, figure.metric, figure.judge]
            assert [row["value"], row["low"]] == [f"{value:.6g}" for value in (figure.value, figure.low)], figure
    assert (
        "| KID | tiny |" in str(found)
        and len(found.differences) == len((work / "pixels" / "differences.csv").read_text().splitlines()) - 1
    )
    assert {cell.row for cell in found.cells()} == {"real", "pixel"} and found.grid(tile=32).width > 64


@pytest.mark.slow
def test_what_was_made_is_kept_when_a_job_ends_early(
    work: Path, watched: type[Watched], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """One Ctrl+C behind the first climb, and one before anything has climbed."""

    def stop(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    short = [word for word in command(work) if not word.startswith(("prior", "out=", "seeds=", "ascent.steps="))]
    for name, kept in (("behind", True), ("before", False)):
        out = work / f"stopped_{name}"
        more = ["prior=pixel", *watched_prior(64), "seeds=1", "ascent.steps=2", f"out={out}"]
        with monkeypatch.context() as patch:
            if kept:
                behind_the_write(patch, "pixel.safetensors", stop)
            else:
                watched.fails(stop)
            assert main(["evaluate", *short, *more]) == 130
        assert (out / "images" / "pixel.safetensors").exists() == kept and out.exists() == kept


@pytest.mark.slow
def test_a_finished_run_is_judged_as_it_is(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["prior=pixel", *(word for word in SHORT if "prior.dgn" not in word)]
    judged = [
        f"data.root={work / 'real'}",
        f"judges=[{work / 'tiny.pt2'}]",
        "trust=true",
        "progress=false",
        "tracking=off",
    ]
    assert main(["synthesize", "units=[goldfish,zebra]", *given, f"out={work / 'made'}"]) == 0
    assert main(["evaluate", "units=[goldfish,zebra]", *given, *judged[:3], f"out={work / 'direct'}"]) == 0
    capsys.readouterr()
    assert main(["evaluate", f"run={work / 'made'}", *judged, f"out={work / 'judged'}"]) == 0
    assert capsys.readouterr().out.strip().endswith("panels.png")
    found, direct = figures(work / "judged"), figures(work / "direct")
    for metric in ("top1", "top5", "nearest", "diversity"):
        mine, theirs = (each["pixel", metric, "tiny"] for each in (found, direct))
        assert float(mine["value"]) == pytest.approx(float(theirs["value"]), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["judges=[]"], "no judge given"),
        (["judges=[efficientnet_lite9]"], "efficientnet_lite9"),
        (["data.root=nowhere"], "no file or folder"),
        (["run=."], "no folder of a dgn run"),
        (["units=[banana]", "data.per_class=0", "prior=nosuch"], "nosuch"),
    ],
)
def test_bad_input_is_one_line(
    change: list[str], message: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [item for item in command(work) if item.split("=")[0] not in {c.split("=")[0] for c in change}]
    arguments = [item for item in arguments if not item.startswith(("out=", "prior."))]
    assert main(["evaluate", *arguments, *change, f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


@pytest.mark.slow
def test_a_judge_of_other_classes_names_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand classes and one for the background, as in TensorFlow: every name would be the next one's."""
    program = torch.export.export(
        Tiny(1001).eval(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, work / "background.pt2")
    short = [word for word in command(work) if not word.startswith(("prior", "out=", "judges=", "seeds="))]
    run = work / "other"
    short += [f"judges=[{work / 'background.pt2'}]", "prior=pixel", "prior.pixel.size=32", "seeds=1", f"out={run}"]
    assert main(["evaluate", *short]) == 0
    assert "judge background has other classes than efficientnet_lite0" in capsys.readouterr().err
    found = {(metric, judge) for _, metric, judge in figures(run)}
    assert ("kid", "background") in found and not {name for name, _ in found} & {"top1", "top5"}


@pytest.mark.slow
def test_classes_with_too_few_examples_to_align_with_are_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["evaluate", f"data.root={work / 'real'}", f"judges=[{work / 'tiny.pt2'}]", "trust=true", "prior=pixel"]
    short = ["ascent.steps=2", "seeds=1", "progress=false", "tracking=off", "+prior.pixel.references=3"]
    assert main([*job, *short, "units=[goldfish,banana,'blocks.1:3']", f"out={work / 'aligned'}"]) == 0
    line = "1 classes have fewer real images than prior.pixel.references=3: other classes' stand in: 'banana'"
    assert capsys.readouterr().err.count(line) == 1
    assert line in json.loads((work / "aligned" / "manifest.json").read_text())["warnings"]
