"""The atlas as a figure: every file, the same again to the byte, and what is wrong in a line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import rest_slow

from dgn.cli.main import main

PIXELS = ["~figure.rows.generator", "+figure.rows.pixels={prior: {pixel: {path: pixel, size: 16}}}", "ascent.steps=2"]
SMALL = ["figure.grid=2", "figure.fewest=3", "figure.layer=output", "tracking=off", "progress=false"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_every_file_and_the_same_again(
    method: str, small: list[str], images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    command = ["figure", "atlas", *small, f"data.root={images}", f"figure.method={method}", *PIXELS, *SMALL]
    both = "+figure.rows.spectrum={prior: {fourier: {path: fourier, size: 16}}}"
    for out in ("one", "two"):
        assert main([*command, both, f"out={out}"]) == 0
    said = capsys.readouterr()
    name = {"tsne": "t-SNE", "pca": "PCA"}[method]
    assert "of 24 images in" in said.out and f"by {name}" in said.out and "broken.png" in said.err
    files = {path.name for path in Path("one").iterdir() if path.name.startswith("atlas.")}
    assert files == {"atlas.pdf", "atlas.png", "atlas.csv", "atlas.html"}
    for file in files:
        assert Path("one", file).read_bytes() == Path("two", file).read_bytes(), file
    manifest = json.loads(Path("one/manifest.json").read_text())
    assert files <= {*manifest["files"]} and files <= {*manifest["writes"]} and manifest["atlas"]["grid"] == 2
    with Path("one/atlas.csv").open() as table:
        rows = list(csv.DictReader(table))
    cells = manifest["atlas"]["cells"]
    assert len(rows) == 2 * cells and [row["row"] for row in rows[::cells]] == ["pixels", "spectrum"]
    for row in rows[:cells]:
        assert int(row["count"]) >= 3 and row["unit"] == f"output:cell {row['cell_row']},{row['cell_column']}"
        assert sum(int(part.rpartition(" ")[2]) for part in row["chosen"].split("; ")) <= int(row["count"])
        assert float(row["activation"]) and row["mean_outputs"]
    Path("one/atlas.html").write_text("mine")
    assert main([*command, "out=one"]) == 2 and "atlas.html" in capsys.readouterr().err


WRONG = [
    (["figure.layer=outputs"], "no layer 'outputs'"),
    (["figure.grid=much"], "figure.grid is 'much', expected int"),
    (["figure.method=umpa"], "did you mean 'umap'"),
    (["~figure.rows.pixels"], "an atlas needs a prior"),
    (["figure.grid=true"], "figure.grid is True, expected int"),
    (["~figure.layer"], "an atlas needs a layer"),
    (["figure.fewest=25"], "no cell of the 2 x 2 has 25 of the 24 activations: give a smaller grid"),
]


@pytest.mark.parametrize(("words", "line"), rest_slow(WRONG, WRONG[0]))
def test_what_is_wrong_is_a_line(
    words: list[str], line: str, small: list[str], images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["figure", "atlas", *small, *PIXELS, *SMALL, "figure.method=pca"]
    assert main([*command, f"data.root={images}", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert line in said and "unexpected" not in said and not Path("runs").exists()


@pytest.mark.slow
def test_it_needs_images(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure", "atlas", *small, *PIXELS, *SMALL]) == 2
    assert "give data.root=FOLDER" in capsys.readouterr().err
