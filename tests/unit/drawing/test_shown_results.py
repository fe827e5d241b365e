"""Results show themselves: one labelled picture, the same inline, and a table."""

from __future__ import annotations

import base64
import io
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallCNN
from PIL import Image

import dgn
from dgn.analysis.facets import cluster
from dgn.drawing.show import Shown
from dgn.errors import DgnError
from dgn.priors.pixel import PixelPrior


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    torch.manual_seed(0)
    network = dgn.Network(SmallCNN().eval(), 32, class_names=["ant", "cat", "bee", "dog", "<eel>"])
    images = list(torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return {
        "synthesis": dgn.synthesize(network, ["ant", "late:3", "<eel>"], PixelPrior(32), steps=3, seeds=2),
        "examples": dgn.find_examples(network, ["ant", "stem:2"], images, k=3),
        "facets": dgn.find_facets(network, "ant", images, facets=2, examples=10, members=3),
        "ablation": dgn.ablate(network, images[0], "ant", size=8, stride=8),
    }


def dark(picture: Image.Image) -> float:
    """The share of a picture that is no paper."""
    return float((np.asarray(picture.convert("L")) < 250).mean())


LABELS = {
    "synthesis": ({"pixel s0", "pixel s1"}, {"ant", "late:3", "<eel>"}, 6),
    # The field of a feature of the stem is 3 px: it stands below the image.
    "examples": ({"ant: best", "stem:2: best", "stem:2: best, receptive field"}, {"1", "2", "3"}, 9),
    "facets": (None, {"1", "2", "3", "mean"}, 8),
    "ablation": ({"ant"}, {"image", "when covered"}, 2),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_labelled_grid(kind: str, results: dict[str, Any]) -> None:
    result: Shown = results[kind]
    rows, columns, count = LABELS[kind]
    cells = result.cells()
    assert rows is None or {cell.row for cell in cells} == rows
    assert {cell.unit for cell in cells} == columns and len(cells) == count
    picture, large = result.grid(tile=64), result.grid(tile=128)
    assert picture.mode == "RGB" and dark(picture) > 0.1 and large.height > picture.height
    html = result._repr_html_()
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert shown.format == "PNG" and shown.size == result.grid(tile=128, columns=6).size
    (alt,) = re.findall(r'alt="([^"]*)"', html)
    assert alt and "<" not in alt and html.count("<") == 1


def test_results_beside_each_other(results: dict[str, Any]) -> None:
    """Rows of a second result stand below, also those with the same labels."""
    one, ablation = results["synthesis"], results["ablation"]
    assert ablation.grid(ablation, tile=64).height > ablation.grid(tile=64).height
    assert one.grid(one, title="", tile=64).height > 1.5 * one.grid(title="", tile=64).height


def test_facets_of_features_alone_have_no_pictures() -> None:
    facets = cluster(torch.rand(6, 4), 2)
    with pytest.raises(DgnError, match="there are no images to show"):
        facets.grid()
    assert [row["name"] for row in facets.rows()] == [""] * 6


def test_tables(results: dict[str, Any]) -> None:
    synthesis, ablation, facets, examples = (
        results[kind].rows() for kind in ("synthesis", "ablation", "facets", "examples")
    )
    first = results["synthesis"]
    assert synthesis[1] == {
        "unit": "ant", "prior": "pixel", "seed": 1, "activation": float(first.activations[1]), "frozen_at": -1
    }  # fmt: skip
    assert len(ablation) == 16 and ablation[5]["top"] == ablation[5]["left"] == 8
    assert ablation[5]["drop"] == float(results["ablation"].drops[1, 1])
    assert [row["facet"] - 1 for row in facets] == results["facets"].labels.tolist()
    for facet, members in enumerate(results["facets"].nearest, 1):
        assert [(facets[at]["facet"], facets[at]["place"]) for at in members] == [(facet, i) for i in (1, 2, 3)]
    assert {row["name"] for row in facets} <= {str(number) for number in range(12)}
    best = [row for row in examples if row["unit"] == "stem:2" and row["kind"] == "top"]
    assert [row["rank"] for row in best] == [1, 2, 3] and re.fullmatch(r"\d+,\d+,\d+,\d+", best[0]["box"])


@pytest.mark.needs("pandas")
def test_to_pandas(results: dict[str, Any]) -> None:
    for result in results.values():
        table = result.to_pandas()
        assert table.to_dict("records") == result.rows() and len(table.columns) >= 3


def test_without_pandas(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DgnError, match=r"^to_pandas\(\) needs pandas: pip install pandas$"):
        results["ablation"].to_pandas()


def test_examples_unpack(results: dict[str, Any]) -> None:
    units, data, broken = results["examples"]
    assert units is results["examples"].units and len(data) == 12 and broken == []
