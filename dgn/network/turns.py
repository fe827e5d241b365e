"""One network, several threads: they take turns, and none waits for another network's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch.utils.checkpoint

T = TypeVar("T")


class Turn:
    """While a thread has its turn, no other calls the module or what shares its layers: hooks then read one pass alone.

    Meanwhile reentrant checkpoints in this thread run their function without a checkpoint, which would hide the graph
    of what is inside. A thread that has its turn may enter again. A copied or unpickled turn is independent.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()
        _plain.enter()

    def __exit__(self, *_: object) -> None:
        _plain.leave()
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()


class _PlainCheckpoints:
    """Stands in for PyTorch's ``CheckpointFunction`` while any thread has a turn; other threads don't notice."""

    def __init__(self) -> None:
        self._lock, self._turns, self._mine = threading.Lock(), 0, threading.local()
        self._before: Any = None

    def enter(self) -> None:
        self._mine.depth = getattr(self._mine, "depth", 0) + 1
        with self._lock:
            if not self._turns:
                self._before = torch.utils.checkpoint.CheckpointFunction
                torch.utils.checkpoint.CheckpointFunction = self  # type: ignore[assignment,misc]
            self._turns += 1

    def leave(self) -> None:
        self._mine.depth -= 1
        with self._lock:
            self._turns -= 1
            if not self._turns:
                torch.utils.checkpoint.CheckpointFunction = self._before  # type: ignore[misc]

    def apply(self, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """As ``CheckpointFunction.apply``."""
        if getattr(self._mine, "depth", 0):
            return function(*args)
        return self._before.apply(function, preserve, *args)


_plain = _PlainCheckpoints()


class kept(Generic[T]):  # a decorator, as property is
    """A property that is computed once, as :class:`functools.cached_property`. Up to Python 3.11 that one has a single
    lock for all instances: threads with different networks would wait for each other, and those with turns forever.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function, self.__doc__, self._name = function, function.__doc__, function.__name__

    def __get__(self, instance: object | None, owner: type) -> T:
        if instance is None:  # as help() asks it of the class
            return self  # type: ignore[return-value]
        value = instance.__dict__[self._name] = self._function(instance)
        return value
