"""The writing thread: order, errors, and its end wherever the job is interrupted."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from conftest import ALONE

from dgn.errors import DgnError
from dgn.runs.writer import Writer


def test_writer_keeps_order_and_loses_nothing() -> None:
    done: list[int] = []
    gate = threading.Event()
    with Writer(most=2) as writer:
        writer.put(gate.wait)
        threading.Timer(0.05, gate.set).start()
        for index in range(20):  # more than the queue holds: put waits
            writer.put(lambda index=index: done.append(index))
    assert done == list(range(20))
    with pytest.raises(KeyboardInterrupt), Writer() as writer:
        writer.put(lambda: done.append(20))
        raise KeyboardInterrupt
    assert done[-1] == 20


def test_writer_says_what_went_wrong() -> None:
    def fail() -> None:
        raise DgnError("no space left")

    with pytest.raises(DgnError, match="no space"), Writer() as writer:
        writer.put(fail)
    writer = Writer()
    writer.put(fail)
    with pytest.raises(DgnError, match="no space"):
        writer.close()
    writer.close()


INTERRUPTED = """
import itertools, random, signal, sys
from dgn.files.channel import ahead
from dgn.runs.writer import Writer

def stop(*_):
    raise KeyboardInterrupt

def write():
    with Writer() as writer:
        alarm()
        while True:
            writer.put(lambda: None)

def read():
    batches = ahead(itertools.count())
    next(batches)
    alarm()
    for _ in batches:
        pass

def alarm():
    signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-4, 2e-3))

signal.signal(signal.SIGALRM, stop)
moments, done = random.Random(0), 0
for _ in range(300):
    try:
        {"write": write, "read": read}[sys.argv[1]]()
    except KeyboardInterrupt:
        done += 1
print(done)
"""


@pytest.mark.slow
@ALONE
@pytest.mark.parametrize("way", ["write", "read"])
def test_threads_end_wherever_the_main_one_is_interrupted(way: str) -> None:
    """Between the taking of a lock and what lets it go, too: a job waited for its own lock there, and never ended."""
    call = [sys.executable, "-c", INTERRUPTED, way]
    ended = subprocess.run(call, capture_output=True, text=True, timeout=60, check=True)
    assert int(ended.stdout) == 300
