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
from dgn.errors import DgnError
from dgn.files.storage import digest
from dgn.files.tensors import load_tensors, save_tensors
from dgn.images.pictures import to_bytes
from dgn.network.facts import told
from dgn.synthesis.plan import Plan
from dgn.synthesis.result import Synthesis
from dgn.units.unit import Unit

FOLDER, FORMAT = "parts", "dgn-part-2"


@dataclass(frozen=True)
class Part:
    """One finished batch.

    Attributes:
        path: its file: ``codes`` and uint8 ``images`` (and ``frames`` and ``frame_activations``, where asked for).
        first: of the prior's rows, the first that it holds.
        rows: those of the table.
        warnings: a line each.
        coordinates: of the codes.
        frame_steps: see :class:`dgn.synthesis.result.Synthesis`.
    """

    path: Path
    first: int
    rows: list[dict[str, Any]]
    warnings: list[str]
    coordinates: str
    frame_steps: list[int]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def read(self, name: str) -> Tensor:
        """One of its tensors."""
        with safe_open(self.path, framework="pt") as file:  # type: ignore[no-untyped-call]
            tensor: Tensor = file.get_tensor(name)
        return tensor


class Parts:
    """The batches of one prior in a run folder. A file is there whole or not at all: where it is, its batch is done,
    unless it has another key than the :func:`fingerprint` of the plan."""

    def __init__(self, folder: Path, prior: str, key: str) -> None:
        self.folder, self.prior, self.key = folder / FOLDER, prior, key

    def write(self, first: int, piece: Synthesis, rows: Sequence[Mapping[str, Any]]) -> Part:
        """Keep a batch that begins at row ``first``."""
        tensors = {"codes": piece.codes, "images": to_bytes(piece.images)}
        if piece.frame_steps:
            tensors |= {"frames": to_bytes(piece.frames), "frame_activations": piece.frame_activations}
        table = [dict(row) for row in rows]
        part = Part(self._path(first), first, table, piece.warnings, piece.coordinates, piece.frame_steps)
        facts = {name: value for name, value in vars(part).items() if name != "path"}
        save_tensors(part.path, tensors, {**facts, "key": self.key}, FORMAT)
        return part

    def finished(self) -> list[Part]:
        """The batches that are done, from row 0 on, up to the first gap."""
        parts: list[Part] = []
        while True:
            path = self._path(parts[-1].first + parts[-1].count if parts else 0)
            try:
                tensors, facts = load_tensors(path, FORMAT)
            except DgnError:  # not there, cut short, changed, or foreign: it is climbed again
                return parts
            complete = len(tensors.get("codes", ())) == len(facts["rows"]) > 0
            if not complete or facts.pop("key") != self.key or self._path(facts["first"]) != path:
                return parts
            parts.append(Part(path, **facts))

    def _path(self, first: int) -> Path:
        return self.folder / f"{self.prior}--{first:06d}.safetensors"


def _identity(unit: Unit, seed: int) -> tuple[object, ...]:
    return (unit.name, unit.terms, seed, *([unit.aim] if unit.aim else []))


def fingerprint(plan: Plan, network_digest: str, **more: Any) -> str:
    """SHA-256 of everything that decides a plan's results but threads and the processor: a job that is continued
    elsewhere goes on in the precision that it began in.
    """
    facts: dict[str, Any] = {
        "network": [plan.network.name, list(plan.network.input_size), network_digest],
        "prior": [plan.prior.name, list(plan.prior.size), plan.prior.coordinates, digest(plan.prior.weights())],
        "rows": hashlib.sha256(repr([_identity(unit, seed) for unit, seed in plan.rows]).encode()).hexdigest(),
        "settings": {**asdict(plan.settings), "precision": plan.asked.precision},
        "batch": plan.batch, "frames": plan.frames,
        "start": None if plan.start is None else digest({"start": plan.start}),
        "told": told(plan.network), "device": plan.network.device.type, "torch": torch.__version__, "dgn": __version__,
        **more,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
