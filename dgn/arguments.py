"""Arguments as people have them: numbers, lists, arrays, tensors, dictionaries of labels."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from dgn.errors import DgnError


def input_shape(given: Any) -> tuple[int | None, int, int]:
    """Channels (None: not said), height and width of ``H``, ``(H, W)`` or ``(C, H, W)``.

    Raises:
        DgnError: anything else, parts of pixels, or none.
    """
    values = _flat(given)
    if len(values) not in (1, 2, 3) or any(value is None or value != int(value) or value < 1 for value in values):
        raise DgnError(f"input_size is {given!r}, expected pixels above 0: a number, (H, W) or (C, H, W)")
    sides = [int(value) for value in values if value is not None]
    if len(sides) == 1:
        return None, sides[0], sides[0]
    return (sides[0] if len(sides) == 3 else None), sides[-2], sides[-1]


def check_counts(**counts: int | None) -> None:
    """Raise :class:`DgnError` where one of these, by their names, is given and not above 0."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise DgnError(f"{name} is {count}, expected a whole number above 0")


def check_workers(workers: int) -> int:
    """A number of processes that this machine can start.

    Raises:
        DgnError: a negative one, or so many that they would fill its memory.
    """
    most = max(32, 4 * (os.cpu_count() or 1))
    if not 0 <= workers <= most:
        raise DgnError(f"workers is {workers}, expected 0 (none) to {most} processes")
    return workers


def parse_range(value: Any) -> tuple[float, float]:
    """Ends of the range of pixels that a module expects, from ``"0..255"`` or ``(0, 255)``.

    Raises:
        DgnError: neither, or no range.
    """
    try:
        low, high = (float(end) for end in (value.split("..") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        low = high = 0.0
    if not -math.inf < low < high < math.inf:
        raise DgnError(f"range is {value!r}, expected LOW..HIGH, as in 0..1, 0..255 or -1..1")
    return low, high


def normalisation(
    mean: Any, std: Any, channels: int | None, otherwise: int, range: Any = None
) -> tuple[tuple[float, ...], ...]:
    """Mean and standard deviation of images in [0, 1], one number a channel each.

    A module's input is ``(low + (high - low) * image - mean) / std``: what is given is in the units of the range.

    Args:
        mean, std: one number for all channels, or one a channel: a list, an array or a tensor of any shape. None: 0.5;
            with a range, mean 0 and std 1.
        channels: how many there are, where that is known.
        otherwise: how many there are where neither ``channels`` nor one of the two says it.
        range: of the module's pixels; see :func:`parse_range`. None: 0..1.

    Raises:
        DgnError: numbers that make no sense, or not one a channel; no range.
    """
    mean = (0.5 if range is None else 0.0) if mean is None else mean
    std = (0.5 if range is None else 1.0) if std is None else std
    values = [_flat(mean), _flat(std)]
    single = [_is_number(mean), _is_number(std)]
    said = [len(row) for row, one in zip(values, single, strict=True) if not one]
    count = channels if channels is not None else said[0] if said else otherwise
    rows = [row * count if one else row for row, one in zip(values, single, strict=True)]
    sound = all(len(row) == count and all(value is not None and math.isfinite(value) for value in row) for row in rows)
    if not sound or not count or min(value or 0.0 for value in rows[1]) <= 0:
        raise DgnError(f"mean {_short(mean)} and std {_short(std)} need one value a channel ({count}), std above 0")
    low, high = (0.0, 1.0) if range is None else parse_range(range)
    centre, spread = (tuple(float(value or 0.0) for value in row) for row in rows)
    if range is None:
        return centre, spread
    return tuple((value - low) / (high - low) for value in centre), tuple(value / (high - low) for value in spread)


def class_list(given: Any) -> tuple[str, ...]:
    """Names in order of their index, of a list or array, ``{index: name}`` or ``{name: index}``; none for None.

    An index between others that a dictionary doesn't name is called ``class INDEX``.

    Raises:
        DgnError: a single text, or a dictionary that is neither.
    """
    if given is None:
        return ()
    if isinstance(given, Mapping):
        pairs = list(given.items())
        if pairs and all(_index(value) is not None and not isinstance(value, str) for _, value in pairs):
            pairs = [(value, key) for key, value in pairs]
        found = {_index(key): str(name) for key, name in pairs}
        known = [index for index in found if index is not None]
        if None in found or len(found) != len(pairs) or max(known, default=0) >= 1_000_000:
            raise DgnError("class_names is a dictionary, expected {index: name} or {name: index}, each index once")
        return tuple(found.get(index, f"class {index}") for index in range(max(known, default=-1) + 1))
    if isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
        raise DgnError(f"class_names is {given!r}, expected a list of names, or a dictionary {{index: name}}")
    values = given.tolist() if hasattr(given, "tolist") else list(given)
    return tuple(str(value) for value in values)


def seed_list(seed: Any, seeds: Any) -> list[int]:
    """Seeds of a unit: those given; a number n means ``seed`` ... ``seed + n - 1``; None means ``seed`` alone.

    Raises:
        DgnError: not whole numbers, or none.
    """
    try:
        if seeds is None:
            return [int(seed)]
        if _is_number(seeds):
            count = int(_flat(seeds)[0] or 0)
            found = [int(seed) + lap for lap in range(count)] if count == seeds else []
        else:
            found = [int(value) for value in seeds]
    except (TypeError, ValueError):
        found = []
    if not found:
        raise DgnError(
            f"give at least one seed: seeds is {_short(seeds)}, expected a number of seeds or a list of them"
        )
    return found


def _flat(given: Any) -> list[float | None]:
    """Numbers of a number, a sequence, an array or a tensor; None for what is none."""
    values = given.tolist() if hasattr(given, "tolist") else given
    if isinstance(values, (list, tuple)):
        return [number for value in values for number in _flat(value)]
    if isinstance(values, bool):
        return [None]
    try:
        number = float(values)
    except (TypeError, ValueError):
        return [None]
    return [number if math.isfinite(number) and not isinstance(values, str) else None]


def _is_number(given: Any) -> bool:
    """Whether it is one number, an array without axes included."""
    values = given.tolist() if hasattr(given, "tolist") else given
    return not isinstance(values, (list, tuple, str, Mapping)) and not hasattr(values, "__iter__")


def _index(value: Any) -> int | None:
    try:
        index = int(value)
    except (TypeError, ValueError):
        return None
    return index if index >= 0 and (isinstance(value, str) or index == value) else None


def _short(given: Any) -> str:
    text = " ".join(str(given).split())
    return text if len(text) <= 60 else text[:57] + "..."
