"""The command line as a user meets it: a subprocess in an empty folder, and every bad input."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import wandb_records
from safetensors.torch import load_file

from dgn.cli.main import main
from dgn.files.storage import digest
from dgn.priors import load_prior

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    "ascent.steps=3",
    "ascent.inner=1",
    "ascent.screen=32",
    "ascent.race_steps=2",
    "ascent.refine_steps=2",
    "ascent.input_size=96",
    "progress=false",
]


def dgn(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, without an account, and check how it ended."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment |= {"HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "dgn", *arguments]
    ended = subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == code, ended.stderr
    return ended


def only_run(folder: Path) -> Path:
    """The one run folder below ``folder``."""
    (run,) = (folder / "runs" / "synthesize").iterdir()
    return run


def table(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


FINISHED = pytest.mark.xdist_group("finished")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one small job has run, both priors, a class and a hidden unit, two seeds."""
    folder = tmp_path_factory.mktemp("work")
    ended = dgn("synthesize", "units=[goldfish,'blocks.4.2:17']", "seeds=2", *SHORT, cwd=folder)
    assert ended.stdout.strip().endswith("grid.png")
    assert "Traceback" not in ended.stderr
    return folder


@FINISHED
def test_run_folder_is_complete(finished: Path) -> None:
    run = only_run(finished)
    rows = table(run)
    assert [(row["unit"], row["prior"], row["seed"]) for row in rows] == [
        (unit, prior, seed)
        for prior in ("dgn", "pixel")
        for unit in ("goldfish", "blocks.4.2:17")
        for seed in ("0", "1")
    ]
    for row in rows:
        with Image.open(run / row["image"]) as image:
            assert image.size == (128, 128)
        assert (row["probability"] != "") == (row["unit"] == "goldfish")
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml", "manifest.json", "results.csv", "codes.safetensors", "grid.png", "index.html",
    }  # fmt: skip
    assert not list(run.rglob("*.part"))
    codes = load_file(run / "codes.safetensors")
    assert codes["dgn"].shape[0] == codes["pixel"].shape[0] == 4
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "done" and manifest["seeds"] == [0, 1]
    assert all(len(value) == 64 for value in manifest["weights"].values())
    assert set(manifest["weights"]) == {"network", "dgn"}


@FINISHED
def test_codes_decode_to_the_images(finished: Path) -> None:
    """The kept code of the generator is the image that was kept."""
    import dgn as library
    from dgn.images.pictures import to_image

    run = only_run(finished)
    prior = library.load_prior("dgn").sampled()
    images = prior.decode(load_file(run / "codes.safetensors")["dgn"])
    with Image.open(run / "images" / "goldfish--dgn--s0.png") as kept:
        mine = torch.tensor(list(to_image(images[0]).tobytes())).int()
        difference = (mine - torch.tensor(list(kept.tobytes())).int()).abs()
    assert int(difference.max()) <= 1


@FINISHED
def test_offline_tracking_reads_back(finished: Path) -> None:
    (log,) = (only_run(finished) / "wandb").glob("offline-run-*")
    records = wandb_records(log)
    (started,) = (record["run"] for record in records if record["type"] == "run")
    assert started["job_type"] == "synthesize"
    assert started["config"]["update"]["ascent"]["steps"] == 3
    text = json.dumps([record for record in records if record["type"] == "history"])
    for expected in ("dgn/goldfish s0", "pixel/mean", "pixel/blocks.4.2:17 s1", '"grid', "results"):
        assert expected in text, expected
    assert list(log.rglob("*.table.json")) and list(log.rglob("grid*.png"))


@pytest.mark.slow
def test_same_seed_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        assert main(["synthesize", "units=[goldfish]", "seeds=2", "tracking=off", *SHORT, f"out={name}"]) == 0
    for name in ("codes.safetensors", "grid.png", "images/goldfish--dgn--s1.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not (tmp_path / "two" / "wandb").exists()


@pytest.mark.slow
def test_sweep_goes_on_past_a_failing_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    call = ["synthesize", "-m", "prior=pixel", "units=goldfish,goldfsh,zebra", "tracking=off", *SHORT]
    assert main(call) == 2
    said = capsys.readouterr().err
    (sweep,) = (tmp_path / "runs" / "synthesize").iterdir()
    assert {path.name for path in sweep.iterdir() if (path / "results.csv").exists()} == {"0", "2"}
    assert "units=goldfsh" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sinthesize"], "did you mean 'synthesize'"),
        (["synthesize", "network.name=resnet50"], "no network 'resnet50'"),
        (["synthesize", "network.name=torchvision/resnet5"], "did you mean 'resnet50'"),
        (["synthesize", "network=nothing"], "no network 'nothing'"),
        (["synthesize", "units=[goldfsh]"], "did you mean 'goldfish'"),
        (["synthesize", "units=['blocks.4.9:1']"], "no layer 'blocks.4.9'"),
        (["synthesize", "units=['blocks.4.2:112']"], "out of range"),
        (["synthesize", "units=[1000]"], "out of range"),
        (["synthesize", "prior=dgm"], "did you mean 'dgn'"),
        (["synthesize", "prior.dgn.path=nowhere"], "no prior 'nowhere'"),
        (["synthesize", "prior.dgn.size=200"], "multiple of 16"),
        (["synthesize", "prior.dgn.size=big"], "prior.dgn.size is 'big', expected pixels"),
        (["synthesize", "+prior.mine.path=nowhere"], "no prior 'nowhere'"),
        (["synthesize", "+prior.mine.size=64"], "prior.mine has no path"),
        (["synthesize", "+prior.mine={path: dgn, pth: 3}"], "no key 'prior.mine.pth'; did you mean 'path'"),
        (["synthesize", "prior=[]"], "no prior chosen"),
        (["synthesize", "ascent.rule=adm"], "did you mean 'adam'"),
        (["synthesize", "ascent.stepz=3"], "did you mean 'ascent.steps'"),
        (["synthesize", "seed=abc"], "Value 'abc'"),
        (["synthesize", "seeds=0"], "seeds is 0"),
        (["synthesize", "tracking.mode=onlin"], "did you mean 'online'"),
        (["synthesize", "device=gpu"], "no device 'gpu'"),
        (["synthesize", "network.weights=nowhere.pt"], "no weights file"),
        (["synthesize", "units=[["], "[["),
        (["figure", "figure=start", "Y", "figure.rows.MACO.prior.maco=0:0"], "no key 'figure.rows"),
        (["train"], "data.root"),
        (["train", "data.root=nowhere"], "no file or folder"),
        (["train", "data.root=empty", "network.weights=none"], "known by its name alone"),
        (["train", "data.root=empty"], "no images"),
        (["train", "data.root=empty", "training=flow", "training.widths=[8]"], "training.widths is no key"),
        (["train", "data.root=empty", "training.patch=2"], "training.patch is no key of the training of a generator"),
        (["units", "find=zzzz"], "no class"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, one line that names the thing, nothing written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    assert printed.err.startswith("dgn: ") and expected in printed.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty"]


def test_bad_checkpoints_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut short, changed, and foreign files are refused before anything is written."""
    from dgn.resources import DEFAULT, resource

    monkeypatch.chdir(tmp_path)
    whole = (resource("pretrained") / DEFAULT / "generator.safetensors").read_bytes()
    changed = bytearray(whole)
    changed[-100] ^= 0xFF
    for name, data in {"cut": whole[:-1000], "changed": bytes(changed), "foreign": b"PK\x03\x04 not ours"}.items():
        Path(f"{name}.safetensors").write_bytes(data)
        assert main(["synthesize", f"prior.dgn.path={name}.safetensors"]) == 2
        line = capsys.readouterr().err.strip()
        assert name in line and len(line.splitlines()) == 1
    assert not Path("runs").exists()


def test_no_write_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run folder that can't be made: a file stands in its way."""
    (tmp_path / "file").write_text("")
    assert main(["synthesize", "prior=pixel", f"out={tmp_path}/file/run"]) == 2
    assert "can't make the run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_train_from_half_broken_tar_then_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few steps on a tar file with broken members; the generator that comes out is a prior."""
    generator = torch.Generator().manual_seed(0)
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for index in range(24):
            file = io.BytesIO()
            pixels = (torch.rand(8, 8, 3, generator=generator) * 255).byte().numpy()
            Image.fromarray(pixels).resize((70, 70)).save(file, "PNG")
            data = file.getvalue() if index % 4 else b"broken"
            member = tarfile.TarInfo(f"n0/{index}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    monkeypatch.chdir(tmp_path)
    assert main([
        "train", "data.root=images.tar", "out=mine", "training.steps=3", "training.batch=8",
        "training.widths=[16,16,8]",
        "training.depths=[1,1,1]", "training.components=8", "training.component_images=16", "training.held_out=2",
        "training.statistics_images=16", "tracking=off", "progress=false",
    ]) == 0  # fmt: skip
    assert "images could not be read" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "mine").iterdir()}
    assert names >= {"generator.safetensors", "components.safetensors", "losses.csv", "samples", "report.json"}
    assert main(["synthesize", "prior=dgn", "prior.dgn.path=mine", "units=goldfish", "tracking=off", *SHORT]) == 0
    run = only_run(tmp_path)
    assert [(row["unit"], row["prior"]) for row in table(run)] == [("goldfish", "dgn")]
    weights = json.loads((run / "manifest.json").read_text())["weights"]
    mine, shipped = (digest(load_prior(path).sampled().weights()) for path in (tmp_path / "mine", "dgn"))
    assert weights["dgn"] == mine != shipped


@pytest.mark.slow
def test_train_a_flow_then_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps on the shipped generator's codes; its folder is a prior whose samples are the flow's."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for index in range(12):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 70)).save(tmp_path / "pictures" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    train = [
        "train", "training=flow", "data.root=pictures", "out=flow", "training.batch=4", "training.patch=4",
        "training.width=32", "training.depth=1", "training.heads=2", "training.sample_steps=1",
        "training.held_out=2", "tracking=off", "progress=false", "compile=false",
    ]  # fmt: skip
    assert main([*train, "training.steps=1"]) == 0
    (codes,) = {
        path.stat().st_mtime_ns for path in (tmp_path / "flow").glob("codes-*.npy") if path.stat().st_size > 99_999
    }
    assert main([*train, "training.steps=2"]) == 0
    assert codes in {path.stat().st_mtime_ns for path in (tmp_path / "flow").glob("codes-*.npy")}
    assert json.loads((tmp_path / "flow" / "report.json").read_text())["step"] == 2
    with Image.open(tmp_path / "flow" / "samples" / "step-0000002.png") as picture:
        assert picture.size == (8 * 130 + 2, 2 * 130 + 2)  # without guidance above, of eight classes below
    manifest = json.loads((tmp_path / "flow" / "manifest.json").read_text())
    assert manifest["status"] == "done" and "flow.safetensors" in manifest["files"]
    call = ["synthesize", "prior=dgn", "prior.dgn.path=flow", "units=goldfish", "tracking=off", *SHORT]
    assert main([*call, "out=run"]) == 0
    weights = json.loads((tmp_path / "run" / "manifest.json").read_text())["weights"]
    mine = load_prior(tmp_path / "flow").sampled()
    assert mine is not None and weights["dgn"] == digest(mine.weights())
    assert any(name.startswith("flow.") for name in mine.weights())


@pytest.mark.needs("build", "hatchling")
def test_wheel_works_from_any_folder(tmp_path: Path) -> None:
    """A wheel holds configurations and weights, and runs where the checkout is not."""
    call = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(call, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert {"dgn/conf/synthesize.yaml", "dgn/conf/launcher/local.yaml", "hydra_plugins/dgn_launchers/local.py"} <= set(
        names
    )
    assert "hydra_plugins/__init__.py" not in names  # other plugins share that name
    assert any(name.startswith("dgn/pretrained/") and name.endswith("generator.safetensors") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.startswith(("runs/", "tests/"))]
    code = "import dgn, sys; print(dgn.__file__); from dgn.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code, "synthesize", "units=[zebra]", "tracking=off", *SHORT],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].startswith(str(site))
    run = only_run(tmp_path)
    assert [(row["unit"], row["prior"]) for row in table(run)] == [("zebra", "dgn"), ("zebra", "pixel")]
    with Image.open(run / "images" / "zebra--dgn--s0.png") as image:
        assert image.size == (128, 128)
