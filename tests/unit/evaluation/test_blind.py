"""Sheets for a viewer who isn't told, and the scores of what was written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from dgn.cli.judging.blind import scored, write_sheets
from dgn.errors import DgnError
from dgn.evaluation.blind import ON_A_SHEET, Answer, lay_out, read_answers, score, table
from dgn.evaluation.naming import kinds, right
from dgn.evaluation.real import RealImages
from dgn.evaluation.reference import Made
from dgn.units.unit import Term, Unit

CLASSES = [1, 94, 207, 340, 779, 817]


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        ("zebra", 340, "exactly"), ("two Zebras", 340, "exactly"), ("a horse", 340, "in kind"), ("a dog", 340, ""),
        ("golden retriever", 207, "exactly"), ("dogs", 207, "in kind"), ("beagle", 207, "in kind"), ("cat", 207, ""),
        ("goldfish", 1, "exactly"), ("fish", 1, "in kind"), ("a shark?", 1, "in kind"), ("orange", 1, ""),
        ("hummingbird", 94, "exactly"), ("bird", 94, "in kind"), ("strawberry", 94, ""), ("", 94, ""),
        ("yellow school bus", 779, "exactly"), ("bus", 779, "in kind"), ("sports cars", 817, "exactly"),
        ("car", 817, "in kind"), ("carpet", 817, ""), ("thing", 419, ""), ("Band-Aid", 419, "exactly"),
    ],
)  # fmt: skip
def test_what_is_right(answer: str, label: int, expected: str) -> None:
    assert right(answer, label) == expected


def test_every_class_has_a_kind() -> None:
    known = kinds()
    assert len(known.names) == len(known.kind) == 1000 and set(known.kind) == set(known.words)
    assert 50 <= len(known.words) <= 80 and all(known.names)


def test_no_class_twice_on_a_sheet() -> None:
    shown = lay_out({"a": range(50), "b": range(50), "photographs": range(40)}, seed=3)
    assert [one.number for one in shown] == list(range(1, 141))
    for sheet in range(1, shown[-1].sheet + 1):
        own = [one.label for one in shown if one.sheet == sheet]
        assert len(set(own)) == len(own) <= ON_A_SHEET
    assert len({one.method for one in shown[:20]}) == 3  # shuffled
    assert shown == lay_out({"a": range(50), "b": range(50), "photographs": range(40)}, seed=3)
    with pytest.raises(DgnError, match="seeds=1"):
        lay_out({"a": [1, 1]})


def made(method: str, shade: float) -> Made:
    units = [Unit(str(label), (Term("output", label),)) for label in CLASSES]
    images = torch.full((len(CLASSES), 3, 32, 32), shade)
    return Made(method, images, units, [0] * len(CLASSES), [])


def test_sheets_key_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers on the sheets are the key's; a viewer who knows one method's images alone gets what is right."""
    folder = tmp_path / "blind"
    photos = RealImages(torch.full((6, 3, 40, 50), 0.9), [*CLASSES[:5], 0], list("abcdef"), [])
    assert not scored(folder)
    write_sheets(folder, [made("dgn", 0.2), made("maco", 0.5)], photos, 0)
    assert "17 images on 3 sheets" in capsys.readouterr().out
    with (folder / "key.csv").open() as file:
        key = list(csv.DictReader(file))
    assert {row["method"] for row in key} == {"dgn", "maco", "photographs"} and len(key) == 17
    shades = {"dgn": 51, "maco": 128, "photographs": 230}
    with Image.open(folder / "sheet-01.png") as sheet:
        for place, row in enumerate(row for row in key if row["sheet"] == "1"):
            pixel = sheet.getpixel((110 + place % 5 * 200, 127 + place // 5 * 227))
            assert pixel[0] == pytest.approx(shades[row["method"]], abs=1)
    names = {1: "goldfish", 94: "bird", 207: "sheep", 340: "zebra", 779: "bus", 817: "car"}
    lines = [
        f"{row['number']},{names[int(row['class_index'])] if row['method'] == 'dgn' else '?'},3" for row in key
    ]  # fmt: skip
    (folder / "answers.csv").write_text("number,name,natural\n" + "\n".join(lines) + "\n")
    assert scored(folder)
    text = (folder / "scores.md").read_text()
    assert "| dgn | 6 | 33% (" in text and " | 83% (" in text and "| maco | 6 | 0% (0% to 0%)" in text
    assert scored(folder)  # again, over its own
    (folder / "scores.md").write_text("mine")
    with pytest.raises(DgnError, match="is not what dgn wrote there"):
        scored(folder)


def test_answers_that_can_not_be_scored(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    for text, message in (
        ("number,name\n1,dog\n", "lacks the column 'natural'"), ("number,name,natural\n1,dog,9\n", "natural is 9"),
        ("number,name,natural\n1,dog,\n", "line 2"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DgnError, match=message):
            read_answers(path)
    shown = lay_out({"a": [1, 2]})
    with pytest.raises(DgnError, match="1 of 2 images have no answer"):
        score(shown, {1: Answer("fish", 2)})
    assert "| a | 2 |" in table(score(shown, {1: Answer("fish", 2), 2: Answer("fish", 4)}))
