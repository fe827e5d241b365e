"""Small functions chosen by name: transformations, penalties and operators are written down the same way.

An entry of a configuration's list is a name (``shift``), a name with its first number (``{shift: 0.05}``), a name
with its keywords (``{blur: {every: 4, sigma: 1}}``) or a function of one's own; it becomes a :class:`Part`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgn.errors import DgnError, nearest
from dgn.functions import Function


@dataclass(frozen=True)
class Part:
    """One chosen function: its name (a :class:`Function`, where it is the user's own) and its keywords, in the order of
    its signature."""

    name: str
    values: tuple[tuple[str, float], ...] = ()

    @property
    def keywords(self) -> dict[str, float]:
        """The keywords as a dictionary."""
        return dict(self.values)

    def __str__(self) -> str:
        """As one would say it: ``blur(every=4, sigma=1)``."""
        if isinstance(self.name, Function):
            return str(self.name)
        return f"{self.name}({', '.join(f'{key}={value:g}' for key, value in self.values)})"


class Catalogue:
    """The functions of one kind, by name.

    Args:
        kind: what they are, for errors.
        functions: of one signature.
        own: how many arguments the loop gives, not the user.
        ranges: least and largest value of a key; of those without, any finite number goes.
        shape: of what they make of images ``[N, C, H, W]``.
    """

    def __init__(
        self,
        kind: str,
        functions: Iterable[Callable[..., Any]],
        own: int,
        ranges: Mapping[str, tuple[float, float]],
        shape: Callable[[Any], Sequence[int | None]],
    ) -> None:
        self.kind, self.own, self.ranges, self.shape = kind, own, ranges, shape
        self.functions = {function.__name__.rstrip("_"): function for function in functions}

    @property
    def arguments(self) -> list[str]:
        """What the loop gives to each of them."""
        return list(inspect.signature(next(iter(self.functions.values()))).parameters)[: self.own]

    def keywords(self, name: str) -> dict[str, float]:
        """What a user can set, with the defaults."""
        parameters = list(inspect.signature(self.functions[name]).parameters.values())[self.own :]
        return {parameter.name: float(parameter.default) for parameter in parameters}

    def parse(self, entries: Any) -> tuple[Part, ...]:
        """Parts from a list of entries (see the module), every keyword filled in.

        Raises:
            DgnError: unknown names or keywords (with the nearest ones), values that are no numbers or out of range, a
                function that can't take the loop's arguments.
        """
        if entries is None:
            return ()
        if isinstance(entries, (str, Mapping, Part)) or callable(entries):
            entries = [entries]
        if not isinstance(entries, Iterable):
            raise DgnError(f"{self.kind}s are a list such as [{next(iter(self.functions))}], not {entries!r}")
        return tuple(self._part(*pair) for entry in entries for pair in self._pairs(entry))

    def _pairs(self, entry: Any) -> list[tuple[str, Any]]:
        if isinstance(entry, Part):
            return [(entry.name, entry.keywords)]
        if isinstance(entry, str):
            return [(entry, {})]
        if callable(entry):
            return [(Function(entry), {})]
        if isinstance(entry, Mapping) and entry:
            if any(callable(name) for name in entry):
                raise DgnError(
                    f"give a {self.kind} of your own with keywords as functools.partial(function, key=value)"
                )
            if set(entry) == {"name", "values"}:  # a part as a manifest writes it
                return [(str(entry["name"]), dict(entry["values"]))]
            return [(str(name), value) for name, value in entry.items()]
        raise DgnError(
            f"a {self.kind} is NAME, {{NAME: NUMBER}} or {{NAME: {{KEY: NUMBER}}}} or a function, not {entry!r}"
        )

    def _part(self, name: str, given: Any) -> Part:
        if isinstance(name, Function):
            name.check(self.kind, self.arguments)
            return Part(name)
        if name not in self.functions:
            hint = nearest(name, self.functions) or "; expected one of " + ", ".join(self.functions)
            raise DgnError(f"no {self.kind} {name!r}{hint}")
        values = self.keywords(name)
        if not isinstance(given, Mapping):
            given = {} if given is None else {next(iter(values)): given}
        for key, value in given.items():
            if key not in values:
                hint = nearest(key, values) or "; expected " + ", ".join(values)
                raise DgnError(f"the {self.kind} {name!r} has no key {key!r}{hint}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise DgnError(f"the {self.kind} {name!r} needs a number for {key!r}, not {value!r}")
            low, high = self.ranges.get(f"{name}.{key}") or self.ranges.get(key, (-math.inf, math.inf))
            if not low <= value <= high:
                raise DgnError(f"the {self.kind} {name!r} takes {low:g} to {high:g} for {key!r}, not {value:g}")
            values[key] = float(value)
        return Part(name, tuple(values.items()))

    def __getitem__(self, part: Part) -> Callable[..., Any]:
        """The function of a part with its keywords set: what is left are the loop's own arguments."""
        own = part.name
        if isinstance(own, Function):
            return lambda *arguments: own.call(self.kind, *arguments, shape=self.shape(arguments[0].shape))
        function, keywords = self.functions[part.name], part.keywords
        return lambda *arguments: function(*arguments, **keywords)
