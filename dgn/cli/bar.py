"""The progress bar of an ascent, which feeds the curves of Weights & Biases."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm

from dgn.cli.tracking import Tracker
from dgn.network.fast.readback import Readback
from dgn.synthesis.plan import Plan
from dgn.synthesis.result import Synthesis, join
from dgn.units.unit import Unit

MOST_CURVES = 32
"""Units with a curve of their own in Weights & Biases; more units share one of their mean."""


class Bar:
    """The progress bar of one prior: steps over all pieces of the batch, with the mean activation; feeds the curves.

    Activations are asked for only where somebody sees them, and read a step or more later, when they have come.

    Args:
        name, rows: what climbs: of each row its unit and seed.
        shown: whether it is drawn.
        tracker: for the curves; None for none.
        first: row to begin at.
        read: how activations come from the device.
    """

    def __init__(
        self, name: str, rows: Sequence[tuple[Unit, int]], shown: bool, tracker: Tracker | None = None, *,
        first: int = 0, read: Callable[[torch.Tensor], Readback] = Readback,
    ) -> None:  # fmt: skip
        self.name, self.shown, self.bar = name, shown, tqdm(disable=True)
        self.tracker = tracker if tracker is not None and tracker.on else None
        self.rows, self.first, self.past, self.piece = rows, first, 0, (0, 0)
        self.read, self.asked = read, deque[tuple[Readback, int, bool]]()
        self.starts = tqdm(disable=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._tell(wait=kind is None)
        self.starts.close()
        self.bar.close()

    def reading(self, done: int, count: int) -> None:
        """Codes among which starts are chosen: a bar of their own, which goes when all are read."""
        if self.starts.disable and self.shown:
            self.starts = tqdm(desc=f"{self.name:>8}, starts", total=count, unit="code", leave=False)
        self.starts.update(done - self.starts.n)
        if done == count:
            self.starts.close()
            self.starts = tqdm(disable=True)

    def step(self, i: int, steps: int, activations: torch.Tensor, _images: torch.Tensor) -> None:
        """A forward pass; a batch that was too large for memory begins again at step 0 with fewer samples."""
        self._tell(wait=i == 0)
        if i == 0:
            self.first, self.past = self.first + self.piece[0], self.past + self.piece[1]
            self.piece = (0, 0)
            ahead = -(-(len(self.rows) - self.first) // len(activations))
            if self.past == 0 and not self.bar.n:
                self.bar = tqdm(desc=f"{self.name:>8}", unit="step", disable=not self.shown)
            self.bar.total = self.past + steps * ahead
        last = i == steps - 1
        self.bar.update(self.past + i + 1 - self.bar.n)
        if (self.shown and (i % 5 == 0 or last)) or (self.tracker is not None and (i % 10 == 0 or last)):
            self.asked.append((self.read(activations), i, last))
        if last:
            self.piece = (len(activations), steps)

    def again(self, *_: object) -> None:
        """The piece did not fit into memory, perhaps only after its last step: its rows climb once more."""
        self.piece = (0, 0)

    def _tell(self, *, wait: bool) -> None:
        """Show and log what has come, in order; all that was asked for where it may be waited for."""
        while self.asked and (wait or self.asked[0][0].ready):
            found, i, last = self.asked.popleft()
            activations = found.read()
            mean = sum(activations) / len(activations)
            if self.shown:
                self.bar.set_postfix(activation=f"{mean:.2f}", refresh=False)
            if self.tracker is not None and (i % 10 == 0 or last):
                values = {"mean": mean}
                if len(self.rows) <= MOST_CURVES:
                    piece = self.rows[self.first : self.first + len(activations)]
                    for (unit, seed), value in zip(piece, activations, strict=True):
                        values[f"{unit.name} s{seed}"] = value
                self.tracker.curves(self.name, self.past + i, values, keep=last)


def climb(job: Plan, name: str, shown: bool, tracker: Tracker | None = None) -> Synthesis:
    """A plan's ascent, whole, with its bar."""
    with Bar(name, job.rows, shown, tracker) as bar:
        return join(list(job.pieces(on_step=bar.step, on_cut=bar.again, on_read=bar.reading)))
