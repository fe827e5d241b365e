"""Which keys decide what: one table of those that don't decide how an image looks."""

from __future__ import annotations

from collections.abc import Collection

RUN = frozenset({"out", "resume", "progress", "launcher"})
"""Where and how a job runs."""
KEPT = frozenset({"tracking", "frames", "objective", "title", "width", "shown", "checkpoint_minutes"})
"""What is kept and said of it."""
MACHINE = frozenset({"device", "threads", "batch"})
"""What computes it: float error at most."""
ROWS = frozenset({"units", "shard", "seed", "seeds", "prior"})
"""Which images there are: columns of the table tell them apart."""
HYDRAS_OWN = frozenset({"hydra/launcher", "hydra.launcher", "hydra.sweep.dir"})
"""Hydra's own of the first kind."""

HOW = frozenset({
    "ascent", "training", "batch", "device", "threads", "trust", "compile", "seed", "components", "tsne", "layer",
    "size", "stride", "fill", "curve_steps", "curve_fill",
})  # fmt: skip
"""How a job does what it does: under this heading ``--help`` shows them."""

GROUPS = frozenset({"tracking", "launcher"})
"""Keys that hold others, which are of their kind."""


def belongs(key: str, keys: Collection[str]) -> bool:
    """Whether a key, or the group that it is in, is one of ``keys``."""
    group = key.split(".")[0]
    return key in keys or (group in GROUPS and group in keys)
