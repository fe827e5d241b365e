"""Layers at which a network can be cut, how far each sees, and at which of them to cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

IMAGE = ""
"""The name of the first cut, the image itself."""

Pair = tuple[int, int]
"""Along the height and along the width."""

PER_NUMBER = 40
"""What it costs to read and write one number of a layer, in multiplications."""


@dataclass(frozen=True)
class Cut:
    """A layer ``[C, H, W]`` that is all that the rest of the network knows of the image.

    Its row ``i`` sees, of the cut before it, the rows ``i * stride - pad`` to ``i * stride - pad + field - 1``.

    Attributes:
        layer: its name; :data:`IMAGE` for the image.
        channels, shape: ``C``; ``(H, W)``.
        stride, pad, field: see above, height and width.
        cost: multiplications (with an allowance for memory) from the cut before it up to here.
    """

    layer: str
    channels: int
    shape: Pair
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    field: Pair = (1, 1)
    cost: float = 0.0

    def behind(self, before: Cut) -> Cut:
        """The same cut seen from the cut before ``before``."""
        stride, pad, field = (
            (first[0], first[1])
            for first in (
                [before.stride[a] * self.stride[a] for a in (0, 1)],
                [before.pad[a] + self.pad[a] * before.stride[a] for a in (0, 1)],
                [before.field[a] + (self.field[a] - 1) * before.stride[a] for a in (0, 1)],
            )
        )
        return Cut(self.layer, self.channels, self.shape, stride, pad, field, self.cost + before.cost)


def changed(cut: Cut, axis: int, span: Pair) -> Pair:
    """Rows (or columns) of a cut that see any of the rows ``span`` of the cut before it: first, and first behind."""
    stride, pad, field = cut.stride[axis], cut.pad[axis], cut.field[axis]
    low = -((field - 1 - pad - span[0]) // stride)  # rounded up
    high = (span[1] - 1 + pad) // stride + 1
    low, high = max(0, low), min(cut.shape[axis], high)
    return (low, high) if low < high else (0, 0)


def needed(cut: Cut, before: Cut, axis: int, span: Pair) -> Pair:
    """Rows of the cut before that the rows ``span`` see, from and to multiples of the stride."""
    stride, pad, field = cut.stride[axis], cut.pad[axis], cut.field[axis]
    low, high = max(0, span[0] * stride - pad), min(before.shape[axis], (span[1] - 1) * stride - pad + field)
    return low // stride * stride, max(-(-high // stride), low // stride + 1) * stride


def choose_cuts(
    cuts: Sequence[Cut], rest: float, spans: tuple[Sequence[Pair], Sequence[Pair]]
) -> tuple[list[Cut], float]:
    """Those cuts that make patches cheapest, and how much cheaper a patch is than an image (1: not at all).

    Args:
        cuts, rest: see :func:`dgn.analysis.ablation.search.find_cuts`.
        spans: rows of the patches, and columns, each once.
    """
    whole = sum(cut.cost for cut in cuts) + rest
    # best[j]: the least cost of all up to cut j, with what the last step to it was
    best: list[tuple[float, list[Cut]]] = [(0.0, [cuts[0]])]
    touched = [[list(spans[axis]) for axis in (0, 1)]]
    for j, cut in enumerate(cuts[1:], 1):
        touched.append([[changed(cut, axis, span) for span in touched[j - 1][axis]] for axis in (0, 1)])
        options = []
        for i in range(j):
            step = cut
            for between in reversed(cuts[i + 1 : j]):
                step = step.behind(between)
            share = 1.0
            for axis in (0, 1):
                sides = [b - a for a, b in (needed(step, cuts[i], axis, span) for span in touched[j][axis])]
                share *= sum(sides) / len(sides) / cuts[i].shape[axis]
            copies = cuts[i].channels * cuts[i].shape[0] * cuts[i].shape[1] * min(1.0, share) * PER_NUMBER
            options.append((best[i][0] + step.cost * min(1.0, share) + copies, [*best[i][1], step]))
        best.append(min(options, key=lambda option: option[0]))
    ends = []
    for j, (cost, chain) in enumerate(best):
        copies = cuts[j].channels * cuts[j].shape[0] * cuts[j].shape[1] * PER_NUMBER
        ends.append((cost + copies + sum(cut.cost for cut in cuts[j + 1 :]) + rest, chain))
    cost, chain = min(ends, key=lambda end: end[0])
    return chain, whole / cost
