"""What a search through real images found: examples of each unit, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from dgn.analysis.receptive import Box
from dgn.analysis.squares import Squares
from dgn.drawing.matrix import Cell
from dgn.drawing.show import Shown
from dgn.errors import DgnError
from dgn.images.pictures import to_image
from dgn.units.unit import Unit

KINDS = {"top": "best", "bottom": "least", "random": "random, above 0"}
"""Best, least, and random positive examples: how they are asked for, and how they are labelled."""


@dataclass(frozen=True)
class Example:
    """One image of the data set.

    Attributes:
        index, name: in the data set.
        activation: the unit's.
        position: ``(y, x)`` in the layer's map where the unit's feature is highest; None for layers without a map.
        box: the receptive field of that position, in pixels of the network's input; None where there is none.
    """

    index: int
    name: str
    activation: float
    position: tuple[int, int] | None = None
    box: Box | None = None


@dataclass
class UnitExamples:
    """What the data set says of one unit.

    Attributes:
        unit: the unit.
        top, bottom, random: its best and its least examples, best and least first; random ones above 0.
        mean, std, positive: of its activation over the data set; share of the images where it is above 0.
    """

    unit: Unit
    top: list[Example] = field(default_factory=list)
    bottom: list[Example] = field(default_factory=list)
    random: list[Example] = field(default_factory=list)
    mean: float = 0.0
    std: float = 0.0
    positive: float = 0.0

    @property
    def warning(self) -> str | None:
        """One line for a unit that nothing excites."""
        if not self.top:
            return f"{self.unit.name} is not finite on any of these images: look at it without half precision"
        if self.positive > 0:
            return None
        if self.std > 0:  # a logit or a cosine, say
            return f"{self.unit.name} is never above 0 on these images: none excites it; try more or other images"
        return (
            f"{self.unit.name} never changes on these images: it may be dead; try more or other images, or the layer "
            "before its activation function"
        )

    def check(self) -> None:
        """Raise :class:`DgnError` where not one image gives the unit a number."""
        if not self.top:
            raise DgnError(str(self.warning))


@dataclass(repr=False)
class Examples(Shown):
    """Examples of several units; unpacks as ``units, data, broken``.

    Attributes:
        units: what the data set says of each.
        data: the data set.
        broken: names of images that could not be read.
    """

    units: list[UnitExamples]
    data: Squares
    broken: list[str]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.units, self.data, self.broken))

    title = "The images that excite each unit most; below each the unit's activation"

    def cells(self) -> list[Cell]:
        found: list[Cell] = []
        for one in self.units:
            for rank, example in enumerate(one.top, 1):
                found += example_cells(one.unit, "top", rank, example, self.data)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """A row an example: unit, kind, rank, activation, name and index in the data set, position and field."""
        return [
            example_row(one.unit, kind, rank, example)
            for one in self.units for kind in KINDS for rank, example in enumerate(getattr(one, kind), 1)
        ]  # fmt: skip


def example_row(unit: Unit, kind: str, rank: int, example: Example) -> dict[str, Any]:
    """An example in a table; places are written ``Y,X``, fields ``TOP,LEFT,BOTTOM,RIGHT``."""
    return {
        "unit": unit.name, "kind": kind, "rank": rank, "activation": round(example.activation, 5),
        "name": example.name, "index": example.index, "position": ",".join(map(str, example.position or ())),
        "box": ",".join(map(str, example.box or ())),
    }  # fmt: skip


def example_cells(unit: Unit, kind: str, rank: int, example: Example, data: Squares) -> list[Cell]:
    """An example in a grid; below it what the unit's feature sees of it, where that is less than half."""
    label, square = f"{unit.name}: {KINDS[kind]}", data.tensors([example.index])[0]
    cells = [Cell(f"{rank}", label, to_image(square), f"{example.activation:.2f}")]
    part = field_of(square, example, data)
    if (
        part is not None
        and example.box is not None
        and 2 * _area(example.box) < data.sight.size[0] * data.sight.size[1]
    ):
        top, left, bottom, right = example.box  # a larger one would show the same picture twice
        cells.append(Cell(f"{rank}", f"{label}, receptive field", _padded(part), f"{right - left} x {bottom - top} px"))
    return cells


def field_of(square: Tensor, example: Example, data: Squares) -> Image.Image | None:
    """The part of an example ``[C, H, W]`` that its unit's feature sees; None where that is all of it."""
    size = data.sight.size
    if example.box is None or _area(example.box) >= size[0] * size[1]:
        return None
    height, width = (side / full for side, full in zip(square.shape[1:], size, strict=True))
    top, left, bottom, right = example.box
    rows, columns = (
        slice(round(first * scale), round(last * scale))
        for first, last, scale in ((top, bottom, height), (left, right, width))
    )
    return to_image(square[:, rows, columns])


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _padded(image: Image.Image) -> Image.Image:
    """On a white square: fields at an edge are no squares."""
    side = max(image.size)
    sheet = Image.new("RGB", (side, side), (255, 255, 255))
    sheet.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return sheet
