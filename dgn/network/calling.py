"""How a module is called: by one thread at a time, in the numbers and the layout in which it takes its images."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dgn.errors import DgnError
from dgn.memory import out_of_memory
from dgn.network import adapt


class Turn:
    """While a thread has its turn, no other calls the module or what shares its layers: hooks then read one pass alone.

    A thread that has its turn may enter again. A copied or unpickled turn is independent.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()


class Reached(Exception):
    """Raised inside a hook once every layer that was asked for has been read: nothing deeper is computed."""


class Call(NamedTuple):
    """One side of a call of a module.

    Attributes:
        module: its name; empty: the whole network.
        number: which of its calls, from 1 on.
        input: whether it is what goes in; else what comes out.
    """

    module: str = ""
    number: int = 1
    input: bool = False


@contextmanager
def watching(
    modules: Mapping[str, nn.Module],
    note: Callable[[Call, Any], None],
    notes: dict[Any, Any],
    inputs: Mapping[str, nn.Module] | None = None,
) -> Iterator[Callable[[], None]]:
    """While entered, call ``note(call, output)`` after each call of ``modules``, and before each of ``inputs``, with
    what goes in (:func:`given`).

    Yields:
        A function to call before a forward pass is tried again: it empties the notes, and counting begins anew.
    """
    calls: Counter[tuple[str, bool]] = Counter()

    def number(name: str, going_in: bool, value: Any) -> None:
        calls[name, going_in] += 1
        note(Call(name, calls[name, going_in], going_in), value)

    def began(name: str, _module: nn.Module, arguments: Any, keywords: Any) -> None:
        number(name, True, given(arguments, keywords))

    def ended(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        number(name, False, output)

    def again() -> None:
        notes.clear()
        calls.clear()

    handles = [adapt.hook(module, partial(ended, name)) for name, module in modules.items()]
    handles += [adapt.before(module, partial(began, name)) for name, module in (inputs or {}).items()]
    try:
        yield again
    finally:
        for handle in handles:
            handle.remove()


def given(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """What a module is called with, by number or keyword: tensors, and containers of these; none twice."""
    every = {**{str(at): value for at, value in enumerate(arguments)}, **keywords}
    chosen: dict[str, Any] = {}
    for key, value in every.items():
        if isinstance(value, (Tensor, tuple, list, dict)) and not any(value is other for other in chosen.values()):
            chosen[key] = value
    return chosen


@dataclass
class Manner:
    """How a module takes its images; views of a network share it.

    Attributes:
        dtype: in which numbers.
        last: with the channels last in memory, which convolutions like; else contiguous, as ``x.view`` needs it.
    """

    dtype: torch.dtype = torch.float32
    last: bool = True

    @classmethod
    def of(cls, module: nn.Module) -> Manner:
        """That of its first weights."""
        return cls(next(_dtypes(module), torch.float32))

    @property
    def memory_format(self) -> torch.memory_format:
        """For :meth:`torch.Tensor.contiguous`."""
        return torch.channels_last if self.last else torch.contiguous_format

    def lay_out(self, module: nn.Module) -> None:
        """Lay the weights out in memory as the images are: else convolutions would give channels-last outputs."""
        if any(parameter.dim() == 4 for parameter in module.parameters()):
            module.to(memory_format=self.memory_format)  # type: ignore[call-overload]


def _other_manners(manner: Manner, module: nn.Module) -> Iterator[None]:
    """Change the manner, and the layout of the weights, to what else can be tried, the likeliest first.

    Whoever stops at one of them keeps it; after the last one everything is as it was before.
    """
    before = (manner.dtype, manner.last)
    laid_out = any(weight.dim() == 4 and not weight.is_contiguous() for weight in module.parameters())
    tries = [(manner.dtype, not manner.last)]
    for dtype in dict.fromkeys([*_dtypes(module), torch.float32]):
        tries += [(dtype, last) for last in (True, False) if dtype != manner.dtype]
    for manner.dtype, manner.last in [*tries, before]:
        if laid_out:
            manner.lay_out(module)
        if (manner.dtype, manner.last) != before:
            yield


def _dtypes(module: nn.Module) -> Iterator[torch.dtype]:
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            yield tensor.dtype


def call(
    module: nn.Module, prepare: Callable[[], Tensor], manner: Manner, again: Callable[[], object], name: str
) -> Any:
    """A module's output for images, which ``prepare`` makes in the present manner. Where it fails on them, others are
    tried, and the one that works is kept; ``again`` is called before each, to forget what hooks have read.
    """
    try:
        return module(prepare())
    except (Reached, DgnError):
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        for _ in _other_manners(manner, module):
            again()
            try:
                return module(prepare())
            except Reached:
                raise
            except Exception:
                pass
        _refuse_single(module, prepare, name)
        raise


def _refuse_single(module: nn.Module, prepare: Callable[[], Tensor], name: str) -> None:
    """Raise :class:`DgnError` where a module that failed on a batch takes a single image without a batch axis."""
    try:
        with suppress(Reached), torch.no_grad():
            module(prepare()[0])
    except Exception:  # so it is something else
        return
    raise DgnError(
        f"network {name!r} takes one image [C, H, W] at a time, expected one that takes batches [N, C, H, W]: "
        "give dgn.Network a module whose forward(x) is torch.stack([module(image) for image in x])"
    )
