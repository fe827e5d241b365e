"""A job that was checked and is ready to climb, and its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgn.arguments import seed_list
from dgn.ascent.batch import Frames, at_size, canvas_sizes, climb_batch
from dgn.ascent.loop import OnStep
from dgn.ascent.resolve import choose_ascent, resolve
from dgn.ascent.rules import written_for
from dgn.ascent.sampling import Deviations
from dgn.ascent.settings import AscentSettings
from dgn.ascent.starts import SCREENED_TOGETHER, Screening, as_start, given_start, random_starts
from dgn.errors import DgnError
from dgn.guest import guest
from dgn.images.fit import canvas_size, central
from dgn.memory import free_memory, out_of_memory
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.priors import CANVASES, Prior, load_prior
from dgn.priors.deep import GeneratorPrior
from dgn.synthesis.result import Synthesis
from dgn.units.unit import Unit, layers_of
from dgn.units.units import parse_units


@dataclass(frozen=True)
class Plan:
    """A job that was checked and is ready to climb; made by :func:`plan`.

    Attributes:
        network, prior, settings: what climbs, how.
        rows: (unit, seed) of every sample, unit by unit.
        group: rows that must climb together; a batch is a multiple of it.
        batch: samples that climb together at first.
        start: None, one code for all ``[1, ...]``, or what the user gave for each row.
        screening: chooses the starts, where the settings ask for it.
        deviations: of the units' activations, for the rule ``sample``.
        frames: images to keep on the way.
        notes: what a reader of the images should know.
        asked: the settings as they were asked for.
        changed: in what ``settings`` differ from them, and why.
    """

    network: Network
    prior: Prior
    settings: AscentSettings
    rows: list[tuple[Unit, int]]
    group: int
    batch: int
    start: Tensor | None
    screening: Screening | None
    deviations: Deviations | None
    frames: int
    notes: list[str]
    asked: AscentSettings
    changed: dict[str, str]

    def keeping(self, frames: int) -> Plan:
        """The same, with so many images of each sample kept on the way."""
        return replace(self, frames=frames)

    @guest
    def climb(
        self,
        first: int,
        count: int,
        on_step: OnStep | None = None,
        on_read: Callable[[int, int], object] | None = None,
    ) -> Synthesis:
        """The rows from ``first`` on, ``count`` of them, in one batch."""
        rows = self.rows[first : first + count]
        sized = at_size(self.prior, canvas_sizes(self.prior, self.settings)[0])
        if self.start is not None:
            each = self.start[first : first + count] if len(self.start) > 1 else self.start
            starts = [given_start(sized, each, len(rows), self.network.fit)]
        elif self.screening is not None:
            starts = self.screening.starts(rows, on_read)
        else:
            starts = random_starts(sized, [seed for _, seed in rows], self.settings)
        frames = Frames(self.frames, self.settings, on_step)
        outcome = climb_batch(self.network, rows, self.prior, self.settings, starts, frames, self._deviations(rows))
        return Synthesis(
            **vars(outcome), units=[unit for unit, _ in rows], seeds=[seed for _, seed in rows], prior=self.prior.name,
            settings=self.settings, frame_steps=frames.steps, notes=self.notes,
        )  # fmt: skip

    def _deviations(self, rows: list[tuple[Unit, int]]) -> Tensor | None:
        if self.deviations is None:
            return None
        if self.screening and len(self.screening.centres) >= SCREENED_TOGETHER:
            return self.screening.deviations(rows)
        return self.deviations.of([unit for unit, _ in rows])

    @guest
    def pieces(
        self,
        *,
        first: int = 0,
        batch: int | None = None,
        on_step: OnStep | None = None,
        on_cut: Callable[[int], None] | None = None,
        on_read: Callable[[int, int], object] | None = None,
    ) -> Iterator[Synthesis]:
        """One :class:`Synthesis` a batch, in order of the rows; nothing of a batch is held when the next one climbs.

        A batch that does not fit into memory is halved, and so are those after it.

        Args:
            first: row to begin at, where those before it are done already.
            batch: samples a batch; None for the plan's own.
            on_step: see :func:`synthesize`. A batch that is halved begins again at step 0.
            on_cut: called with the new number of samples a batch.
            on_read: called with (codes read, codes to read) while starts are chosen among a prior's centres.

        Raises:
            DgnError: a single sample (with diversity: the seeds of a single unit) does not fit into memory.
        """
        batch = self.batch if batch is None else batch
        while first < len(self.rows):
            piece, full = None, ""
            try:
                piece = self.climb(first, batch, on_step, on_read)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                full = str(error).strip().partition("\n")[0]
            if piece is None:  # outside of the handler: what the traceback holds is free now
                free_memory()
                count = min(batch, len(self.rows) - first)
                if count <= self.group:
                    raise DgnError(
                        f"{'one sample' if self.group == 1 else f'the {self.group} seeds of one unit'} of prior "
                        f"{self.prior.name!r} can't climb in this memory: give the prior a smaller size, or "
                        f"ascent.views=1 or a smaller ascent.input_size"
                        f"{', or ascent.screen=0' if self.screening else ''} ({full})"
                    )
                batch = max(self.group, count // 2 // self.group * self.group)
                if on_cut is not None:
                    on_cut(batch)
                continue
            first += len(piece.units)
            yield piece
            del piece


def default_batch(device: torch.device) -> int:
    """Samples that climb together: 32; on a GPU 256, so that starting its kernels is not what takes the time."""
    return 256 if device.type == "cuda" else 32


@guest
def plan(
    network: Network,
    units: str | int | Unit | Iterable[str | int | Unit],
    prior: str | Path | Prior = "dgn",
    *,
    ascent: str | AscentSettings | None = None,
    seeds: int | Sequence[int] | None = None,
    batch: int | None = None,
    start: Tensor | np.ndarray | None = None,
    **changes: Any,
) -> Plan:
    """Everything of :func:`synthesize` but the climbing: arguments are checked, names looked up. ``seeds``: a list, or
    how many from 0 on. No images are kept on the way: see :meth:`Plan.keeping`.

    Raises:
        DgnError: see :func:`synthesize`.
    """
    parsed = parse_units(units, network)
    if not isinstance(prior, Prior):
        size = canvas_size(None, network.input_size) if str(prior) in CANVASES else None
        prior = load_prior(prior, size=size, channels=network.channels)
    if prior.channels != network.channels:
        raise DgnError(
            f"prior {prior.name!r} makes images of {prior.channels} channels, network {network.name!r} takes "
            f"{network.channels}; use prior='pixel' or a generator of your own"
        )
    prior = prior.to(network.device)
    asked = choose_ascent(prior, ascent, **changes)
    prior = written_for(prior, asked.rule)
    layers = layers_of(parsed)
    resolution = resolve(network, layers, prior, asked, started=start is not None)
    settings = resolution.settings
    seeds = seed_list(0, seeds)
    batch = default_batch(network.device) if batch is None else batch
    if batch < 1:
        raise DgnError(f"batch is {batch}, expected a whole number above 0")
    steady = steadiness(network, layers)
    batch = steady.batch(batch)
    notes = [*_before_the_code(network, parsed, prior), *_out_of_shape(network, prior), *steady.notes(network)]
    notes += [*resolution.notes, *prior.notes]
    rows = [(unit, value) for unit in parsed for value in seeds]
    group = 1
    if settings.diversity:
        group = len(seeds)
        if group < 2 or batch < group:
            raise DgnError(
                f"diversity is between seeds of a unit in one batch: give 2 to {batch} seeds, not {len(seeds)}"
            )
        batch -= batch % group
    if start is not None:
        start = _checked_start(at_size(prior, canvas_sizes(prior, settings)[0]), start, len(rows), network.fit)
    screening = Screening(network, prior, parsed, settings) if settings.screen else None
    deviations = Deviations(network, prior, parsed, settings) if settings.rule == "sample" else None
    return Plan(
        network, prior, settings, rows, group=group, batch=batch, start=start, screening=screening,
        deviations=deviations, frames=0, notes=notes, asked=asked, changed=resolution.changed,
    )  # fmt: skip


def as_begun(job: Plan, precision: str | None) -> Plan:
    """A plan in the precision that an earlier call began it in, maybe on another processor; itself where none did."""
    if precision not in ("fp32", "bf16"):
        return job
    return replace(job, settings=replace(job.settings, precision=precision))


def _checked_start(prior: Prior, start: Tensor | np.ndarray, count: int, fit: str) -> Tensor:
    """One code for all rows, ``[1, ...]``, or what was given for each row, to be encoded batch by batch."""
    shape = tuple(prior.start(1).shape[1:])
    start = as_start(prior, start)
    each = tuple(start.shape[1:]) == shape or (tuple(start.shape) != shape and start.dim() == 4)
    if not each or len(start) == 1:
        return given_start(prior, start, 1, fit)
    if len(start) == count:
        given_start(prior, start[:1], 1, fit)
        return start
    return given_start(prior, start, count, fit)  # says what is wrong


def _before_the_code(network: Network, units: list[Unit], prior: Prior) -> list[str]:
    """A line where a unit lies before the layer that the generator inverts: the prior then adds its own structure."""
    generator = getattr(prior, "layout", prior)
    inverts = generator.generator.config if isinstance(generator, GeneratorPrior) else None
    if inverts is None or inverts.network != network.name or inverts.layer not in network.layers:
        return []
    code = network.depth(inverts.layer)
    inside = inverts.layer + "."  # parts of the layer itself: the last of them is the code
    early = dict.fromkeys(
        unit.name for unit in units
        if all(network.depth(layer) < code and not layer.startswith(inside) for layer in unit.layers)
    )  # fmt: skip
    if not early:
        return []
    return [
        f"{', '.join(early)}: before {inverts.layer}, whose code prior {prior.name!r} inverts; the prior adds "
        "structure of its own there: compare prior=fourier"
    ]


def _out_of_shape(network: Network, prior: Prior) -> list[str]:
    """A line where the prior's images have other proportions than the network's input."""
    made, seen = prior.size, network.input_size
    if central(made, seen)[2:] == made:
        return []
    how = {
        "crop": "it sees their central part", "fit": "it sees them with a border", "stretch": "it sees them stretched"
    }[network.fit]  # fmt: skip
    return [
        f"prior {prior.name!r} makes images of {made[0]} x {made[1]} px, network {network.name!r} takes "
        f"{seen[0]} x {seen[1]}: {how} (network.fit={network.fit})"
    ]
