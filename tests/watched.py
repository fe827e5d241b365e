"""A prior and a unit as a user may write them, which tell what is asked of them and fail where a test says so; and what
happens behind a change of the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

from dgn.priors.pixel import PixelPrior


class Watched(PixelPrior):
    """Raw pixels.

    Attributes:
        begun: the seeds of each batch that began, in order.
        fault: called with the number of codes at each decoding; what it raises ends the batch.
    """

    begun: ClassVar[list[list[int]]] = []
    fault: ClassVar[Callable[[int], object]] = staticmethod(lambda _: None)

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        self.begun.append(list(range(n) if seeds is None else seeds))
        return super().start(n, seeds)

    def decode(self, code: Tensor) -> Tensor:
        type(self).fault(len(code))
        return super().decode(code)

    @classmethod
    def reset(cls) -> None:
        """Nothing has begun, and nothing fails."""
        cls.begun.clear()
        cls.fault = staticmethod(lambda _: None)

    @classmethod
    def fails(cls, fault: Callable[[int], object]) -> None:
        cls.fault = staticmethod(fault)

    @classmethod
    def interrupts(cls, batch: int) -> None:
        """Ctrl-C in the batch of this number, counted from 1 and from now on."""
        before = len(cls.begun)

        def fault(_: int) -> None:
            if len(cls.begun) - before == batch:
                raise KeyboardInterrupt

        cls.fails(fault)


def watched_prior(size: int = 16) -> list[str]:
    """The words of a command by which ``prior=pixel`` is :class:`Watched`."""
    module = f"+prior.pixel.module={{_target_:watched.Watched,size:{size}}}"
    return ["prior.pixel.path=module", module, "trust=true"]


class Looks:
    """At :func:`first_output`.

    Attributes:
        seen: images of each, in order.
        stop: Ctrl-C at the look of this number, from 1 on; 0: at none.
    """

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.stop = 0

    def interrupts(self, look: int) -> None:
        self.stop = look

    def note(self, count: int) -> None:
        self.seen.append(count)
        if len(self.seen) == self.stop:
            raise KeyboardInterrupt


looks = Looks()


def first_output(output: Tensor) -> Tensor:
    """A unit: the first class."""
    looks.note(len(output))
    return output[:, 0]


def behind_the_write(patch: pytest.MonkeyPatch, name: str, then: Callable[[], object], *, number: int = 1) -> None:
    """Something happens right behind the ``number``-th time that a file of this name is in its place."""
    real, times = os.replace, []

    def replace(source: Any, target: Any, **more: Any) -> None:
        real(source, target, **more)
        times.extend([None] * (Path(target).name == name))
        if Path(target).name == name and len(times) == number:
            then()

    patch.setattr(os, "replace", replace)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
