"""The main job: units in, preferred images out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dgn.arguments import seed_list
from dgn.ascent.loop import OnStep
from dgn.ascent.settings import AscentSettings
from dgn.guest import guest
from dgn.network.network import Network
from dgn.priors import Prior
from dgn.synthesis.plan import plan
from dgn.synthesis.result import Synthesis, join
from dgn.units.unit import Unit


@guest
def synthesize(
    network: Network,
    units: str | int | Unit | Iterable[str | int | Unit],
    prior: str | Path | Prior = "dgn",
    *,
    ascent: str | AscentSettings | None = None,
    seed: int = 0,
    seeds: int | Sequence[int] | None = None,
    batch: int | None = None,
    start: Tensor | np.ndarray | None = None,
    frames: int = 0,
    on_step: OnStep | None = None,
    **changes: Any,
) -> Synthesis:
    """Images that units of a network prefer, found by ascent through a prior (Nguyen et al. 2016, arXiv 1605.09304).

    All units x seeds climb in one batch (cut into pieces of ``batch`` samples, or of fewer where memory does not hold
    them); rows come unit by unit.

    Args:
        network: under study.
        units: see :func:`dgn.parse_units`.
        prior: a name, a path or a :class:`Prior`.
        ascent: ``"nguyen2016"``, settings of one's own, or None for those the prior climbs well with.
        seed, seeds: of the start code and the transformations; ``seeds`` (a list, or how many from ``seed``
            on) gives several images a unit.
        batch: samples that climb together; None for :func:`default_batch`. A row's result does not depend on it beyond
            float error, which rules that cross a code's whole range in one step (``nguyen2016`` at its own rate) can
            amplify over many steps.
        start: where to begin: an image ``[C, H, W]`` in [0, 1] (or uint8), which the prior encodes, a code of the
            prior, or one of these for each row, ``[N, ...]``; None for random codes. A given start runs no races.
        frames: images to keep on the way of the main ascent, evenly spaced, first and last included.
        on_step: called after every forward pass with (step, steps in all, activations of the piece, its images).
        changes: single ascent settings, e.g. ``steps=200``, ``lr=0.05``, ``keep="best"``.

    Returns:
        A :class:`Synthesis`; the same arguments on the same CPU give the same bits.

    Raises:
        DgnError: unknown unit, prior or setting; a prior whose images have other channels than the network takes; a
            single sample that does not fit into memory.
    """
    more = {"ascent": ascent, "seed": seed, "seeds": seeds, "batch": batch, "start": start, "frames": frames, **changes}
    return join(list(pieces(network, units, prior, on_step=on_step, **more)))


def pieces(
    network: Network,
    units: str | int | Unit | Iterable[str | int | Unit],
    prior: str | Path | Prior = "dgn",
    *,
    on_step: OnStep | None = None,
    **more: Any,
) -> Iterator[Synthesis]:
    """:func:`synthesize` batch by batch, for more units than memory holds images of: one :class:`Synthesis` a batch.

    Args:
        network, units, prior, on_step: see :func:`synthesize`.
        more: its other arguments.

    Raises:
        DgnError: see :func:`synthesize`.
    """
    seeds, frames = seed_list(more.pop("seed", 0), more.pop("seeds", None)), more.pop("frames", 0)
    return plan(network, units, prior, seeds=seeds, **more).keeping(frames).pieces(on_step=on_step)
