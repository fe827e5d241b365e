"""Results that show themselves: as a labelled grid, inline in a notebook, as a table."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from html import escape
from typing import Any

from PIL import Image

from dgn.drawing.matrix import Cell, grid
from dgn.errors import DgnError
from dgn.images.pictures import png


class Shown(ABC):
    """What results have in common: of their pictures, their title and the rows of their table the rest follows."""

    @property
    @abstractmethod
    def title(self) -> str:
        """A line above the pictures."""

    @abstractmethod
    def cells(self) -> list[Cell]:
        """Its pictures with their labels, as :func:`dgn.drawing.matrix.grid` lays them out."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Its table, a dictionary a row."""

    def grid(self, *others: Shown, title: str | None = None, tile: int = 176, columns: int = 8) -> Image.Image:
        """Its pictures, labelled, as one.

        Args:
            others: results whose rows stand below, such as those of other priors.
            title: above all; None: its own.
            tile: pixels of a picture's side.
            columns: pictures side by side, before the rows are folded.
        """
        cells: list[Cell] = []
        for result in (self, *others):
            taken, own, lap = {cell.row for cell in cells}, result.cells(), 1
            names = {cell.row: cell.row for cell in own}
            while taken & {*names.values()}:  # of two results with the same labels the second's are numbered
                lap += 1
                names = {row: f"{row} ({lap})" for row in names}
            cells += [Cell(cell.unit, names[cell.row], cell.image, cell.caption) for cell in own]
        return grid(cells, self.title if title is None else title, tile=tile, columns=columns)

    def __repr__(self) -> str:
        """The title and the first rows of the table."""
        rows = self.rows()
        lines = ["  " + ", ".join(f"{key}={value}" for key, value in row.items()) for row in rows[:6]]
        more = [f"  and {len(rows) - 6} more"] if len(rows) > 6 else []
        return "\n".join([f"{type(self).__name__}: {self.title}", *lines, *more])

    def _repr_html_(self) -> str:
        """The grid, inline: what a notebook shows of a result in a cell's last line."""
        data = base64.b64encode(png(self.grid(tile=128, columns=6))).decode()
        return f'<img alt="{escape(self.title)}" style="max-width: 100%" src="data:image/png;base64,{data}">'

    def to_pandas(self) -> Any:
        """Its table as a ``pandas.DataFrame``.

        Raises:
            DgnError: pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError:
            raise DgnError("to_pandas() needs pandas: pip install pandas") from None
        return DataFrame(self.rows())
