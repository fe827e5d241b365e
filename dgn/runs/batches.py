"""Finished batches of a run, kept on disk until the run is done: what a killed job continues from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dgn import __version__
from dgn.ascent.settings import AscentSettings
from dgn.errors import DgnError
from dgn.files.storage import digest
from dgn.images.pictures import to_bytes
from dgn.network.facts import told
from dgn.priors.checkpoint import load_tensors, save_tensors
from dgn.synthesis import Plan, Synthesis

FOLDER, FORMAT = "parts", "dgn-part-2"


@dataclass(frozen=True)
class Part:
    """One finished batch.

    Attributes:
        path: its file: ``codes`` and uint8 ``images`` (and ``frames`` and ``frame_activations``, where asked for).
        first, count: rows of the prior that it holds.
        rows: of the table.
        warnings: a line each.
        coordinates: of the codes.
        frame_steps: see :class:`dgn.synthesis.Synthesis`.
    """

    path: Path
    first: int
    count: int
    rows: list[dict[str, Any]]
    warnings: list[str]
    coordinates: str
    frame_steps: list[int]

    def read(self, name: str) -> Tensor:
        """One of its tensors."""
        with safe_open(self.path, framework="pt") as file:  # type: ignore[no-untyped-call]
            tensor: Tensor = file.get_tensor(name)
        return tensor


class Parts:
    """The batches of one prior in a run folder. A file is there whole or not at all, so its being there says: done.

    Args:
        folder: of the run.
        prior: its name.
        key: of everything that decides the results, see :func:`fingerprint`; parts with another key don't count.
    """

    def __init__(self, folder: Path, prior: str, key: str) -> None:
        self.folder, self.prior, self.key = folder / FOLDER, prior, key

    def write(self, first: int, piece: Synthesis, rows: Sequence[Mapping[str, Any]]) -> Part:
        """Keep a batch that begins at row ``first``."""
        tensors = {"codes": piece.codes, "images": to_bytes(piece.images)}
        if piece.frame_steps:
            tensors |= {"frames": to_bytes(piece.frames), "frame_activations": piece.frame_activations}
        facts = {
            "key": self.key, "first": first, "rows": [dict(row) for row in rows], "warnings": piece.warnings,
            "coordinates": piece.coordinates, "frame_steps": piece.frame_steps,
        }  # fmt: skip
        save_tensors(self._path(first), tensors, facts, FORMAT)
        return self._part(self._path(first), facts)

    def finished(self) -> list[Part]:
        """The batches that are done, from row 0 on, up to the first gap."""
        found: list[Part] = []
        while True:
            path = self._path(found[-1].first + found[-1].count if found else 0)
            try:
                tensors, facts = load_tensors(path, FORMAT)
            except DgnError:  # not there, cut short, changed, or foreign: it is climbed again
                return found
            whole = len(tensors.get("codes", ())) == len(facts["rows"]) > 0
            if not whole or facts["key"] != self.key or self._path(facts["first"]) != path:
                return found
            found.append(self._part(path, facts))

    def _path(self, first: int) -> Path:
        return self.folder / f"{self.prior}--{first:06d}.safetensors"

    @staticmethod
    def _part(path: Path, facts: Mapping[str, Any]) -> Part:
        rows = list(facts["rows"])
        return Part(
            path, facts["first"], len(rows), rows, facts["warnings"], facts["coordinates"], facts["frame_steps"]
        )


SINCE = ("temperature", "inner", "pull", "churn", "shift", "reach", "start_time")
"""Settings of the rule ``sample``, which earlier versions had not: under others they decide nothing, so that runs of
those versions go on."""


def _settings(settings: AscentSettings) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(settings).items() if name not in SINCE or settings.rule == "sample"}
    return kept if settings.reach else {name: value for name, value in kept.items() if name != "reach"}


def fingerprint(plan: Plan, network_digest: str, **more: Any) -> str:
    """SHA-256 of everything that decides a plan's results but the number of threads, and the processor: a job that
    another one continues goes on in the precision that it began in.

    Args:
        plan: of one prior.
        network_digest: of the network's weights.
        more: what else decides, as plain values.
    """
    facts: dict[str, Any] = {
        "network": [plan.network.name, list(plan.network.input_size), network_digest],
        "prior": [plan.prior.name, list(plan.prior.size), plan.prior.coordinates, digest(plan.prior.weights())],
        "rows": hashlib.sha256(repr([(unit.name, unit.terms, seed) for unit, seed in plan.rows]).encode()).hexdigest(),
        "settings": {**_settings(plan.settings), "precision": plan.asked}, "batch": plan.batch, "frames": plan.frames,
        "start": None if plan.start is None else digest({"start": plan.start}),
        "device": plan.network.device.type, "torch": torch.__version__, "dgn": __version__, **more,
        **({"told": facts_told} if (facts_told := told(plan.network)) else {}),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
