"""Which axis of a layer's output is its features, told by what the user wrote, by the module's type, or by the layer
before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules import batchnorm, conv, instancenorm, pooling

from dgn.errors import DgnError
from dgn.network.layout.layout import Layout
from dgn.network.layout.survey import Seen


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


_KINDS: tuple[tuple[type[nn.Module], str, str, int], ...] = (
    (conv._ConvNd, "in_channels", "out_channels", 0),
    (batchnorm._BatchNorm, "num_features", "num_features", 0),
    (instancenorm._InstanceNorm, "num_features", "num_features", 0),
    (nn.GroupNorm, "num_channels", "num_channels", 0),
    (nn.Linear, "in_features", "out_features", -1),
    (nn.MultiheadAttention, "embed_dim", "embed_dim", -1),
    (nn.LayerNorm, "normalized_shape", "normalized_shape", -1),
)
"""Types of modules, the attributes that say how many features they take and give, and the axis on which these are."""


def axis_by_type(module: nn.Module, shape: Sequence[int], going_in: bool = False) -> int | None:
    """The axis of the features in ``shape`` that a module's type and weights decide, of what it gives or, ``going_in``,
    of what it takes; else None.

    A class that has a forward of its own (timm has convolutions and norms of that kind, some with the channels last) is
    believed as to the number of its features, where one axis alone has that number.
    """
    if len(shape) <= 1:
        return len(shape) - 1
    for kind, takes, gives, axis in _KINDS:
        if isinstance(module, kind):
            count, usual = getattr(module, takes if going_in else gives), axis % len(shape)
            if isinstance(count, tuple):  # a layer norm's
                count = count[0] if len(count) == 1 else None
            if count is None or (isinstance(module, conv._ConvNd) and len(shape) != len(module.kernel_size) + 1):
                return None
            pytorchs = type(module).forward.__module__.startswith("torch.nn.")
            return usual if shape[usual] == count and pytorchs else _only_axis(shape, count)
    name, places = type(module).__name__, len(shape) - 1
    pools = type(module).__module__ == pooling.__name__ and places >= 2 and name.endswith(f"{places}d")
    if pools or type(module) in (nn.PixelShuffle, nn.PixelUnshuffle):
        return 0
    large = [axis for axis, size in enumerate(shape) if size > 1]
    return None if len(large) > 1 else large[0] if large else 0


def _only_axis(shape: Sequence[int], count: int) -> int | None:
    """The axis with so many entries, where there is just one."""
    axes = [axis for axis, size in enumerate(shape) if size == count]
    return axes[0] if len(axes) == 1 else None


def carried_axis(before: Layout, shape: Sequence[int]) -> int | None:
    """The axis beside which ``shape`` has the places of the layer before, or else its features' number.

    None where no axis is of that kind, or several are.
    """
    beside = [axis for axis in range(len(shape)) if (*shape[:axis], *shape[axis + 1 :]) == before.positions]
    if beside:
        return beside[0] if len(beside) == 1 else None
    return _only_axis(shape, before.count)
