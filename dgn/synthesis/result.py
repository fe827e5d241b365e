"""What an ascent found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dgn.ascent.settings import AscentSettings
from dgn.drawing.letters import number
from dgn.drawing.matrix import Cell
from dgn.drawing.show import Shown
from dgn.images.pictures import to_image
from dgn.units.unit import Unit


@dataclass(repr=False)
class Synthesis(Shown):
    """What an ascent found; row ``i`` of everything is one unit with one seed.

    Attributes:
        images: float32 ``[N, C, H, W]`` in [0, 1].
        activations: float32 ``[N]``, of the returned images, without transformations, at the network's input size.
        codes: the codes of the returned images, ``[N, ...]``: where the prior has a finer code or the rule climbs the
            encoder's own, these are in that code.
        history: float32 ``[steps, N]``, activations during the ascent, transformations included; of several starts,
            those of the one that went on.
        units, seeds: of each row.
        frozen_at: ``[N]``, step at which a row stopped because its gradient was zero or not finite; -1 where it didn't.
        prior: name of the prior.
        settings: of the ascent.
        coordinates: what the codes are written in; see :meth:`dgn.priors.base.Prior.convert`.
        notes: what a reader of the images should know, a line each.
        frames, frame_steps: float32 ``[F, N, C, H, W]``, images on the way, and the rows of ``history`` they belong to;
            empty where none were asked for.
        frame_activations: float32 ``[F, N]``, of the frames, read as ``activations`` are: only these two can be
            compared between priors, whose loops see images at sizes and with transformations of their own.
    """

    images: Tensor
    activations: Tensor
    codes: Tensor
    history: Tensor
    units: list[Unit]
    seeds: list[int]
    frozen_at: Tensor
    prior: str
    settings: AscentSettings
    frames: Tensor = field(default_factory=lambda: torch.zeros(0))
    frame_steps: list[int] = field(default_factory=list)
    frame_activations: Tensor = field(default_factory=lambda: torch.zeros(0))
    coordinates: str = "own"
    notes: list[str] = field(default_factory=list)

    title = "What units want to see; below each image its activation"

    def cells(self) -> list[Cell]:
        several = len(set(self.seeds)) > 1
        return [
            Cell(
                str(row["unit"]), f"{self.prior} s{row['seed']}" if several else self.prior, to_image(image),
                number(row["activation"]),
            )
            for row, image in zip(self.rows(), self.images, strict=True)
        ]  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """A row an image: unit, prior, seed, activation, and the step at which it froze, -1 where it didn't."""
        columns = zip(self.units, self.seeds, self.activations.tolist(), self.frozen_at.tolist(), strict=True)
        return [
            {"unit": unit.name, "prior": self.prior, "seed": seed, "activation": activation, "frozen_at": step}
            for unit, seed, activation, step in columns
        ]

    @property
    def warnings(self) -> list[str]:
        """One line for each row that stopped moving, or that nothing moved, and what might help."""
        lines = list(self.notes)
        # Of a row that never changes, penalties or an encoder may have moved the code nevertheless.
        still = (self.history == self.history[:1]).all(0).tolist()
        rows = zip(self.units, self.seeds, self.frozen_at.tolist(), still, self.activations.tolist(), strict=True)
        for unit, seed, step, same, activation in rows:
            who = f"{unit.name} (seed {seed}, {self.prior})"
            if step >= 0:
                line = f"{who} froze at step {step}: its gradient was zero or not finite"
                lines.append(line + (SILENT if step <= 1 else ""))
            elif same and len(self.history) > (ROUNDED if activation and self.settings.precision == "bf16" else 1):
                what = "never changed" if activation else "never fired"
                lines.append(f"{who} {what} in {len(self.history)} steps{SILENT}")
        return lines


ROUNDED = 20
"""Steps in which a unit that climbs may stay the same bf16 number: a logit of 20 rises by eighths."""


SILENT = (
    "; it may be dead, or silent at this start: try seeds=8, start=IMAGE, the layer before its activation function, or "
    "dgn examples to see whether any real image excites it"
)
"""What to say of a unit that does not answer."""


def join(parts: Sequence[Synthesis]) -> Synthesis:
    """Batches of one job as one."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return replace(
        first,
        images=torch.cat([part.images for part in parts]),
        activations=torch.cat([part.activations for part in parts]),
        codes=torch.cat([part.codes for part in parts]),
        history=torch.cat([part.history for part in parts], 1),
        units=[unit for part in parts for unit in part.units],
        seeds=[seed for part in parts for seed in part.seeds],
        frozen_at=torch.cat([part.frozen_at for part in parts]),
        frames=torch.cat([part.frames for part in parts], 1) if first.frame_steps else first.frames,
        frame_activations=(
            torch.cat([part.frame_activations for part in parts], 1) if first.frame_steps else first.frame_activations
        ),
    )
