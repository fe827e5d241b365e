"""``network.*`` on the command line, with tiny exported programs: long, grey, many channels, probabilities."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallCNN
from PIL import Image
from torch import Tensor, nn

from dgn.cli.main import main

QUIET = ["tracking=off", "progress=false"]
PIXELS = ["prior=pixel", "ascent.steps=2"]
PATCHES = ["size=8", "stride=8", "curve_steps=0"]
SHAPES = {"plain": (3, 16, 16), "wide": (3, 16, 32), "grey": (1, 16, 16), "four": (4, 16, 16), "soft": (3, 16, 16)}


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = SmallCNN(SHAPES[name][0]).eval()
    return nn.Sequential(module, nn.Softmax(1)).eval() if name == "soft" else module


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five programs, a file of class names, and photographs of 20 x 44 px in two labelled folders."""
    folder = tmp_path_factory.mktemp("desk")
    batch = torch.export.Dim("batch", min=1, max=64)
    for name, shape in SHAPES.items():
        program = torch.export.export(small(name), (torch.rand(2, *shape),), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / f"{name}.pt2")
    (folder / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    rng = np.random.default_rng(0)
    for name in ("ant/a", "ant/b", "bee/c", "bee/d"):
        path = folder / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 44, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(autouse=True)
def _there(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)


def network(name: str, *more: str) -> list[str]:
    return ["network=custom", f"network.name={name}.pt2", "trust=true", *(f"network.{one}" for one in more)]


def rows(file: str) -> list[dict[str, str]]:
    with Path(file).open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def manifest(out: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(Path(out, "manifest.json").read_text(encoding="utf-8"))
    return facts


def photograph(box: tuple[int, int, int, int], size: tuple[int, int], mode: str = "RGB") -> Tensor:
    """``photos/ant/a.png`` as somebody would prepare it by hand: left, top, right, bottom; width and height."""
    with Image.open("photos/ant/a.png") as image:
        shown = image.convert(mode).resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    pixels = torch.from_numpy(np.array(shown)).float() / 255
    return pixels[None, None] if mode == "L" else pixels.permute(2, 0, 1)[None]


SQUARE, LONG, WHOLE = (12, 0, 32, 20), (2, 0, 42, 20), (0, 0, 44, 20)


@pytest.mark.parametrize(
    ("name", "keys", "prepare"),
    [
        ("plain", ["mean=[0.1,0.2,0.3]", "std=0.5", "range=-1..1"],
         lambda: (photograph(SQUARE, (16, 16)) * 2 - 1 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / 0.5),
        ("plain", ["range=0..255", "mean=128", "std=64"], lambda: (photograph(SQUARE, (16, 16)) * 255 - 128) / 64),
        ("plain", ["fit=fit"], lambda: bordered()),
        ("wide", [], lambda: photograph(LONG, (32, 16)) * 2 - 1),
        ("wide", ["fit=stretch"], lambda: photograph(WHOLE, (32, 16)) * 2 - 1),
        ("grey", [], lambda: photograph(SQUARE, (16, 16), "L") * 2 - 1),
    ],
)  # fmt: skip
def test_examples_give_the_hand_made_number(name: str, keys: list[str], prepare: Any, tmp_path: Path) -> None:
    """All rules and normalisations, against the bare module on a photograph prepared by hand."""
    truth = float(small(name)(prepare())[0, 1])
    out = str(tmp_path / "found")
    assert main(["examples", *network(name, *keys), "data.root=photos", "units=[1]", "k=4", f"out={out}", *QUIET]) == 0
    (row,) = (row for row in rows(f"{out}/examples.csv") if row["name"] == "ant/a.png")
    assert float(row["activation"]) == pytest.approx(truth, abs=2e-5)
    facts = manifest(out)["input"]
    given = {key.partition("=")[0] for key in keys}
    assert {key for key in ("mean", "std", "range", "fit") if facts.get(key, {}).get("source") == "given"} >= given
    assert facts["input_size"] == {"value": list(SHAPES[name][1:]), "source": "known"}


def test_ablation_sees_what_examples_see(tmp_path: Path) -> None:
    truth = float(small("wide")(photograph(LONG, (32, 16)) * 255)[0, 1])
    job = ["ablate", *network("wide", "range=0..255"), "image=photos/ant/a.png", "unit=1", *PATCHES]
    assert main([*job, f"out={tmp_path}/run", *QUIET]) == 0
    assert float(rows(f"{tmp_path}/run/results.csv")[0]["activation"]) == pytest.approx(truth, abs=2e-5)


def bordered() -> Tensor:
    """The whole photograph, 16 x 7 px, with the normalisation's mean above and below."""
    seen = torch.zeros(1, 3, 16, 16) + 2 * 128 / 255 - 1
    seen[:, :, 4:11] = photograph(WHOLE, (16, 7)) * 2 - 1
    return seen


@pytest.mark.parametrize("prior", ["pixel", "maco"])
def test_a_long_networks_images_are_long(prior: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    job = ["synthesize", *network("wide"), "units=[1]", f"prior={prior}", "ascent.steps=2", f"out={out}", *QUIET]
    assert main([*job, f"prior.{prior}.size=64"]) == 0
    with Image.open(f"{out}/{rows(f'{out}/results.csv')[0]['image']}") as image:
        assert image.size == (128, 64)
    assert not any("px" in line.partition("assumed")[0] for line in manifest(out)["warnings"])


def test_a_square_canvas_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["synthesize", *network("wide"), "units=[1]", *PIXELS, "prior.pixel.size=[32,32]", *QUIET]
    assert main([*job, f"out={tmp_path / 'run'}"]) == 0
    line = "prior 'pixel' makes images of 32 x 32 px, network 'wide' takes 16 x 32: it sees their central part"
    assert line in capsys.readouterr().err and any(line in one for one in manifest(str(tmp_path / "run"))["warnings"])


@pytest.mark.parametrize("name", ["wide", "grey"])
@pytest.mark.slow
def test_all_verbs_take_long_and_grey_networks(name: str, tmp_path: Path) -> None:
    """Starts, facets and evaluation, whose judge has other proportions and channels."""
    keys = network(name, "classes=names.txt")
    start = ["units=[bee]", *PIXELS, "start=photos/ant/a.png", "ascent.lr=0", "ascent.lr_end=0", "prior.pixel.size=16"]
    assert main(["synthesize", *keys, *start, f"out={tmp_path / 'started'}", *QUIET]) == 0
    box, size, mode = (LONG, (32, 16), "RGB") if name == "wide" else (SQUARE, (16, 16), "L")
    truth = float(small(name)(photograph(box, size, mode) * 2 - 1)[0, 1])
    (row,) = rows(str(tmp_path / "started" / "results.csv"))
    assert float(row["activation"]) == pytest.approx(truth, abs=0.02)  # it was enlarged to 256 px on its way
    facets = ["unit=bee", "data.root=photos", "examples=4", "facets=2", *PIXELS]
    assert main(["facets", *keys, *facets, f"out={tmp_path / 'facets'}", *QUIET]) == 0
    judged = ["data.root=photos", "judges=[plain.pt2]", "units=[ant,bee]", "seeds=2", *PIXELS]
    assert main(["evaluate", *keys, *judged, f"out={tmp_path / 'judged'}", *QUIET]) == 0
    figures = {(row["method"], row["metric"]): row for row in rows(str(tmp_path / "judged" / "figures.csv"))}
    assert {("real", "top1"), ("pixel", "top5"), ("pixel", "activation_over_mean")} <= set(figures)
    past = ["trust=true", "data.root=photos", "judges=[plain.pt2]", f"run={tmp_path / 'started'}"]
    assert main(["evaluate", *past, f"out={tmp_path / 'again'}", *QUIET]) == 0
    assert manifest(str(tmp_path / "again"))["input"]["classes"] == {"value": 5, "source": "given"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["examples", "data.root=photos", "units=[1]"],
        *[pytest.param(words, marks=pytest.mark.slow) for words in (
            ["ablate", "image=photos/ant/a.png", "unit=1"],
            ["facets", "data.root=photos", "unit=1", *PIXELS],
            ["synthesize", "units=[1]", *PIXELS, "start=photos/ant/a.png"],
            ["evaluate", "data.root=photos", "units=[1]", "judges=[plain.pt2]", *PIXELS],
        )],
    ],
)  # fmt: skip
def test_photographs_for_many_channels_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb, *rest = arguments
    assert main([verb, *network("four"), *rest, f"out={tmp_path / 'run'}", *QUIET]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "assumed" not in line]
    assert "takes images of 4 channels, photographs have 3" in line
    assert main(["synthesize", *network("four"), "units=[1]", *PIXELS, f"out={tmp_path / 'made'}", *QUIET]) == 0


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("soft", [], "itself"),
        ("plain", [], "softmax"),
        ("plain", ["scores=sigmoid"], "sigmoid"),
        ("plain", ["scores=none"], ""),
    ],
)
def test_the_tables_probability(name: str, keys: list[str], expected: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert main(["synthesize", *network(name, *keys), "units=[1]", *PIXELS, f"out={out}", *QUIET]) == 0
    (row,) = rows(f"{out}/results.csv")
    with Image.open(f"{out}/{row['image']}") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    small_pixels = nn.functional.interpolate(
        pixels, size=(16, 16), mode="bilinear", antialias=True, align_corners=False
    )
    with torch.no_grad():
        output = small(name)(small_pixels * 2 - 1)
    truth = {"itself": output, "softmax": output.softmax(1), "sigmoid": output.sigmoid()}.get(expected)
    if truth is None:
        assert row["probability"] == row["rank"] == ""
    else:
        assert float(row["probability"]) == pytest.approx(float(truth[0, 1]), abs=2e-3)
    facts = manifest(out)["input"]["scores"]
    assert facts["source"] == ("given" if keys else "found")


def test_units_says_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["units", *network("plain", "range=0..255", "classes=names.txt")]) == 0
    printed = capsys.readouterr()
    assert printed.out == "output  [5]  vector\n"
    for words in ("input_size: 16 x 16 (known)", "range: 0..255 (given)", "fit: crop (assumed)", "classes: 5 (given)"):
        assert words in printed.err
    assert main(["units", *network("plain", "classes=names.txt"), "find=E"]) == 0
    assert capsys.readouterr().out.split() == ["1", "bee", "4", "elk"]
    assert main(["units", *network("plain", "input_size=[16,16]")]) == 0


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["fit=crp"], "no fit 'crp'; did you mean 'crop'?"),
        (["scores=softmx"], "no scores 'softmx'; did you mean 'softmax'?"),
        (["range=255"], "range is 255, expected LOW..HIGH"),
        (["mean=[1,2]", "std=[1,2]"], "need one value a channel (3)"),
        (["std=0"], "std above 0"),
        (["input_size=[16,a]"], "expected pixels above 0"),
        (["input_size=0"], "expected pixels above 0"),
        (["classes=gone.txt"], "no readable file of class names 'gone.txt'"),
        (["classes=[a,b]"], "2 class names for 5 outputs"),
        (["means=0"], "means"),
    ],
)
def test_keys_that_make_no_sense(keys: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["units", *network("plain", *keys)]) == 2
    printed = capsys.readouterr().err
    assert expected in printed and len(printed.splitlines()) == 1


def test_a_generators_encoder_takes_no_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data.root=photos", "network.fit=stretch", *QUIET]) == 2
    assert "leave out network.fit" in capsys.readouterr().err


@pytest.mark.slow
def test_another_normalisation_is_another_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["synthesize", "units=[1]", *PIXELS, f"out={tmp_path / 'run'}", *QUIET]
    assert main([*job, *network("plain")]) == 0
    assert main([*job, *network("plain")]) == 0 and "is done already" in capsys.readouterr().err
    assert main([*job, *network("plain", "range=0..255")]) == 2


@pytest.mark.slow
def test_links_and_names_of_any_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A linked class folder, a name that isn't UTF-8, an unreadable tar: found, written, counted."""
    root = tmp_path / "data"
    root.mkdir()
    (root / "ant").symlink_to(Path("photos/ant").resolve())
    (root / "b.tar").write_bytes(b"no tar")
    picture = Path("photos/bee/c.png").read_bytes()
    with open(os.fsencode(root) + b"/a\xff.png", "wb") as file:
        file.write(picture)
    out = str(tmp_path / "found")
    assert main(["examples", *network("plain"), f"data.root={root}", "units=[1]", "k=9", f"out={out}", *QUIET]) == 0
    assert {row["name"] for row in rows(f"{out}/examples.csv")} == {"a\\xff.png", "ant/a.png", "ant/b.png"}
    assert "1 folders or tar files could not be looked into: 'b.tar (no readable tar file" in capsys.readouterr().err
    assert len(manifest(out)["unread"]) == 1
    assert main(["ablate", *network("plain"), f"image={root}", *PATCHES, f"out={tmp_path / 'ablated'}", *QUIET]) == 0
    assert [row["image"] for row in rows(str(tmp_path / "ablated" / "results.csv"))] == ["a\\xff"]
    start = str(os.fsdecode(os.fsencode(root) + b"/a\xff.png"))
    job = ["synthesize", *network("plain"), "units=[1]", *PIXELS, f"start='{start}'", f"out={tmp_path / 'run'}", *QUIET]
    assert main(job) == 0
    assert "udcff" in Path(tmp_path, "run", "index.html").read_text(encoding="utf-8")
