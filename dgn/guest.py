"""A guest in someone's program: what the program has set in PyTorch is set aside at a public door, and put back."""

from __future__ import annotations

import functools
import inspect
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from dgn.errors import DgnError

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def at_home() -> Iterator[None]:
    """Gradients, float32 and the CPU by default, no autocast, no inference mode; whatever was set is put back, as are
    the global random states, thread counts and flags, also after an exception.

    Some of these belong to the whole process: while several threads are in, the first sets them and the last puts them
    back.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # not always: a device context costs time at every call
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_PROCESS)
        yield


@contextmanager
def without_cudnn() -> Iterator[None]:
    """PyTorch's own convolutions. Other flags are not even read: some settings of precision forbid it."""
    before = torch._C._get_cudnn_enabled()
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_cudnn_enabled(before)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions of a GPU in whole float32, however the program has set their precision."""
    cudnn: Any = torch.backends.cudnn
    try:
        before = cudnn.allow_tf32
        place, name, whole = cudnn, "allow_tf32", cast(Any, False)
    except RuntimeError:  # set layer by layer, and then not to be read as one
        place, name, whole = cudnn.conv, "fp32_precision", "ieee"
        before = cudnn.conv.fp32_precision
    setattr(place, name, whole)
    try:
        yield
    finally:
        setattr(place, name, before)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(mode: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _set_threads(count: int) -> None:
    torch.set_num_threads(count)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object], Callable[[Any], Any]], ...] = (
    # how it is read, how it is set, and what dgn wants it to be
    (torch.get_default_dtype, torch.set_default_dtype, lambda _was: torch.float32),
    (
        _deterministic,
        _set_deterministic,
        lambda was: (was[0], was[0] or was[1]),
    ),  # bilinear has no such gradient on CUDA
    (_anomaly, lambda was: torch.set_anomaly_enabled(*was), lambda was: (False, was[1])),
    (torch.get_num_threads, _set_threads, lambda was: was),
)


def _random_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _set_random_states(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
    np.random.set_state(states[2])
    random.setstate(states[3])


class _Process:
    """What belongs to the whole process: set by the first who comes, put back by the last who goes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[Any] = []
        self._random: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = [get() for get, _, _ in _SETTINGS]
                self._random = _random_states()
                for (_, put, wish), was in zip(_SETTINGS, self._before, strict=True):
                    if wish(was) != was:
                        put(wish(was))
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for (get, put, _), was in zip(_SETTINGS, self._before, strict=True):
                    if get() != was:
                        put(was)
                _set_random_states(self._random)


_PROCESS = _Process()


def guest(function: Callable[P, R]) -> Callable[P, R]:
    """A public door: :func:`at_home` while the function runs (a generator: while it makes an item).

    An argument called ``network`` that is a bare module or a name is refused with a line that says how to wrap it;
    tensors of an inference mode are copied, for nothing can be differentiated through them.
    """
    names = list(inspect.signature(function).parameters)
    where = names.index("network") if "network" in names else None

    def ready(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if where is not None:
            need_network(named["network"] if "network" in named else args[where] if len(args) > where else None)
        return tuple(map(_ordinary, args)), {key: _ordinary(value) for key, value in named.items()}

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def items(*args: P.args, **named: P.kwargs) -> Any:
            with at_home():
                args, named = ready(args, named)  # type: ignore[assignment]
                made = cast(Any, function)(*args, **named)
            try:
                while True:
                    with at_home():
                        try:
                            item = next(made)
                        except StopIteration:
                            return
                    yield item
            finally:
                with at_home():
                    made.close()

        return cast(Callable[P, R], items)

    @functools.wraps(function)
    def door(*args: P.args, **named: P.kwargs) -> R:
        with at_home():
            args, named = ready(args, named)  # type: ignore[assignment]
            return function(*args, **named)

    return door


def _ordinary(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def need_network(given: object) -> None:
    """Raise :class:`DgnError` for what people give where a Network is meant."""
    if isinstance(given, nn.Module):
        raise DgnError(
            f"network is a bare {type(given).__name__}, expected a dgn.Network: wrap it, "
            "dgn.Network(module, input_size=224, mean=(...), std=(...), class_names=[...])"
        )
    if isinstance(given, str):
        raise DgnError(f"network is the name {given!r}, expected a dgn.Network: give dgn.load_network({given!r})")
