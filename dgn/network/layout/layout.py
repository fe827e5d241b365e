"""What the axes of a layer's output mean: samples, features and places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dgn.errors import DgnError
from dgn.network.layout.prefix import in_words, is_token
from dgn.network.layout.survey import Seen

Position = tuple[int, ...] | Literal["center", "max"] | None


@dataclass(frozen=True)
class Grid:
    """Rows and columns of a map; of tokens, those that stand for places of the image.

    Attributes:
        height, width: in cells.
        first: of tokens, the first of the grid: before it stand class tokens and registers.
    """

    height: int
    width: int
    first: int = 0

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.height * self.width


@dataclass(frozen=True)
class Layout:
    """What the axes of a layer's output mean.

    Attributes:
        seen: the tensor, with its shape and the axis of its samples.
        features: the axis of the features in ``shape``; -1 where a sample has one number alone.
        grid: None where there is none.
        prefix: names of the tokens before the grid, ``cls``, ``reg0``, ...; empty where they aren't known.
    """

    seen: Seen
    features: int
    grid: Grid | None = None
    prefix: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the axis of the samples."""
        return self.seen.shape

    @property
    def count(self) -> int:
        """Number of features."""
        return self.shape[self.features] if self.shape else 1

    @property
    def positions(self) -> tuple[int, ...]:
        """Sizes of the axes of places."""
        return tuple(size for axis, size in enumerate(self.shape) if axis != self.features)

    @property
    def kind(self) -> str:
        """In words, as ``dgn units`` shows it."""
        axes, grid = len(self.positions), self.grid
        if not axes:
            return "vector"
        if self.seen.windows > 1:
            return f"{self.seen.windows} windows"
        if axes == 1 and grid is not None:
            after = self.positions[0] - grid.cells - grid.first
            parts = [in_words(self.prefix) or grid.first or "", f"{grid.height} x {grid.width}", after or ""]
            words = "tokens, " + " + ".join(str(part) for part in parts if part)
        elif axes == 1:
            words = "sequence" if self.features == 0 else "tokens"
        else:
            words = {2: "map" if grid else "array", 3: "volume"}.get(axes, "array")
        if self.features not in (0, len(self.shape) - 1):
            words += f", channels on axis {self.features + 1}"
        elif self.features and axes > 1:
            words += ", channels last"
        return words + (", samples second" if self.seen.batch == 1 else "")

    def canonical(self, output: Tensor, samples: int) -> Tensor:
        """A layer's output for so many samples as ``[N, C, *places]``, whatever its own order; a view."""
        output = self.seen.samples_first(output, samples)
        return output[:, None] if output.dim() == 1 else output.movedim(self.features + 1, 1)

    def token(self, name: str, where: str) -> Position:
        """The position of a token by its name, ``cls``, ``reg0``, ...; None where it is no such name.

        Raises:
            DgnError: the layer, called ``where``, has no such token.
        """
        if not is_token(name):
            return None
        if name not in self.prefix:
            known = f"; it has @{', @'.join(self.prefix)}" if self.prefix else ""
            raise DgnError(f"{where} ({self.kind}) has no token @{name}{known}")
        return (self.prefix.index(name),)

    def where(self, position: Position, places: Sequence[int] | None = None) -> tuple[int, ...]:
        """The index of a position among the axes of places.

        Args:
            position: as a unit has it; neither None nor ``max``, which are no single one.
            places: sizes of the axes where the network sees images of another size: the same part of the image.
        """
        assert position is not None and position != "max"
        own, now, grid = self.positions, tuple(self.positions if places is None else places), self.grid
        if grid is not None and (position == "center" or len(position) == 2):
            height, width = self._grid_of(grid, now)
            y, x = _moved(position, (grid.height, grid.width), (height, width))
            return (y, x) if len(own) == 2 else (grid.first + y * width + x,)
        if position != "center" and grid is not None and len(own) == 1 and position[0] < grid.first:
            return position  # a class token or register
        return _moved(position, own, now)

    def cells(self, maps: Tensor) -> Tensor | None:
        """The cells of the grid, row by row, ``[N, C, h * w]``, of canonical outputs ``[N, C, *places]`` at any input
        size; None where there is no grid."""
        grid = self.grid
        if grid is None:
            return None
        flat = maps.flatten(2)
        after = 0 if len(self.positions) == 2 else self.positions[0] - grid.first - grid.cells
        return flat[:, :, grid.first : flat.shape[2] - after]

    def cell_of(self, position: Position) -> int | None:
        """The cell of the grid, counted row by row, that a position is; None where it is none."""
        if self.grid is None or position in (None, "max"):
            return None
        where = self.where(position)
        cell = where[0] * self.grid.width + where[1] if len(where) == 2 else where[0] - self.grid.first
        return cell if 0 <= cell < self.grid.cells else None

    def _grid_of(self, grid: Grid, places: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the grid where the axes of places have these sizes."""
        if places == self.positions:
            return grid.height, grid.width
        if len(places) == 2:
            return places[0], places[1]
        cells = places[0] - (self.positions[0] - grid.cells)
        height = max(1, round(grid.height * (cells / grid.cells) ** 0.5))
        return height, max(1, cells // height)

    def check(self, position: Position, where: str) -> None:
        """Raise :class:`DgnError` where a layer, called ``where``, has no such position."""
        if position is None:
            return
        asked = position if isinstance(position, str) else ",".join(map(str, position))
        if not self.positions:
            raise DgnError(f"{where} has no positions: leave out @{asked}")
        if position == "max":
            return
        if position == "center":
            if self.seen.windows > 1 or (self.grid is None and len(self.positions) == 2):
                raise DgnError(f"{where} has no grid of positions ({self.kind}): leave out @center")
            return
        grid = self.grid
        sizes = (grid.height, grid.width) if grid is not None and len(position) == 2 else self.positions
        if len(sizes) != len(position):
            form = ",".join("YX" if grid else "I" * len(sizes))
            raise DgnError(f"{where} has positions @{form} ({self.kind}), got @{asked}")
        if not all(0 <= at < size for at, size in zip(position, sizes, strict=True)):
            known = " x ".join(map(str, sizes))
            raise DgnError(f"position @{asked} is out of range: {where} has {known} positions")


def _moved(position: tuple[int, ...] | Literal["center"], own: Sequence[int], now: Sequence[int]) -> tuple[int, ...]:
    """Map a position from axes of size ``own`` to axes of size ``now``: the cell over the same part of the image."""
    if position == "center":
        return tuple(size // 2 for size in now)
    axes = zip(position, own, now, strict=True)
    return tuple(at if size == new else min(new - 1, int((at + 0.5) * new / size)) for at, size, new in axes)
