"""A thread that writes files while the ascent goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dgn.files.channel import Channel

Work = Callable[[], object]


class Writer:
    """Does pieces of work, in order, in a thread of its own.

    The queue is bounded: where writing is slower than climbing, :meth:`put` waits. What goes wrong in the thread is
    raised at the next :meth:`put`, or at the end; what was put before an exception of the caller is still done.
    """

    def __init__(self, most: int = 16) -> None:
        self._work: Channel[Work | None] = Channel(most)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dgn-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end()
        if kind is None:
            self._raise()

    def put(self, work: Work) -> None:
        """Queue a piece of work; raises what went wrong with earlier work."""
        self._raise()
        self._work.put(work)

    def close(self) -> None:
        """Wait, and end the thread; raises what went wrong."""
        self._end()
        self._raise()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._work.put(None, wait=False)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        broken = False
        while (work := self._work.get()) is not None:
            try:
                if not broken:  # later work may build on what failed
                    work()
            except BaseException as error:
                self._error, broken = error, True
