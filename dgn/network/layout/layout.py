"""Which axis of a layer's output is the features, and which are places: found from the module, never assumed.

What a module is decides where it can (a convolution's features are on its first axis, a linear layer's on its last).
A layer that is no such module carries on the features of the last one before it that is, where just one of its axes
has their number. The rest is asked of the network: images that differ in one part are shown, and an axis along which
the answer moves with that part is one of places (:mod:`dgn.network.layout.places`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, instancenorm, pooling

from dgn.errors import DgnError
from dgn.network.layout.survey import Seen

Position = tuple[int, ...] | Literal["center"] | None
Grid = tuple[int, int] | None


@dataclass(frozen=True)
class Layout:
    """What the axes of a layer's output mean.

    Attributes:
        seen: the tensor, with its shape and the axis of its samples.
        features: the axis of the features in ``shape``; -1 where a sample has one number alone.
        grid: height and width of the map; of tokens, those that stand for places of the image; None: there is none.
        first: of tokens, the first of the grid: before it stand class tokens and registers.
    """

    seen: Seen
    features: int
    grid: Grid = None
    first: int = 0

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
        places = self.positions
        if not places:
            return "vector"
        if self.seen.windows > 1:
            return f"{self.seen.windows} windows"
        if len(places) == 1:
            if self.grid is None:
                words = "sequence" if self.features == 0 else "tokens"
            else:
                extra = places[0] - self.grid[0] * self.grid[1]
                before, after = self.first, extra - self.first
                words = "tokens, " + f"{before} + " * bool(before) + f"{self.grid[0]} x {self.grid[1]}"
                words += f" + {after}" * bool(after)
        else:
            words = {2: "map", 3: "volume"}.get(len(places), "array") if self.grid or len(places) > 2 else "array"
        last = "" if self.features == 0 or len(places) == 1 else ", channels last"
        if self.features not in (0, len(self.shape) - 1):
            last = f", channels on axis {self.features + 1}"
        return words + last + (", samples second" if self.seen.batch == 1 else "")

    def canonical(self, output: Tensor, samples: int) -> Tensor:
        """A layer's output ``[N, C, *places]``, whatever its own order; a view.

        Args:
            output: as the module gave it.
            samples: N.
        """
        output = self.seen.samples_first(output, samples)
        return output[:, None] if output.dim() == 1 else output.movedim(self.features + 1, 1)

    def where(self, position: Position, places: Sequence[int] | None = None) -> tuple[int, ...]:
        """The index of a position among the axes of places.

        Args:
            position: as a unit has it.
            places: sizes of the axes where the network sees images of another size: the same part of the image.
        """
        own, now = self.positions, tuple(self.positions if places is None else places)
        if self.grid is not None and (position == "center" or (position is not None and len(position) == 2)):
            grid = self._grid_of(now)
            y, x = (self.grid[0] // 2, self.grid[1] // 2) if position == "center" else position  # type: ignore[misc]
            if position == "center":
                y, x = grid[0] // 2, grid[1] // 2
            else:
                y, x = _scaled(y, self.grid[0], grid[0]), _scaled(x, self.grid[1], grid[1])
            return (y, x) if len(own) == 2 else (self.first + y * grid[1] + x,)
        if position == "center":
            return tuple(size // 2 for size in now)
        assert position is not None
        if len(own) == 1 and self.grid is not None and position[0] < self.first:
            return position
        return tuple(_scaled(at, *sizes) for at, *sizes in zip(position, own, now, strict=True))

    def cells(self, maps: Tensor) -> Tensor | None:
        """Of canonical outputs ``[N, C, *places]`` at the network's own input size the cells of the grid, row by row,
        ``[N, C, h * w]``; None where there is no grid."""
        if self.grid is None:
            return None
        return maps.flatten(2)[:, :, self.first : self.first + self.grid[0] * self.grid[1]]

    def cell_of(self, position: Position) -> int | None:
        """The cell of the grid, counted row by row, that a position is; None where it is none."""
        if self.grid is None or position is None:
            return None
        where = self.where(position)
        cell = where[0] * self.grid[1] + where[1] if len(where) == 2 else where[0] - self.first
        return cell if 0 <= cell < self.grid[0] * self.grid[1] else None

    def _grid_of(self, places: tuple[int, ...]) -> tuple[int, int]:
        assert self.grid is not None
        if places == self.positions:
            return self.grid
        if len(places) == 2:
            return places[0], places[1]
        others = self.positions[0] - self.grid[0] * self.grid[1]
        cells = places[0] - others
        height = max(1, round(self.grid[0] * (cells / (self.grid[0] * self.grid[1])) ** 0.5))
        return height, max(1, cells // height)

    def check(self, position: Position, where: str) -> None:
        """Raise :class:`DgnError` where a layer, called ``where``, has no such position."""
        if position is None:
            return
        if not self.positions:
            raise DgnError(f"{where} has no positions: leave out @{_spelt(position)}")
        if position == "center":
            if self.seen.windows > 1 or (self.grid is None and len(self.positions) == 2):
                raise DgnError(f"{where} has no grid of positions ({self.kind}): leave out @center")
            return
        sizes = self.grid if self.grid is not None and len(position) == 2 else self.positions
        if len(sizes) != len(position):
            form = ",".join("YX" if self.grid else "I" * len(sizes))
            raise DgnError(f"{where} has positions @{form} ({self.kind}), got @{_spelt(position)}")
        if not all(0 <= at < size for at, size in zip(position, sizes, strict=True)):
            known = " x ".join(map(str, sizes))
            raise DgnError(f"position @{_spelt(position)} is out of range: {where} has {known} positions")


def _scaled(at: int, own: int, now: int) -> int:
    """The place of a map of ``own`` cells in one of ``now``: the cell over the same part of the image."""
    return at if own == now else min(now - 1, int((at + 0.5) * now / own))


def _spelt(position: tuple[int, ...] | str) -> str:
    return position if isinstance(position, str) else ",".join(map(str, position))


def given_axis(text: str, seen: Seen, layer: str) -> int:
    """The axis of the features in the shape, from axes written as ``NHWC``.

    Raises:
        DgnError: not one letter an axis, not exactly one N and one C, or N where the samples are not.
    """
    letters, windows = str(text).upper(), seen.windows > 1
    own = len(seen.shape) - windows + 1
    if len(letters) != own or letters.count("N") != 1 or letters.count("C") != 1 or not set(letters) <= set("NCLHWD"):
        raise DgnError(
            f"network.axes of layer {layer!r} is {text!r}, expected one letter for each of its {own} axes with one N "
            "(samples), one C (features) and L, H, W, D for places, as in NHWC or NLC"
        )
    if letters.index("N") != seen.batch:
        raise DgnError(f"network.axes of layer {layer!r} is {text!r}, but its samples are on axis {seen.batch + 1}")
    axis = letters.replace("N", "").index("C")
    return axis + (windows and axis >= seen.batch)


_FIRST: tuple[tuple[type[nn.Module], str], ...] = (
    (conv._ConvNd, "out_channels"),
    (batchnorm._BatchNorm, "num_features"),
    (instancenorm._InstanceNorm, "num_features"),
    (nn.GroupNorm, "num_channels"),
)
"""Modules whose features are on the first axis, and where they say how many these are."""

_LAST: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Linear, "out_features"), (nn.MultiheadAttention, "embed_dim"), (nn.LayerNorm, "normalized_shape"),
)  # fmt: skip
"""Modules whose features are on the last axis."""


def axis_by_type(module: nn.Module, shape: Sequence[int]) -> int | None:
    """The axis of the features in ``shape`` that a module's type and weights decide; else None.

    A class that has a forward of its own (timm has convolutions and norms of that kind, some with the channels last) is
    believed as to the number of its features, where one axis alone has that number.
    """
    if len(shape) <= 1:
        return len(shape) - 1
    for kinds, usual in ((_FIRST, 0), (_LAST, len(shape) - 1)):
        for kind, name in kinds:
            if isinstance(module, kind):
                count = _count(getattr(module, name))
                if count is None or (usual == 0 and not _fits(module, shape)):
                    return None
                if _has_forward_of(module, kind) and shape[usual] == count:
                    return usual
                return next(iter(_axes_of(shape, count)), None)
    if _pools(module) == len(shape) - 1 or type(module) in (nn.PixelShuffle, nn.PixelUnshuffle):
        return 0
    large = [axis for axis, size in enumerate(shape) if size > 1]
    return None if len(large) > 1 else large[0] if large else 0


def _count(value: int | tuple[int, ...]) -> int | None:
    if isinstance(value, int):
        return value
    return value[0] if len(value) == 1 else None


def _fits(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a convolution's output has an axis for each of its kernel's."""
    return len(shape) == len(module.kernel_size) + 1 if isinstance(module, conv._ConvNd) else True


def _has_forward_of(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module's forward is PyTorch's own, of the kind or of one of its classes (``Conv2d`` of ``_ConvNd``)."""
    return any(
        type(module).forward is base.forward and base.__module__.startswith("torch.nn.")
        for base in type(module).__mro__
        if issubclass(base, kind)
    )


def _axes_of(shape: Sequence[int], count: int) -> list[int]:
    """The axis with so many entries, where there is just one."""
    axes = [axis for axis, size in enumerate(shape) if size == count]
    return axes if len(axes) == 1 else []


def _pools(module: nn.Module) -> int:
    """Axes of places of a pooling layer over two or more; 0 for anything else: over one, it may pool features."""
    kind = type(module)
    if kind.__module__ != pooling.__name__:
        return 0
    return next((n for n in (2, 3) if kind.__name__.endswith(f"{n}d")), 0)


@dataclass(frozen=True)
class Known:
    """A layer whose type says what its axes are: its number of features, and the sizes of its axes of places."""

    name: str
    count: int
    places: tuple[int, ...]


def carried_axis(before: Known | None, shape: Sequence[int]) -> int | None:
    """The axis beside which ``shape`` has the places of the layer before, or else its features' number.

    None where no axis is of that kind, or several are.
    """
    if before is None:
        return None
    beside = [axis for axis in range(len(shape)) if (*shape[:axis], *shape[axis + 1 :]) == before.places]
    axes = beside or _axes_of(shape, before.count)
    return axes[0] if len(axes) == 1 else None
