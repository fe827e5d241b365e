"""A guest in someone's program: what it has set in PyTorch is set aside while a public function runs, and put back."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import random
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
        place, name, exact = cudnn, "allow_tf32", cast(Any, False)
    except RuntimeError:  # set layer by layer, and then not to be read as one
        place, name, exact = cudnn.conv, "fp32_precision", "ieee"
        before = cudnn.conv.fp32_precision
    setattr(place, name, exact)
    try:
        yield
    finally:
        setattr(place, name, before)


@dataclass(frozen=True)
class _Setting:
    """A setting of the whole process: how it is read and set, and what dgn wants instead of the value that it has."""

    read: Callable[[], Any]
    set: Callable[[Any], object]
    wanted: Callable[[Any], Any]


_SETTINGS = (
    _Setting(torch.get_default_dtype, torch.set_default_dtype, lambda _before: torch.float32),
    _Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda mode: torch.use_deterministic_algorithms(mode[0], warn_only=mode[1]),
        lambda before: (before[0], any(before)),  # bilinear resizing has no such gradient on CUDA
    ),
    _Setting(
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda mode: torch.set_anomaly_enabled(*mode),
        lambda before: (False, before[1]),
    ),
    _Setting(torch.get_num_threads, lambda count: torch.set_num_threads(count), lambda before: before),
)


class _Process:
    """What belongs to the whole process: set by the first who comes, put back by the last who goes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[Any] = []
        self._random: list[tuple[Callable[[Any], object], Any]] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = [setting.read() for setting in _SETTINGS]
                self._random = [
                    (torch.set_rng_state, torch.get_rng_state()),
                    (np.random.set_state, np.random.get_state()),
                    (random.setstate, random.getstate()),
                ]
                if torch.cuda.is_initialized():
                    self._random.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
                self._set(setting.wanted(before) for setting, before in zip(_SETTINGS, self._before, strict=True))
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._set(self._before)
                for put_back, state in self._random:
                    put_back(state)

    @staticmethod
    def _set(values: Iterable[Any]) -> None:
        for setting, value in zip(_SETTINGS, values, strict=True):
            if setting.read() != value:
                setting.set(value)


_PROCESS = _Process()


@contextmanager
def quiet(*packages: str) -> Iterator[None]:
    """Without the log lines and warnings of libraries, which tell of what is said here in one line, or is wanted; of
    diffusers and transformers, where they are named, without their progress bars. What was set is put back."""
    logs = [importlib.import_module(f"{name}.utils.logging") for name in packages]
    shown = [log for log in logs if log.is_progress_bar_enabled()]
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for log in shown:
        log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        for log in shown:
            log.enable_progress_bar()


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
                generator = cast(Any, function)(*args, **named)
            try:
                while True:
                    with at_home():
                        try:
                            item = next(generator)
                        except StopIteration:
                            return
                    yield item
            finally:
                with at_home():
                    generator.close()

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
    """Raise :class:`DgnError` where a module or a name is given for a Network."""
    if isinstance(given, nn.Module):
        raise DgnError(
            f"network is a bare {type(given).__name__}, expected a dgn.Network: wrap it, "
            "dgn.Network(module, input_size=224, mean=(...), std=(...), class_names=[...])"
        )
    if isinstance(given, str):
        raise DgnError(f"network is the name {given!r}, expected a dgn.Network: give dgn.load_network({given!r})")
