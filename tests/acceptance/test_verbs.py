"""The verbs around synthesis, as a user calls them: on real pictures and the real network, few steps."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from dgn.analysis.ablation import ablate
from dgn.analysis.examples import find_examples
from dgn.analysis.results import example_cells
from dgn.cli.main import main
from dgn.drawing.matrix import MOST_CELLS, grid
from dgn.images.reading import read_image
from dgn.network.sources import load_network

QUIET = ["tracking=off", "progress=false"]
SHORT = [
    "ascent.steps=2",
    "ascent.inner=1",
    "ascent.screen=32",
    "ascent.race_steps=1",
    "ascent.refine_steps=2",
    "ascent.input_size=96",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures in two labelled folders, smooth noise of two kinds, one file broken."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")
    for index in range(12):
        folder = root / ("zebra" if index % 2 else "goldfish")
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        if index % 2:
            pixels = np.repeat(np.where(np.arange(16)[None, :, None] % 2, 230, 20), 16, 0).repeat(3, 2).astype(np.uint8)
            pixels = (pixels + rng.integers(0, 20, pixels.shape)).astype(np.uint8)
        Image.fromarray(pixels).resize((120, 100)).save(folder / f"{index:02d}.png")
    (root / "zebra" / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_examples(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["examples", f"data.root={pictures}", "units=[zebra,'blocks.1:3']", "k=2", "kinds=[top,bottom]"]
    assert main([*arguments, "out=found", *QUIET]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == "found/examples.png" and "broken.png" in printed.err
    rows = table(Path("found/examples.csv"))
    best = [float(row["activation"]) for row in rows if row["unit"] == "zebra" and row["kind"] == "top"]
    assert best == sorted(best, reverse=True) and len(best) == 2
    for row in rows:
        assert Path("found", row["image"]).is_file()
        if row["unit"] == "blocks.1:3":
            top, left, bottom, right = map(int, row["box"].split(","))
            with Image.open(Path("found", row["field"])) as field:
                assert field.size == (right - left, bottom - top) and max(field.size) < 100
    manifest = json.loads(Path("found/manifest.json").read_text())
    assert manifest["status"] == "done" and manifest["broken_images"] == ["zebra/broken.png"]
    before = Path("found/examples.csv").read_bytes()
    assert main([*arguments, "out=found", *QUIET]) == 0  # it is all there already
    assert Path("found/examples.csv").read_bytes() == before
    assert main(["examples", f"data.root={pictures}", "units=[goldfish]", "out=found", *QUIET]) == 2
    assert "another search" in capsys.readouterr().err


def test_concept(pictures: Path, small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A direction from two folders; what it prints is a unit."""
    groups = [f"positives={pictures / 'zebra'}", f"negatives={pictures / 'goldfish'}"]
    arguments = ["concept", *small, "layer=output", *groups, "shuffles=30", *QUIET]
    assert main([*arguments, "out=found"]) == 0
    printed = capsys.readouterr()
    words, unit = printed.out.splitlines()
    assert "1 images could not be read: 'broken.png'" in printed.err
    facts = json.loads(Path("found/manifest.json").read_text())
    assert facts["status"] == "done" and facts["concept"]["positives"] == facts["concept"]["negatives"] == 6
    assert f"{facts['concept']['accuracy']:.0%} of held-out images" in words and len(facts["concept"]["chance"]) == 30
    (vector,) = load_file("found/direction.safetensors").values()
    assert vector.norm() == pytest.approx(1.0)
    along = {row["name"]: float(row["along"]) for row in table(Path("found/concept.csv"))}
    assert len(along) == 12 and Path("found/concept.png").is_file()
    assert unit == "output:found/direction.safetensors"


@pytest.mark.slow
def test_a_concepts_unit_and_what_is_no_concept(
    pictures: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    groups = [f"positives={pictures / 'zebra'}", f"negatives={pictures / 'goldfish'}"]
    arguments = ["concept", *small, "layer=output", *groups, "shuffles=2", *QUIET]
    assert main([*arguments, "out=found"]) == 0
    unit = capsys.readouterr().out.splitlines()[-1]
    along = {row["name"]: float(row["along"]) for row in table(Path("found/concept.csv"))}
    image = pictures / "zebra" / "01.png"
    assert main(["ablate", *small, f"image={image}", f"unit={unit}", "curve_steps=0", "out=needs", *QUIET]) == 0
    row = table(Path("needs/results.csv"))[0]
    assert float(row["activation"]) == pytest.approx(along["01.png"], rel=1e-3)
    for word, line in (
        ("layer=outptu", "no layer 'outptu'"),
        ("method=men", "no method 'men'; did you mean 'mean'"),
        ("negatives=nowhere", "no folder or tar file 'nowhere'"),
        (f"positives=[{image}]", "positives are 1 different images that can be read, expected at least 2"),
        (f"negatives={pictures}", "of the positives is also among the negatives"),
    ):
        assert main([*arguments, word, "out=wrong"]) == 2, word
        assert line in capsys.readouterr().err, word
        assert not Path("wrong").exists()


@pytest.mark.slow
def test_examples_of_several_units(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Patterns, ranges and files as for synthesize."""
    Path("units.txt").write_text("zebra  # striped\nblocks.1:2-3\n")
    assert main(["examples", f"data.root={pictures}", "units=['* setter','@units.txt']", "k=1", "out=m", *QUIET]) == 0
    units = [row["unit"] for row in table(Path("m/examples.csv"))]
    assert units == ["English setter", "Irish setter", "Gordon setter", "zebra", "blocks.1:2", "blocks.1:3"]
    assert len(list(Path("m/images").glob("*--top--1.png"))) == 6
    assert main(["examples", f"data.root={pictures}", "units=@nowhere.txt", "k=1", *QUIET]) == 2
    assert "no readable text file 'nowhere.txt'" in capsys.readouterr().err


@pytest.mark.slow
def test_priors_align_with_the_best_real_examples(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with as many as it asks for, beside one that climbs the activation; the images are looked through once."""
    job = ["synthesize", "units=[zebra,goldfish]", "prior=[pixel,fourier]", "ascent.steps=3", *QUIET]
    assert main([*job, "out=plain"]) == 0
    asked = ["+prior.fourier.references=3"]
    assert main([*job, *asked, "out=without"]) == 2
    assert "prior.fourier.references=3 needs real images: give data.root=FOLDER" in capsys.readouterr().err
    assert main([*job, *asked, f"data.root={pictures}", "out=aligned"]) == 0
    assert capsys.readouterr().err.count("1 images could not be read") == 1
    deep = [*asked, f"data.root={pictures}", "+prior.fourier.layers=[blocks.6]"]
    assert main([*job, *deep, "out=deep"]) == 0
    assert main([*job, *deep, "+prior.pixel.layers=[blocks.6]", "out=none"]) == 2
    assert "there is no prior.pixel.references" in capsys.readouterr().err
    assert main([*job, *deep[:2], "+prior.fourier.layers=[blocks.66]", "out=none"]) == 2
    said = capsys.readouterr().err
    assert "blocks.66" in said and "could not be read" not in said  # before the images are looked through
    for count in ("-2", "1"):
        assert main([*job, deep[1], f"+prior.fourier.references={count}", "out=none"]) == 2
        assert f"prior.fourier.references is {count}, expected 0 (none) or 2 and more" in capsys.readouterr().err
    facets = ["facets", "unit=zebra", "prior=fourier", deep[1], "facets=1", "examples=4", *QUIET]
    assert main([*facets, *asked, "out=none"]) == 2
    assert "dgn facets aligns nothing" in capsys.readouterr().err
    plain, aligned, deeper = (
        {(row["unit"], row["prior"]): row["activation"] for row in table(Path(folder, "results.csv"))}
        for folder in ("plain", "aligned", "deep")
    )
    assert plain.keys() == aligned.keys() == deeper.keys() and len(plain) == 4
    for before, after in ((plain, aligned), (aligned, deeper)):
        changed = {key for key in before if before[key] != after[key]}
        assert changed == {key for key in plain if key[1] == "fourier"}


@pytest.mark.slow
def test_the_overview_of_many_units_stops_where_it_has_enough(pictures: Path, desk: Path) -> None:
    """The table and the images do not; its title says how many are left out."""
    where = [f"network.name={desk / 'small.pt2'}", "trust=true", f"data.root={pictures}"]
    assert main(["examples", *where, "units=output:0-519", "k=1", "out=m", *QUIET]) == 0
    network = load_network(str(desk / "small.pt2"), trust=True)
    found = find_examples(network, "output:0-519", pictures, k=1)
    units = [row["unit"] for row in table(Path("m/examples.csv"))]
    assert units == [one.unit.name for one in found.units] and len(list(Path("m/images").glob("*--top--1.png"))) == 520
    shown = found.units[:MOST_CELLS]
    cells = [cell for one in shown for cell in example_cells(one.unit, "top", 1, one.top[0], found.data)]
    title = "What excites units of small (the first units; 8 more are in images/)"
    with Image.open("m/examples.png") as picture:
        assert picture.tobytes() == grid(cells, title, columns=12).tobytes()


@pytest.mark.slow
def test_examples_are_tabled_in_weights_and_biases(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, without an account: a row a unit, kind and rank, with the picture itself (it waits to be uploaded)."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(Path.cwd() / "data"))
    arguments = ["examples", f"data.root={pictures}", "units=[zebra,'blocks.1:3']", "k=2", "kinds=[top,bottom]"]
    assert main([*arguments, "out=tracked", "tracking=offline", "progress=false"]) == 0
    (file,) = Path("tracked/wandb").glob("offline-run-*/files/media/table/examples table*.table.json")
    logged = json.loads(file.read_text())
    rows = [dict(zip(logged["columns"], values, strict=True)) for values in logged["data"]]
    kept = table(Path("tracked/examples.csv"))
    names = ("unit", "kind", "name")
    assert [tuple(row[key] for key in names) for row in rows] == [tuple(row[key] for key in names) for row in kept]
    assert [row["rank"] for row in rows] == [1, 2] * 4 and isinstance(rows[0]["activation"], float)
    assert {row["image"] for row in rows} == {"Image"} and [row["field"] for row in rows] == [None] * 4 + ["Image"] * 4
    staged = {path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    for row in kept:
        assert Path("tracked", row["image"]).read_bytes() in staged, row["image"]


@pytest.mark.slow
def test_examples_of_a_torchvision_data_set(capsys: pytest.CaptureFixture[str], pictures: Path) -> None:
    good = pictures.parent / "good"
    (good / "a").mkdir(parents=True)
    for path in (pictures / "goldfish").iterdir():
        (good / "a" / path.name).write_bytes(path.read_bytes())
    assert main(["examples", "data.torchvision=ImageFolder", f"data.root={good}", "units=[1]", "k=2", *QUIET]) == 0
    assert main(["examples", "data.torchvision=FakeData", "+data.options.size=6", "units=[1]", "k=2", *QUIET]) == 2
    assert "root" in capsys.readouterr().err


@pytest.mark.slow
def test_facets(pictures: Path) -> None:
    arguments = ["facets", f"data.root={pictures}", "unit=zebra", "examples=8", "members=3", "prior=[dgn,pixel]"]
    assert main([*arguments, "facets=2", "out=f", *SHORT, *QUIET]) == 0
    rows = table(Path("f/results.csv"))
    assert [(row["unit"], row["facet"], row["prior"]) for row in rows] == [
        ("zebra", f"{n}", prior) for prior in ("dgn", "pixel") for n in (1, 2)
    ]
    assert Path("f/facets.pdf").read_bytes().startswith(b"%PDF")
    with Image.open("f/facets.png") as picture:
        assert min(picture.size) > 500
    assert {name: len(codes) for name, codes in load_file("f/codes.safetensors").items()} == {"dgn": 2, "pixel": 2}
    for row in rows:
        with Image.open(Path("f", row["image"])) as image:
            assert image.size == (128, 128)
    manifest = json.loads(Path("f/manifest.json").read_text())
    assert manifest["facets"] == 2 and sum(manifest["sizes"]) == 8
    assert "dgn facets" in Path("f/index.html").read_text()


@pytest.mark.slow
def test_facets_are_judged_and_may_be_of_one_class(pictures: Path) -> None:
    arguments = ["facets", f"data.root={pictures}", "unit=zebra", "examples=8", "members=3", "prior=[dgn,pixel]"]
    assert main([*arguments, "facets=2", "out=f", *SHORT, *QUIET]) == 0
    judged = ["evaluate", "run=f", f"data.root={pictures}", "judges=[efficientnet_lite0]", "out=e", *QUIET]
    assert main(judged) == 0  # how unlike each other are the facets?
    found = {(row["method"], row["metric"]): row for row in table(Path("e/figures.csv"))}
    for method, pairs in (("real", "10"), ("dgn", "1"), ("pixel", "1")):  # of five real images, of two facets
        assert float(found[method, "diversity"]["value"]) > 0 and found[method, "diversity"]["n"] == pairs
    assert main([*arguments, "facets=2", "own_class=true", "prior=pixel", "examples=4", "out=g", *SHORT, *QUIET]) == 0
    assert sum(json.loads(Path("g/manifest.json").read_text())["sizes"]) == 4


@pytest.mark.slow
def test_facets_keep_the_search_and_say_what_is_odd(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 13 files one can't be read, so 13 facets fail only after the search, which the next call takes up."""
    arguments = ["facets", f"data.root={pictures}", "unit='blocks.1:3'", "prior=dgn", "out=f", *SHORT, *QUIET]
    arguments += ["ascent.rule=adam"]  # the sampler reads the unit at codes of its own
    assert main([*arguments, "facets=13"]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 2 and "12 example images can't make 13 facets" in printed[1] and "out=f" in printed[1]
    kept_search = Path("f/examples.safetensors").stat()
    assert main([*arguments, "facets=2"]) == 0
    again = Path("f/examples.safetensors").stat()
    assert (again.st_ino, again.st_mtime_ns) == (kept_search.st_ino, kept_search.st_mtime_ns)  # nothing was looked at
    printed = capsys.readouterr().err.strip().splitlines()
    kept = json.loads(Path("f/manifest.json").read_text())["warnings"]
    assert printed == [f"dgn: {line}" for line in kept] and len(kept) == 2
    assert "could not be read" in kept[0] and kept[1].startswith("blocks.1:3: before blocks.4")


@pytest.mark.slow
def test_ablate(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pictures / "zebra" / "01.png"
    assert (
        main(["ablate", f"image={image}", "unit=zebra", "size=112", "stride=56", "curve_steps=4", "out=a", *QUIET]) == 0
    )
    (row,) = table(Path("a/results.csv"))
    assert row["unit"] == "zebra"
    drops = np.loadtxt("a/images/01--zebra.csv", delimiter=",")
    assert drops.shape == (3, 3) and float(row["largest_drop"]) == pytest.approx(drops.max(), rel=1e-4)
    mine = ablate(load_network("efficientnet_lite0"), read_image(image, 224), "zebra", size=112, stride=56)
    np.testing.assert_allclose(drops, mine.drops.numpy(), rtol=1e-3, atol=1e-3)
    for name in ("ablation", "curves"):
        with Image.open(f"a/{name}.png") as picture:
            assert min(picture.size) > 200


@pytest.mark.slow
def test_ablate_a_run_and_sizes(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pictures / "zebra" / "01.png"
    assert main(["synthesize", "prior=pixel", "units=[zebra]", "out=run", *SHORT, *QUIET]) == 0
    assert main(["ablate", "image=run", "size=224", "curve_steps=0", "out=b", *QUIET]) == 0
    assert [row["unit"] for row in table(Path("b/results.csv"))] == ["zebra"]  # that it was made for
    capsys.readouterr()
    assert main(["ablate", "-m", f"image={image}", "size=112,300,224", "curve_steps=0", *QUIET]) == 2
    assert "size=300" in capsys.readouterr().err
    (sweep,) = Path("runs/ablate").iterdir()
    assert {path.parent.name for path in sweep.glob("*/ablation.png")} == {"0", "2"}


def figure(name: str, *more: str, out: str) -> None:
    assert main(["figure", f"name={name}", *SHORT, *more, f"out={out}", *QUIET]) == 0, name


FIGURES: dict[str, list[str]] = {
    "priors": ["data.root=PICTURES", "figure.units=[zebra,goldfish]", "ascent.views=1", "ascent.starts=1"],
    "regularisers": ["figure.units=[zebra]"],
    "layers": ["ascent.starts=1", "ascent.input_size=64"],
    "facets": ["data.root=PICTURES", "figure.unit=zebra", "figure.examples=8", "figure.facets=2", "figure.shown=2"],
    "ablation": [
        "figure.images=[PICTURES/zebra/01.png,PICTURES/goldfish/00.png]",
        "figure.size=112",
        "figure.stride=56",
        "width=column",
    ],
    "convergence": ["figure.units=[zebra]", "figure.seeds=2", "ascent.views=1"],
    "start": ["figure.images=[PICTURES/goldfish/00.png]", "figure.unit=zebra", "figure.frames=2"],
    "latents": ["data.root=PICTURES", "figure.units=[zebra,'blocks.4:3@max']", "ascent.starts=1"],
    "atlas": ["data.root=PICTURES", "figure.grid=1", "figure.method=pca"],
    "two_neurons": ["figure.units=[candle,'0.5*candle + 0.5*convertible','blocks.1:3']"],
}


ROWS = {
    "priors": 12, "regularisers": 11, "layers": 25, "facets": 4, "ablation": 18, "convergence": 16, "start": 6,
    "two_neurons": 9, "latents": 8, "atlas": 1,
}  # fmt: skip
"""Of each figure's table."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_figure(name: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PDF, PNG and CSV; the same again to the byte."""
    more = [word.replace("PICTURES", str(pictures)) for word in FIGURES[name]]
    figure(name, *more, out="one")
    rows = table(Path(f"one/{name}.csv"))
    assert len(rows) == ROWS[name] and all(math.isfinite(float(row["activation"])) for row in rows)
    with Image.open(f"one/{name}.png") as picture:
        assert picture.width == {"priors": 1640, "latents": 1645, "ablation": 1020}.get(
            name, 2100
        )  # two pictures a row; width=column
    assert Path(f"one/{name}.pdf").read_bytes().startswith(b"%PDF")
    if name == "two_neurons":  # once, although three rows climb it
        line, unread = json.loads(Path("one/manifest.json").read_text())["warnings"]
        assert line.startswith("blocks.1:3: before blocks.4") and "does not read ascent.race_steps" in unread
        assert capsys.readouterr().err == f"dgn: {line}\ndgn: {unread}\n"
    if name == "latents":  # the second best, and the best twice: as it is, and with what it loses
        best, second, again = ([float(row["activation"]) for row in rows[first : first + 2]] for first in (2, 4, 6))
        assert best == again and all(high >= low for high, low in zip(best, second, strict=True))
    if name == "ablation":  # what the verb says of the same image: its own choice of a unit, the same numbers
        image = pictures / "goldfish" / "00.png"
        assert main(["ablate", f"image={image}", "size=112", "stride=56", "curve_steps=0", "out=verb", *QUIET]) == 0
        (said,) = table(Path("verb/results.csv"))
        drops = [row for row in rows if row["image"] == "00"]
        assert {row["unit"] for row in drops} == {said["unit"]}
        assert max(float(row["drop"]) for row in drops) == pytest.approx(float(said["largest_drop"]), abs=1e-4)
    if name in ("convergence", "start"):  # the way ends at the result's activation, although the loop saw other images
        shaken = "+prior.pixel.ascent={jitter: 0.08, scale: 0.1, noise: 0.05}"
        start = [f"start={pictures}/goldfish/00.png"] if name == "start" else []
        assert main(["synthesize", "prior=pixel", shaken, "units=[zebra]", "out=run", *start, *SHORT, *QUIET]) == 0
        way = [row for row in rows if row["row"].startswith("pixels") and row.get("seed", "0") == "0"]
        assert way[-1]["activation"] == table(Path("run/results.csv"))[0]["activation"]
    if name not in ("ablation", "start"):
        return  # as these, and longer
    figure(name, *more, out="two")
    for form in ("pdf", "png", "csv"):
        assert Path(f"one/{name}.{form}").read_bytes() == Path(f"two/{name}.{form}").read_bytes(), form


@pytest.mark.slow
def test_start_from_an_image_and_go_on_from_codes(pictures: Path) -> None:
    image = pictures / "goldfish" / "00.png"
    base = ["synthesize", "units=[zebra,'blocks.5:1']", "ascent.rule=adam", *SHORT, *QUIET]
    assert main([*base, f"start={image}", "frames=3", "out=one"]) == 0
    strips = sorted(path.name for path in Path("one/trajectory").iterdir())
    assert len(strips) == 4 and strips[0].endswith(".png")
    page = Path("one/index.html").read_text()
    assert page.count("data:image/webp") == 4
    assert main([*base, "start=one/codes.safetensors", "out=two"]) == 0
    for name in ("zebra--pixel--s0.png", "zebra--dgn--s0.png"):
        first, second = (read_image(Path(run, "images", name)) for run in ("one", "two"))
        assert float((first - second).abs().mean()) < 0.12  # two steps further on
    assert main([*base, "prior=fourier", "start=one/codes.safetensors"]) == 2
    assert not Path("runs").exists()


PAINTER = """
import torch

class Painter(torch.nn.Module):
    def __init__(self, side):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(8, 3 * side * side)
        self.side = side

    def forward(self, h):
        return torch.sigmoid(self.net(h)).unflatten(1, (3, self.side, self.side))
"""


@pytest.mark.slow
def test_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "painter.py").write_text(PAINTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    prior = "+prior.mine={path: module, module: {_target_: painter.Painter, side: 32}, options: {code_shape: [8]}}"
    command = ["synthesize", "prior=[]", prior, "units=[zebra]", "out=run", *SHORT, *QUIET]
    assert main(command) == 2  # code of one's own is not run unasked
    assert main([*command, "trust=true"]) == 0
    assert table(Path("run/results.csv"))[0]["prior"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["examples", "units=[zebra]"], "give data.root=FOLDER"),
        (["examples", "units=[zebra]", "data.root=nowhere"], "no file or folder 'nowhere'"),
        (["examples", "units=[zebra]", "data.torchvision=CIFR10"], "did you mean 'CIFAR10'"),
        (["examples", "units=[zebra]", "data.torchvision=CIFAR10", "data.root=empty"], "CIFAR10 can't be opened"),
        (["examples", "units=[zebra]", "data.root=PICTURES", "kinds=[worst]"], "no kind of examples 'worst'"),
        (["examples", "units=[zebra]", "data.root=PICTURES", "k=0"], "above 0"),
        (["facets", "data.root=PICTURES"], "unit=VALUE"),
        (["facets", "unit=zebra", "data.root=PICTURES", "facets=40"], "can't make 40 facets"),
        (["facets", "unit=zebra", "data.root=PICTURES", "examples=0"], "above 0"),
        (["facets", "unit='blocks.4:1'", "data.root=PICTURES", "own_class=true"], "needs a class"),
        (["facets", "unit=volcano", "data.root=PICTURES", "own_class=true"], "no image lies in a folder named"),
        (["ablate"], "give image=VALUE"),
        (["ablate", "image=nowhere.png"], "no file or folder 'nowhere.png', which image names"),
        (["ablate", "image=empty"], "no images in 'empty'"),
        (["ablate", "image=PICTURES/zebra/broken.png"], "can't be read as an image"),
        (["ablate", "image=PICTURES/zebra/01.png", "size=500"], "doesn't fit"),
        (["ablate", "image=PICTURES/zebra/01.png", "size=big"], "size is 'big'"),
        (["ablate", "image=PICTURES/zebra/01.png", "fill=gray"], "did you mean 'grey'"),
        (["figure", "name=prior"], "did you mean 'priors'"),
        (["figure", "name=start"], "give figure.images"),
        (["figure", "name=priors"], "give data.root=FOLDER"),
        (["figure", "name=layers", "width=wide"], "no width 'wide'"),
        (["gallery", "nowhere"], "no file or folder 'nowhere'"),
        (["gallery", "empty"], "no folder of a dgn run"),
        (["synthesize", "start=nowhere.png"], "no file or folder 'nowhere.png'"),
        (["synthesize", "start=nowhere.safetensors@3"], "no file or folder"),
        (["synthesize", "frames=-1"], "frames is -1"),
        (["synthesize", "ascent.transforms=[shft]"], "did you mean 'shift'"),
        (["synthesize", "ascent.penalties=[{lp: {q: 2}}]"], "no key 'q'"),
        (["synthesize", "ascent.between=[{blur: much}]"], "needs a number"),
        (["synthesize", "ascent.phases=[{stps: 3}]"], "did you mean 'steps'"),
        (["synthesize", "ascent=pgn"], "did you mean 'ppgn'"),
        (["synthesize", "prior=deepsim", "prior.deepsim.weights=fc6.pt"], "download upconvGAN_fc6.pt"),
        (["synthesize", "prior=biggan", "prior.biggan.weights=empty"], "put config.json"),
        (["synthesize", "prior=autoencoder", "prior.autoencoder.weights=empty"], "download one"),
        (["synthesize", "prior=deepsim"], "give prior.deepsim.weights"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], expected: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [word.replace("PICTURES", str(pictures)) for word in arguments]
    assert main([*arguments, *([] if arguments[0] == "gallery" else QUIET)]) == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if "could not be read" not in line]
    assert len(lines) == 1 and lines[0].startswith("dgn: ") and expected in lines[0], lines
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty"]
