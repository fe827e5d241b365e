"""One network, several threads: they take turns, and none waits for another network's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


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
