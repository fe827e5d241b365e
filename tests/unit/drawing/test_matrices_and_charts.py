"""Figures for papers: every word is there, at its place and at a size that can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from dgn.drawing.charts import Lines, draw_lines
from dgn.drawing.heat import share_scale
from dgn.drawing.letters import SMALLEST
from dgn.drawing.letters import number as shown
from dgn.drawing.matrix import WIDTHS, Cell, Matrix, draw_matrix, grid
from dgn.drawing.mosaic import Mosaic, Tile, draw_mosaic


def texts(canvas: Any) -> list[Text]:
    """All but the numbers of axes, of which matplotlib takes care."""
    found = [text for legend in canvas.legends for text in legend.get_texts()]
    for axis in canvas.axes:
        found += axis.texts
        if axis.get_visible() and axis.axison:
            found += [axis.title, axis._left_title, axis.xaxis.label, axis.yaxis.label]
    return [text for text in found if text.get_text().strip()]


def check_layout(canvas: Any) -> None:
    """Nothing over anything else, nothing over the edge, nothing too small."""
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    found = [
        (text.get_text(), text.get_fontsize(), text.get_window_extent(agg.get_renderer())) for text in texts(canvas)
    ]
    edge = canvas.bbox
    for number, (name, size, box) in enumerate(found):
        assert size >= SMALLEST, (name, size)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= edge.x1 + 0.5 and box.y1 <= edge.y1 + 0.5, (name, box, edge)
        for other, _, place in found[:number]:
            across = min(box.x1, place.x1) - max(box.x0, place.x0)
            down = min(box.y1, place.y1) - max(box.y0, place.y0)
            assert across <= 0.5 or down <= 0.5, f"{name!r} lies on {other!r}"


def matrix(rows: list[str], columns: list[str], caption: str = "-12.3", names: list[str] | None = None) -> Matrix:
    made = Matrix(rows, columns)
    for row in range(len(rows)):
        for column in range(len(columns)):
            made.pictures[row, column] = Image.new("RGB", (64, 64), (200, 200, 200))
            made.captions[row, column] = caption
            if names:
                made.names[row, column] = names[column]
    return made


CLASSES = ["goldfish", "zebra", "school bus", "strawberry", "volcano"]
MATRICES = {
    "ablation": matrix(["image", "drop when covered"], ["golden retriever", "missile", "espresso", "motor scooter"],
                       "largest drop 11.7"),
    "layers": matrix(["blocks.4", "bn2 (last map)", "output"], [""] * 5,
                     names=["hummingbird", "candle", "pizza", "castle", "sports car"]),
    "two_neurons": matrix(["seed 0", "seed 1"], ["candle", "0.5*candle + 0.5*convertible", "convertible",
                                                 "0.5*convertible + 0.5*volcano", "volcano"]),
    "priors": matrix(["best real example", "pixels, transformed", "generator"], CLASSES),
    "regularisers": matrix(["shift, scale, rotate", "total variation", "generator"], CLASSES),
    "facets": matrix(["facet 1", "facet 2"], ["real 1", "real 2", "real 3", "real 4", "mean", "generator", "pixels"]),
    "start": matrix(["generator", "pixels"], ["image", *[f"step {step}" for step in (0, 31, 63, 95, 127, 159)]]),
}  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", MATRICES)
def test_matrices_are_legible(name: str, width: str) -> None:
    made = MATRICES[name]
    canvas = draw_matrix(made, width=WIDTHS[width], title="What efficientnet_lite0 needs: drop of the activation")
    check_layout(canvas)
    shown = [text.get_text().replace("\n", " ") for text in texts(canvas)]
    wanted = [*made.rows, *made.columns, *made.captions.values(), *made.names.values()]
    assert sorted(shown[1:]) == sorted(text for text in wanted if text)  # whole, and broken at blanks only


def test_small_numbers_keep_two_decimals() -> None:
    assert [shown(value) for value in (0.724, -0.05, 1.0, 12.34, -3.0)] == ["0.72", "-0.05", "1.0", "12.3", "-3.0"]


def test_blank_headings_take_no_room() -> None:
    tall, flat = (draw_matrix(matrix(["a"], columns)).get_size_inches()[1] for columns in (["b"] * 5, [""] * 5))
    assert flat < tall - 0.1


def test_a_word_wider_than_its_picture_is_broken_not_cut() -> None:
    word = "Rhabarberbarbarabarbarbarenbartbarbier"
    canvas = draw_matrix(matrix(["a"], [word] * 6), width=WIDTHS["column"])
    check_layout(canvas)
    assert [text.get_text().replace("\n", "") for text in texts(canvas)].count(word) == 6


@pytest.mark.parametrize("width", WIDTHS)
def test_curves_are_legible(width: str) -> None:
    names = ["generator", "pixels, transformed", "Fourier", "MACO"]
    curves = {name: ([0, 1], [0, 40]) for name in names}
    panels = [
        Lines(f"golden retriever in photograph-{n}", "share of the pixels", "activation", curves) for n in range(4)
    ]
    check_layout(draw_lines(panels, width=WIDTHS[width], title="Deletion and insertion of four photographs"))
    check_layout(draw_lines(panels[:1], width=WIDTHS[width]))


def test_overlays_share_a_scale_and_have_a_key() -> None:
    """A drop of 0.5 beside one of 1.7 looks weaker."""
    made = matrix(["image", "drop when covered"], ["a", "b"])
    heats = [torch.zeros(64, 64), torch.zeros(64, 64)]
    heats[0][20:40, 20:40], heats[1][20:40, 20:40] = 0.5, 1.7
    share_scale(made, 1, [(torch.full((3, 64, 64), 0.5), heat) for heat in heats])
    red = [int(made.pictures[1, column].getpixel((30, 30))[1]) for column in (0, 1)]  # type: ignore[index]
    assert red[0] > red[1] + 30  # less green is more red
    canvas = draw_matrix(made, width=WIDTHS["column"])
    check_layout(canvas)
    assert {"-1.7", "drop of the activation", "1.7"} <= {text.get_text() for text in texts(canvas)}


def test_a_grid_is_folded_and_counts_what_it_leaves_out() -> None:
    """Eight units side by side, 64 in all; the line about others stands below them."""
    dot = Image.new("RGB", (64, 64), "red")
    cells = [Cell(f"unit {number}", row, dot, "1.0") for number in range(70) for row in ("a", "b")]
    one, two, most, more = (grid(cells[: 2 * units], "units", tile=32) for units in (8, 9, 64, 70))
    assert one.width == two.width == more.width and two.height > 1.7 * one.height
    assert most.height < more.height < most.height + 40
    red = (np.asarray(more) == (255, 0, 0)).all(2)
    assert red[:, : red.shape[1] // 2].any() and not red[-25:].any()


@pytest.mark.slow
def test_a_grid_of_many_rows_has_fewer_units_side_by_side() -> None:
    dot = Image.new("RGB", (64, 64), "red")
    many = [Cell(f"unit {number}", f"row {row}", dot, "") for number in range(9) for row in range(100)]
    assert grid(many, "", tile=16, columns=9).width == grid(many[:800], "", tile=16, columns=9).width  # eight of them


@pytest.mark.slow
def test_a_very_long_grid_can_be_drawn() -> None:
    cells = [Cell("unit", f"s{row}", Image.new("RGB", (4, 4)), "") for row in range(400)]
    assert 50_000 < grid(cells, "", tile=200).height < 65_536


def test_a_mosaic_has_no_margins() -> None:
    """Columns and rows without a picture on the outside are left away; pictures keep their proportions."""
    wide = Image.new("RGB", (20, 10))
    tiles = [Tile(3, 2, 1.0, wide), Tile(6, 2, 0.5, wide), Tile(4, 4, 1.0, wide)]
    alone, both = Mosaic({"one": tiles}), Mosaic({"one": tiles, "two": tiles[:2]})
    assert alone.bounds() == both.bounds() == (3, 2, 4, 3)
    canvas = draw_mosaic(alone, width=4.0)
    assert tuple(canvas.get_size_inches()) == (4.0, 3.0) and not texts(canvas)
    (left, right, bottom, top), (first, last, *_), _ = (image.get_extent() for image in canvas.axes[0].images)
    assert 0 <= left < 0.1 and right - left == pytest.approx(2 * (bottom - top)) == pytest.approx(2 * (last - first))
    beside = draw_mosaic(both, width=WIDTHS["page"], title="An atlas of a layer with a rather long name, " * 3)
    check_layout(beside)
    assert {text.get_text() for text in texts(beside)} >= {"one", "two"} and len(beside.axes[0].images) == 5
