"""A bounded queue between two threads that Ctrl-C leaves whole."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Items from one thread to another, in order; where ``most`` of them wait, :meth:`put` waits.

    Not a :class:`queue.Queue`: where Ctrl-C interrupts one just after it has taken its lock, the lock is never released
    and the next call hangs. The calls of a :class:`queue.SimpleQueue` can't be interrupted so.
    """

    def __init__(self, most: int) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(most):
            self.give()

    def put(self, item: T, *, wait: bool = True) -> None:
        """Send an item, once there is room; without ``wait`` at once."""
        if wait:
            self._room.get()
        self._items.put(item)

    def get(self) -> T:
        """The next item, when it has come."""
        item = self._items.get()
        self.give()
        return item

    def give(self) -> None:
        """Make room for one more item, as :meth:`get` does; whoever stops getting items calls it, too."""
        self._room.put(None)


def ahead(batches: Iterable[T], depth: int = 3) -> Iterator[T]:
    """The same batches, made ahead by another thread: images are decoded while the network computes."""
    ready: Channel[tuple[bool, Any]] = Channel(depth)
    stopped = False

    def make() -> None:
        end = None
        try:
            for batch in batches:
                ready.put((True, batch))
                if stopped:
                    return
        except BaseException as error:
            end = error
        ready.put((False, end), wait=False)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if not more:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        stopped = True
        ready.give()
        thread.join()
