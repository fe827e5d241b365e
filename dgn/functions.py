"""A user's own function in the place of a name: what it is called, how it is called, and what it may give back.

Nothing here imports torch before a function runs: the command line reads settings, and their help, without it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dgn.errors import DgnError, first_line

if TYPE_CHECKING:
    from torch import Tensor


class Function(str):
    """A function that stands where a name is expected. As a text it is its qualified name, so that settings which hold
    it can be written down; it equals nothing but the same function."""

    function: Callable[..., Any]

    def __new__(cls, function: Callable[..., Any]) -> Function:
        own = super().__new__(cls, qualified_name(function))
        own.function = function
        return own

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and self.function is other.function

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return super().__hash__()

    def __getnewargs__(self) -> tuple[Any]:
        return (self.function,)

    def __deepcopy__(self, memo: Any) -> Function:
        return self

    def check(self, kind: str, arguments: Sequence[str]) -> None:
        """Raise :class:`DgnError` where it can't be called with these arguments, by position."""
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # of C, which doesn't say
            return
        try:
            signature.bind(*arguments)
        except TypeError:
            raise DgnError(f"the {kind} {self} takes {signature}, expected ({', '.join(arguments)})") from None

    def call(self, kind: str, *arguments: Any, shape: Sequence[int | None], finite: bool = True) -> Tensor:
        """What it makes of the arguments.

        Args:
            kind: what it is, for errors.
            arguments: by position.
            shape: of the result; None: any length.
            finite: whether it must be.

        Raises:
            DgnError: it raised an error, or gave anything but finite floats of that shape.
        """
        from torch import Tensor

        from dgn.memory import out_of_memory

        try:
            value = self.function(*arguments)
        except Exception as error:
            if isinstance(error, DgnError) or out_of_memory(error):  # a batch that is too large is halved
                raise
            raise DgnError(f"the {kind} {self} raised {type(error).__name__}: {first_line(error)}") from error
        wanted = "[" + ", ".join("any" if side is None else str(side) for side in shape) + "]"
        if not isinstance(value, Tensor) or not value.is_floating_point():
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise DgnError(f"the {kind} {self} gave {given}, expected a tensor of floats {wanted}")
        fits = [want is None or side == want for side, want in zip(value.shape, shape, strict=False)]
        if value.dim() != len(shape) or not all(fits):
            raise DgnError(f"the {kind} {self} gave {list(value.shape)}, expected {wanted}")
        if finite:
            self.check_finite(kind, value)
        return value

    def check_finite(self, kind: str, value: Tensor) -> None:
        """Raise :class:`DgnError` where what it gave is not all finite."""
        if not bool(value.isfinite().all()):
            raise DgnError(f"the {kind} {self} gave numbers that are not finite")


def qualified_name(function: Callable[..., Any]) -> str:
    """Module and name of a function or a class, of an object those of its class, with what ``partial`` has set."""
    if isinstance(function, functools.partial):
        given = [*map(repr, function.args), *(f"{key}={value!r}" for key, value in function.keywords.items())]
        return f"{qualified_name(function.func)}({', '.join(given)})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def named(value: Any) -> Any:
    """A value with every function in it, at any depth, as a :class:`Function`."""
    if callable(value):
        return Function(value)
    if isinstance(value, Mapping):
        return {key: named(inner) for key, inner in value.items()}
    return [named(inner) for inner in value] if isinstance(value, (list, tuple)) else value
