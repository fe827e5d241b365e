"""The gallery in a real browser: everything inside, filtered, sorted, opened, with the keyboard too."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dgn.cli.main import main
from dgn.cli.reproduce import reproduce
from dgn.drawing.mosaic import Mosaic, Tile
from dgn.images.pictures import to_image
from dgn.report.atlas import atlas_page
from dgn.report.gallery import page
from dgn.runs.past import read_run
from dgn.runs.run import COLUMNS, Run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def planted(folder: Path, units: list[str], priors: tuple[str, ...] = ("dgn", "pixel")) -> Path:
    """A run folder with coloured squares."""
    run = Run(folder)
    rows = []
    for number, unit in enumerate(units):
        for prior in priors:
            image = torch.full((3, 16, 16), number / max(1, len(units)))
            name = f"images/{number}--{prior}--s0.png"
            run.write_picture(name, to_image(image))
            run.write_picture(f"trajectory/{number}--{prior}--s0.png", to_image(image))
            rows.append({
                "unit": unit, "prior": prior, "seed": 0, "activation": number * (1 if prior == "dgn" else -1),
                "probability": "" if number % 2 else 0.5, "image": name,
            })  # fmt: skip
    run.write_table(rows)
    run.write_manifest({"verb": "synthesize", "network": "small", "overrides": ["ascent.steps=3", "units=[x]"]})
    return folder


def test_commands_reproduce_one_image() -> None:
    manifest = {
        "verb": "synthesize",
        "overrides": ["units=[a,b]", "seed=1,2", "prior=[dgn,pixel]", "+prior.mine.path=runs/my run",
                      "prior.dgn.size=64", "ascent.steps=9", "out=x", "network.name=timm/resnet18"],
    }  # fmt: skip
    row = {"unit": "it's a:1", "prior": "dgn", "seed": "2"}
    assert reproduce(row, manifest) == (
        "dgn synthesize 'units=['\"'\"'it\\'\"'\"'s a:1'\"'\"']' prior=dgn seed=2 prior.dgn.size=64 ascent.steps=9 "
        "network.name=timm/resnet18"
    )
    from_codes = {"verb": "synthesize", "overrides": ["start=a/codes.safetensors", "seed=3"], "starts": {"dgn": 8}}
    assert reproduce(row, from_codes, 4).endswith("seed=2 start=a/codes.safetensors@4")
    assert reproduce(row, {**from_codes, "starts": {"dgn": 1}}, 4).endswith("seed=2 start=a/codes.safetensors")
    from_facets = {"verb": "synthesize", "overrides": ["start='a b'"], "starts": {"dgn": 8}}
    assert shlex.split(reproduce(row, from_facets, 4))[-1] == "start='a b@5'"
    apart = {"verb": "synthesize", "overrides": ["ascent.diversity=1", "seeds=4"], "ascent": {"dgn": {"diversity": 1}}}
    assert reproduce(row, apart).endswith("prior=dgn ascent.diversity=1 seeds=4")
    not_apart = {
        "verb": "synthesize",
        "overrides": ["ascent.diversity=0", "seeds=4"],
        "ascent": {"dgn": {"diversity": 0}},
    }
    assert reproduce(row, not_apart).endswith("prior=dgn seed=2 ascent.diversity=0")
    mine = reproduce({**row, "unit": "zebra", "prior": "mine"}, manifest)
    assert "'prior=[]'" in mine and "'+prior.mine.path=runs/my run'" in mine and "prior.dgn" not in mine


@pytest.mark.slow
def test_reproduced_command_makes_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a job of two units, two priors and two seeds, one image alone: the same pixels, but for float error."""
    from dgn.images.reading import read_image

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    base = ["synthesize", "tracking=off", "progress=false", "ascent.steps=4", "prior=[pixel,fourier]"]
    more = ["+prior.little={path: pixel, size: 64}"]
    assert main([*base, *more, "units=['blocks.1:3','0.5*zebra - 0.5*\\'log(zebra)\\'']".replace("\\'", ""), "seeds=2",
                 "out=first"]) == 0  # fmt: skip
    run = read_run(Path("first"))
    assert len(run.rows) == 12
    for row in (run.rows[1], run.rows[6], run.rows[11]):
        words = shlex.split(reproduce(row, run.manifest))
        out = f"again-{row['prior']}"
        assert main([*words[1:], "tracking=off", "progress=false", f"out={out}"]) == 0
        (again,) = read_run(Path(out)).rows
        assert (again["unit"], again["prior"], again["seed"]) == (row["unit"], row["prior"], row["seed"])
        difference = read_image(Path("first") / row["image"]) - read_image(Path(out) / again["image"])
        assert float(difference.abs().mean()) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("start", ["one.safetensors", "two.safetensors", "facets"])
def test_reproduced_command_starts_where_the_job_did(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file with one code for all units, one with a code for each, and the folder of a facets run."""
    monkeypatch.chdir(tmp_path)
    codes = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    run = Run(Path("facets"))
    for name, part in (("one.safetensors", codes[:1]), ("two.safetensors", codes), ("starts.safetensors", codes)):
        run.write_codes({"pixel": part}, {"pixel": "own"}, name)
    given = start if start == "facets" else f"facets/{start}"
    base = ["synthesize", "prior=pixel", "prior.pixel.size=64", "ascent.steps=2", "tracking=off", "progress=false"]
    assert main([*base, "units=[zebra,goldfish]", "ascent.diversity=0", f"start={given}", "out=first"]) == 0
    made = read_run(Path("first"))
    for place, row in enumerate(made.rows):
        words = shlex.split(reproduce(row, made.manifest, place))
        assert main([*words[1:], "tracking=off", "progress=false", f"out=again{place}"]) == 0
        (again,) = read_run(Path(f"again{place}")).rows
        assert float(again["activation"]) == pytest.approx(float(row["activation"]), abs=1e-3)


def test_gallery_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run, several, and a sweep's folder; what is missing is one line."""
    one = planted(tmp_path / "sweep" / "0", ["a"])
    two = planted(tmp_path / "sweep" / "1", ["b"])
    assert main(["gallery", str(one)]) == 0
    assert capsys.readouterr().out.strip() == str(one / "index.html")
    assert main(["gallery", str(one), str(two), f"out={tmp_path}/both.html"]) == 0
    assert main(["gallery", str(tmp_path / "sweep")]) == 0
    for file in (tmp_path / "both.html", tmp_path / "sweep" / "gallery.html"):
        text = file.read_text()
        assert "0 · dgn" in text and "1 · pixel" in text and 'src="http' not in text
    capsys.readouterr()
    assert main(["gallery", str(tmp_path)]) == 2
    assert "no folder of a dgn run" in capsys.readouterr().err
    assert main(["gallery"]) == 2
    assert "runs has no value" in capsys.readouterr().err
    (two / "results.csv").write_text("a,b\n1,2\n")
    assert main(["gallery", str(two)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("dgn: ") and "results.csv" in line


def test_images_outside_the_run_are_left_out(tmp_path: Path) -> None:
    run = planted(tmp_path / "run", ["a", "b"])
    rows = list(csv.DictReader((run / "results.csv").open()))
    rows[0]["image"] = "../secret.png"
    rows[2]["activation"], rows[3]["activation"] = "nan", "-inf"
    shutil.copy(run / rows[1]["image"], tmp_path / "secret.png")
    with (run / "results.csv").open("w") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    text = page([read_run(run)], "t", reproduce)
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [len(unit["x"]) for unit in data["units"]] == [1, 2]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright import sync_api as api

    if BROWSER is None:
        pytest.skip("no browser on this machine: apt-get install chromium")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


def open_page(browser: Any, file: Path, **more: Any) -> tuple[Any, list[str]]:
    """A page without a network, and what it complained about."""
    context = browser.new_context(offline=True, **more)
    view = context.new_page()
    errors: list[str] = []
    view.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    view.on("pageerror", lambda error: errors.append(str(error)))
    view.goto(file.as_uri())
    return view, errors


def names(view: Any) -> list[str]:
    return [str(name) for name in view.locator(".row .name").all_text_contents()]


@pytest.mark.needs("playwright")
def test_an_atlas_is_zoomed_panned_and_pointed_at(browser: Any, tmp_path: Path) -> None:
    evil, grey = '<img src=x onerror="document.title=1">', to_image(torch.full((3, 16, 16), 0.5))
    tiles = [Tile(x, y, 1.0, grey, f"{x + y} images", [evil]) for x, y in ((2, 3), (5, 3), (2, 4))]
    file = tmp_path / "atlas.html"
    file.write_text(atlas_page(Mosaic({"one": tiles, "two": tiles[:1]}), "an atlas"))
    view, errors = open_page(browser, file)
    pictures, tip = view.locator("#world img"), view.locator("#tip")
    assert pictures.count() == 3 and view.title() == "an atlas" and tip.is_hidden()
    whole = [pictures.nth(at).bounding_box() for at in range(3)]
    shown = view.locator("#map").bounding_box()
    assert all(box["x"] >= shown["x"] and box["x"] + box["width"] <= shown["x"] + shown["width"] for box in whole)
    pictures.nth(1).hover()
    assert tip.inner_text().split("\n") == ["8 images", evil]
    view.mouse.wheel(0, -600)
    assert pictures.nth(1).bounding_box()["width"] > 1.5 * whole[1]["width"]
    before = pictures.nth(0).bounding_box()
    view.mouse.down()
    view.mouse.move(whole[1]["x"] + 10, whole[1]["y"] + 10)
    view.mouse.up()
    assert pictures.nth(0).bounding_box() != before
    view.locator("#all").click()
    assert pictures.nth(1).bounding_box() == whole[1]
    view.locator("#panel").select_option("two")
    assert pictures.count() == 1 and view.locator("#world img").first.get_attribute("alt").startswith("5 images")
    assert not errors


@pytest.mark.needs("playwright")
def test_filter_sort_open_keyboard(browser: Any, tmp_path: Path) -> None:
    evil = '<img src=x onerror="document.title=1">'
    run = planted(tmp_path / "run", ["goldfish", "zebra", "Goldfinch", evil, "</script><b>bold</b>"])
    main(["gallery", str(run)])
    view, errors = open_page(browser, run / "index.html")
    assert names(view) == ["goldfish", "zebra", "Goldfinch", evil, "</script><b>bold</b>"]
    assert view.locator("main b").count() == 0 and "small" in view.title()
    assert view.evaluate("[...document.images].filter(x => x.src).every(x => x.src.startsWith('data:'))")
    view.keyboard.press("/")
    view.keyboard.type("gold")
    assert names(view) == ["goldfish", "Goldfinch"] and "2 of 5" in view.inner_text("#count")
    view.fill("#filter", "")
    head = view.locator(".head button")
    head.nth(1).click()
    assert names(view)[0] == "</script><b>bold</b>" and head.nth(1).get_attribute("aria-pressed") == "true"
    head.nth(1).click()
    assert names(view)[0] == "goldfish"
    head.nth(2).click()
    assert names(view)[0] == "goldfish"  # the pixel column holds negative numbers
    head.nth(0).click()
    assert names(view)[-1] == "zebra"
    view.fill("#filter", "zebra")
    view.locator(".tile").first.focus()
    view.keyboard.press("Enter")
    assert view.locator("dialog[open]").count() == 1 and view.inner_text("#what") == "zebra"
    assert "units=['\"'\"'zebra'\"'\"']" in view.inner_text("#command") and "ascent.steps=3" in view.inner_text(
        "#command"
    )
    assert view.locator("#strip").is_visible() and "dgn" in view.inner_text("#facts")
    view.keyboard.press("ArrowRight")
    assert "pixel" in view.inner_text("#facts")
    view.keyboard.press("Escape")
    assert view.locator("dialog[open]").count() == 0
    assert errors == []


@pytest.mark.needs("playwright")
def test_light_dark_and_hundreds(browser: Any, tmp_path: Path) -> None:
    run = planted(tmp_path / "run", [f"unit {number}" for number in range(400)])
    main(["gallery", str(run)])
    colours = []
    for scheme in ("light", "dark"):
        view, errors = open_page(browser, run / "index.html", color_scheme=scheme)
        colours.append(view.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert view.locator(".row .name").count() == 400
        view.fill("#filter", "unit 39")
        assert view.locator(".row .name").count() == 11 and errors == []
    assert colours[0] != colours[1]


@pytest.mark.needs("playwright")
def test_hundreds_of_units_cost_only_what_is_seen(browser: Any, tmp_path: Path) -> None:
    """300 units, two methods, 128 px: pictures are set when they come near, nodes stay few, a frame lays out little."""
    run, rows = Run(tmp_path / "run"), []
    pixels = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for number, image in enumerate(torch.nn.functional.interpolate(pixels, size=128, mode="bicubic").clamp(0, 1)):
        run.write_picture(f"images/{number}.png", to_image(image))
    for unit in range(300):
        for column, prior in enumerate(("dgn", "pixel")):
            rows.append({
                "unit": f"unit {unit}", "prior": prior, "seed": 0, "activation": unit * 7 % 100,
                "probability": 0.5, "image": f"images/{(unit + column) % 8}.png",
            })  # fmt: skip
    run.write_table(rows)
    run.write_manifest({"verb": "synthesize", "network": "small", "overrides": []})
    assert main(["gallery", str(run.folder)]) == 0
    view, errors = open_page(browser, run.folder / "index.html", viewport={"width": 1000, "height": 700})
    tools = view.context.new_cdp_session(view)
    tools.send("Performance.enable")

    def layouts() -> int:
        return int({m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}["LayoutCount"])

    painted = "[...document.images].filter(image => image.src && image.id === '').length"
    view.wait_for_function(f"{painted} > 0")
    assert view.evaluate(painted) < 60
    assert view.evaluate("document.querySelectorAll('*').length") < 12 * 300
    before = layouts()
    frames = view.evaluate("""async () => {
      let frames = 0, top = -1;
      for (; scrollY !== top; frames++) { top = scrollY; scrollBy(0, 150); await new Promise(requestAnimationFrame); }
      return frames; }""")
    assert frames > 200 and (layouts() - before) / frames <= 3
    view.wait_for_function(f"{painted} === 600")  # whatever came by is there
    last = view.locator(".tile img").last
    assert last.evaluate("async image => { await image.decode(); return image.naturalWidth; }") == 128
    nodes = view.evaluate("document.querySelectorAll('*').length")
    view.fill("#filter", "unit 29")
    assert len(names(view)) == 11
    view.fill("#filter", "")
    view.locator(".head button").nth(1).click()
    assert names(view)[0] == "unit 57" and len(names(view)) == 300  # 57 * 7 % 100 = 99
    assert view.evaluate("document.querySelectorAll('*').length") == nodes and errors == []
