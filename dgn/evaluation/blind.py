"""Numbered sheets for a viewer who knows neither classes nor methods, and the scores of the answers."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dgn.drawing.matrix import Matrix, screen
from dgn.errors import DgnError
from dgn.evaluation.metrics import Interval, mean_interval
from dgn.evaluation.naming import right
from dgn.images.fit import resized
from dgn.images.pictures import to_image

TILE, COLUMNS, ON_A_SHEET = 200, 5, 20
"""Pixels of an image on a sheet, images side by side, and images in all."""
KEY = ("number", "sheet", "method", "class_index")
"""Columns of ``key.csv``."""


@dataclass(frozen=True)
class Numbered:
    """One image that a viewer is shown: its number, its sheet, whose it is, and of which ImageNet class."""

    number: int
    sheet: int
    method: str
    label: int


@dataclass(frozen=True)
class Answer:
    """What a viewer wrote of an image: what it shows, and how natural it looks, from 1 (noise) to 5 (a photograph)."""

    name: str
    natural: float


def lay_out(methods: Mapping[str, Sequence[int]], seed: int = 0) -> list[Numbered]:
    """Images shuffled over methods and classes, and shared out over sheets: no class twice on one.

    Args:
        methods: of each method the ImageNet classes of its images.
        seed: of the shuffle.

    Raises:
        DgnError: a method has two images of one class.
    """
    images = [(method, label) for method, labels in methods.items() for label in labels]
    if len(set(images)) < len(images):
        raise DgnError("a viewer may see one image of a class by one method: give seeds=1")
    random.Random(seed).shuffle(images)
    sheets: list[list[tuple[str, int]]] = []
    for image in images:
        free = next(
            (s for s in sheets if len(s) < ON_A_SHEET and all(label != image[1] for _, label in s)), None
        )  # fmt: skip
        if free is None:
            sheets.append(free := [])
        free.append(image)
    order = [(sheet, *image) for sheet, images in enumerate(sheets, 1) for image in images]
    return [Numbered(number, sheet, method, label) for number, (sheet, method, label) in enumerate(order, 1)]


def draw(shown: Sequence[Numbered], images: Sequence[Tensor]) -> Image.Image:
    """One sheet: images ``[C, H, W]`` in [0, 1], all of one size, with their numbers."""
    matrix = Matrix([""] * -(-len(shown) // COLUMNS), [""] * min(COLUMNS, len(shown)))
    for number, (one, image) in enumerate(zip(shown, images, strict=True)):
        place = divmod(number, COLUMNS)
        matrix.names[place] = str(one.number)
        matrix.pictures[place] = to_image(resized(image[None], (TILE, TILE))[0].clamp(0, 1))
    return screen(matrix, "", TILE)


def key_rows(shown: Sequence[Numbered]) -> list[dict[str, Any]]:
    """Those of ``key.csv``: to be opened afterwards."""
    return [dict(zip(KEY, (one.number, one.sheet, one.method, one.label), strict=True)) for one in shown]


def read_key(path: Path) -> list[Numbered]:
    """What :func:`key_rows` gave.

    Raises:
        DgnError: it can't be read.
    """
    try:
        with path.open(newline="") as file:
            return [
                Numbered(int(row["number"]), int(row["sheet"]), row["method"], int(row["class_index"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DgnError(f"{str(path)!r} is no key of blind sheets: {error}") from error


def read_answers(path: Path) -> dict[int, Answer]:
    """A viewer's table with the columns number, name and natural; rows without a name are left out.

    Raises:
        DgnError: a column is missing, or a value is none.
    """
    found = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        lacking = {"number", "name", "natural"} - set(table.fieldnames or [])
        if lacking:
            raise DgnError(f"{str(path)!r} lacks the column {sorted(lacking)[0]!r}; it needs number,name,natural")
        for line, row in enumerate(table, 2):
            try:
                number, natural = int(row["number"]), float(row["natural"])
            except (TypeError, ValueError):
                raise DgnError(f"{str(path)!r}, line {line}: number and natural are numbers") from None
            if not 1 <= natural <= 5:
                raise DgnError(f"{str(path)!r}, line {line}: natural is {natural:g}, expected 1 (noise) to 5 (a photo)")
            found[number] = Answer((row["name"] or "").strip(), natural)
    return found


@dataclass(frozen=True)
class Score:
    """How a viewer fared with a method: shares named exactly and exactly or in kind, and the rating, with intervals."""

    method: str
    images: int
    exactly: Interval
    named: Interval
    natural: Interval


def score(key: Sequence[Numbered], answers: Mapping[int, Answer]) -> list[Score]:
    """The scores of each method, in the order of their names; intervals are bootstrapped over images.

    Raises:
        DgnError: images without an answer.
    """
    open_ones = [one.number for one in key if one.number not in answers]
    if open_ones:
        raise DgnError(f"{len(open_ones)} of {len(key)} images have no answer, the first is number {open_ones[0]}")
    found = []
    for method in sorted({one.method for one in key}):
        own = [one for one in key if one.method == method]
        verdicts = [right(answers[one.number].name, one.label) for one in own]
        columns = (
            [verdict == "exactly" for verdict in verdicts],
            [verdict != "" for verdict in verdicts],
            [answers[one.number].natural for one in own],
        )
        found.append(Score(method, len(own), *(mean_interval(torch.tensor(column).float()) for column in columns)))
    return found


def table(scores: Sequence[Score]) -> str:
    """The scores as Markdown, 95 % intervals in brackets."""
    lines = ["| method | images | named exactly | exactly or in kind | naturalness, 1 to 5 |", "|---|---|---|---|---|"]
    for one in scores:
        shares = [f"{share:.0%} ({low:.0%} to {high:.0%})" for share, low, high in (one.exactly, one.named)]
        value, low, high = one.natural
        lines.append(f"| {one.method} | {one.images} | {' | '.join(shares)} | {value:.2f} ({low:.2f} to {high:.2f}) |")
    return "\n".join(lines) + "\n"
