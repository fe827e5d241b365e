"""A bounded queue between two threads that Ctrl-C leaves whole."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Items from one thread to another, in order; where ``most`` of them wait, :meth:`put` waits.

    Its calls are of one piece: a :class:`queue.Queue` that an exception of a signal handler interrupts between the
    taking of its lock and what would let it go keeps it for good, and whoever uses it next never returns.

    Args:
        most: items that may wait.
    """

    def __init__(self, most: int) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(most):
            self.give()

    def put(self, item: T, *, wait: bool = True) -> None:
        """Send an item; at once where it needn't ``wait`` for room."""
        if wait:
            self._room.get()
        self._items.put(item)

    def get(self) -> T:
        """The next item, when it has come."""
        item = self._items.get()
        self.give()
        return item

    def give(self) -> None:
        """Room for one item more: what :meth:`get` gives, and who will get no more."""
        self._room.put(None)


def ahead(batches: Iterable[T], depth: int = 3) -> Iterator[T]:
    """The same batches, made by a thread that is a few ahead: images are decoded while the network computes."""
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
