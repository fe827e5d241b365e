"""The main job: units in, preferred images out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.ascent.loop import Climb, OnStep, climb
from dgn.ascent.rules import IN_RAW_CODE, find_rule
from dgn.ascent.starts import given_start, random_start
from dgn.errors import DgnError
from dgn.network import Network
from dgn.priors import Prior, load_prior
from dgn.settings import AscentSettings, preset
from dgn.units import Reader, Unit, parse_units

START_STRIDE = 1_000_000_007
"""Between the seeds of a sample's start codes: far more than anyone's seeds."""


@dataclass
class Synthesis:
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
    coordinates: str = "own"
    notes: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """One line for each row that stopped moving, and what might help."""
        lines = list(self.notes)
        for unit, seed, step in zip(self.units, self.seeds, self.frozen_at.tolist(), strict=True):
            if step >= 0:
                line = (
                    f"{unit.name} (seed {seed}, {self.prior}) froze at step {step}: its gradient was zero or not finite"
                )
                if step <= 1:
                    line += (
                        "; it may be dead, or silent at this start: try seeds=8, start=IMAGE, the layer before its "
                        "activation function, or dgn examples to see whether any real image excites it"
                    )
                lines.append(line)
        return lines


def choose_ascent(prior: Prior, ascent: str | AscentSettings | None = None, **changes: Any) -> AscentSettings:
    """Settings for a prior: its own, a preset's (``"nguyen2016"``) or given ones, with changes that are not None."""
    if isinstance(ascent, str):
        ascent = preset(ascent)
    settings = (ascent or prior.ascent).with_changes(changes)
    find_rule(settings.rule)
    return settings


def synthesize(
    network: Network,
    units: str | int | Unit | Iterable[str | int | Unit],
    prior: str | Path | Prior = "dgn",
    *,
    ascent: str | AscentSettings | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    batch: int = 32,
    start: Tensor | None = None,
    frames: int = 0,
    on_step: OnStep | None = None,
    **changes: Any,
) -> Synthesis:
    """Images that units of a network prefer, found by ascent through a prior (Nguyen et al. 2016, arXiv 1605.09304).

    All units x seeds climb in one batch (cut into pieces of ``batch`` samples); rows come unit by unit.

    Args:
        network: under study.
        units: see :func:`dgn.parse_units`.
        prior: a name, a path or a :class:`Prior`.
        ascent: ``"nguyen2016"``, settings of one's own, or None for those the prior climbs well with.
        seed, seeds: of the start code and the transformations; ``seeds`` gives several images a unit.
        batch: samples that climb together. A row's result does not depend on it beyond float error, which rules that
            cross a code's whole range in one step (``nguyen2016`` at its own rate) can amplify over many steps.
        start: where to begin: an image ``[C, H, W]`` in [0, 1], which the prior encodes, a code of the prior, or one of
            these for each row, ``[N, ...]``; None for random codes. A given start runs no races.
        frames: images to keep on the way of the main ascent, evenly spaced, first and last included.
        on_step: called after every forward pass with (step, steps in all, activations of the piece, its images).
        changes: single ascent settings, e.g. ``steps=200``, ``lr=0.05``, ``keep="best"``.

    Returns:
        A :class:`Synthesis`; the same arguments on the same CPU give the same bits.

    Raises:
        DgnError: unknown unit, prior or setting; a prior whose images have other channels than the network takes.
    """
    parsed = parse_units(units, network)
    if not isinstance(prior, Prior):
        prior = load_prior(prior, channels=network.channels)
    if prior.channels != network.channels:
        raise DgnError(
            f"prior {prior.name!r} makes images of {prior.channels} channels, network {network.name!r} takes "
            f"{network.channels}; use prior='pixel' or a generator of your own"
        )
    prior = prior.to(network.device)
    settings = choose_ascent(prior, ascent, **changes)
    if settings.input_size is not None and not network.takes(settings.input_size):
        if settings.input_size != prior.ascent.input_size:
            raise DgnError(
                f"network {network.name!r} can't see images of {settings.input_size} px; "
                f"its own size is input_size={network.input_size[0]}"
            )
        settings = replace(settings, input_size=None)  # the prior's own choice, which not every network can follow
    if settings.rule in IN_RAW_CODE:
        prior = prior.raw()
    check_ability(prior, settings)
    if not prior.refines:
        settings = replace(settings, refine_steps=0)
    if settings.rule == "cmaes":
        settings = replace(settings, starts=1, refine_steps=0)
    seeds = [seed] if seeds is None else [int(value) for value in seeds]
    if not seeds or batch < 1:
        raise DgnError("give at least one seed, and a batch above 0")
    rows = [(unit, value) for unit in parsed for value in seeds]
    if settings.diversity:
        if len(seeds) < 2 or batch < len(seeds):
            raise DgnError(
                f"diversity is between seeds of a unit in one batch: give 2 to {batch} seeds, not {len(seeds)}"
            )
        batch -= batch % len(seeds)
    if settings.rule == "ppgn":
        rows = [(_as_log(unit), value) for unit, value in rows]
    codes = None
    if start is not None:
        settings = replace(settings, starts=1)
        codes = given_start(_sized(prior, _sizes(prior, settings)[0]), start, len(rows))
    parts = []
    for first in range(0, len(rows), batch):
        piece = slice(first, first + batch)
        given = None if codes is None else codes[piece]
        parts.append(_piece(network, rows[piece], prior, settings, given, _Frames(frames, settings), on_step))
    columns = [list(column) for column in zip(*parts, strict=True)]
    images, activations, found, history, frozen, kept = columns
    return Synthesis(
        torch.cat(images), torch.cat(activations), torch.cat(found), torch.cat(history, 1),
        [unit for unit, _ in rows], [value for _, value in rows], torch.cat(frozen), prior.name, settings,
        torch.cat(kept, 1) if frames else torch.zeros(0), _Frames(frames, settings).steps,
        "code" if prior.refines else prior.coordinates, _before_the_code(network, parsed, prior),
    )  # fmt: skip


def check_ability(prior: Prior, settings: AscentSettings) -> None:
    """Raise :class:`DgnError` where the settings ask of the prior what it can't do."""
    stages = [stage for _, stage in settings.stages()]
    for name, wanted in (
        ("reencode", any(stage.reencode for stage in stages)), ("epsilon1", any(stage.epsilon1 for stage in stages)),
        ("between", any(stage.between for stage in stages)),
    ):  # fmt: skip
        able = prior.encodes and (name == "between" or type(prior).reencode is not Prior.reencode)
        if wanted and not able:
            raise DgnError(
                f"prior {prior.name!r} has no encoder, which ascent.{name} needs; leave it out, or use prior=dgn"
            )


def _before_the_code(network: Network, units: list[Unit], prior: Prior) -> list[str]:
    """A line where a unit lies before the layer that the generator inverts: the prior then adds its own structure."""
    if prior.code_layer is None or prior.code_layer[0] != network.name or prior.code_layer[1] not in network.layers:
        return []
    order = list(network.layers)
    code = order.index(prior.code_layer[1])
    inside = prior.code_layer[1] + "."  # parts of the layer itself: the last of them is the code
    early = [
        unit.name for unit in units
        if all(order.index(layer) < code and not layer.startswith(inside) for layer in unit.layers)
    ]  # fmt: skip
    if not early:
        return []
    return [
        f"{', '.join(early)}: before {prior.code_layer[1]}, whose code prior {prior.name!r} inverts; the prior adds "
        "structure of its own there: compare prior=fourier"
    ]


def _as_log(unit: Unit) -> Unit:
    """PPGN climbs a class's log-probability; other units as they are."""
    if unit.class_index is None:
        return unit
    return replace(unit, terms=(replace(unit.terms[0], form="log"),))


def _sizes(prior: Prior, settings: AscentSettings) -> list[int]:
    """Pixels of the canvas in each phase; the last is the prior's."""
    grows = [grow for grow, _ in settings.stages()]
    sizes = [float(prior.size[0])]
    for grow in reversed(grows[1:]):
        sizes.append(sizes[-1] / grow)
    step = prior.size_step
    return [max(step, round(size / step) * step) for size in reversed(sizes)]


def _sized(prior: Prior, size: int) -> Prior:
    """The prior at the size of a phase's canvas; itself, of whatever shape, at its own."""
    return prior if size == prior.size[0] else prior.resized(size)


class _Frames:
    """Images on the way, evenly spaced over the main ascent and the refinement."""

    def __init__(self, count: int, settings: AscentSettings) -> None:
        behind = settings.race_steps if settings.starts > 1 else 0
        """Rows of the history that the winner's race takes up."""
        steps = settings.total_steps - settings.race_cost
        places = {round(i * (steps - 1) / max(1, count - 1)) for i in range(count)} if count != 1 else {steps - 1}
        self._first, self._behind = settings.race_cost, behind
        self.steps = [behind + place for place in sorted(places)] if count else []
        self.images: list[Tensor] = []

    def look(self, step: int, images: Tensor) -> None:
        """A forward pass of the job, counted with all races."""
        if step >= self._first and step - self._first + self._behind in self.steps:
            self.images.append(images.float().cpu())

    def stack(self, size: tuple[int, int]) -> Tensor:
        """``[F, N, C, H, W]`` at the final size."""
        same = [F.interpolate(images, size=size, mode="bilinear", antialias=True) for images in self.images]
        return torch.stack(same) if same else torch.zeros(0)


def _piece(
    network: Network,
    rows: list[tuple[Unit, int]],
    prior: Prior,
    settings: AscentSettings,
    given: Tensor | None,
    frames: _Frames,
    on_step: OnStep | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One batch: races, the ascent's phases, its refinement where the prior has one, and the final look in float32."""
    units, seeds = [unit for unit, _ in rows], [seed for _, seed in rows]
    total, offset = settings.total_steps, 0
    sizes = _sizes(prior, settings)
    prior = _sized(prior, sizes[0])

    def shifted() -> OnStep:
        done = offset

        def step(i: int, _n: int, activations: Tensor, images: Tensor) -> None:
            frames.look(done + i, images)
            if on_step is not None:
                on_step(done + i, total, activations, images)

        return step

    stages: list[Climb] = []
    if given is not None:
        code = given
    elif settings.starts == 1:
        code = random_start(prior, seeds, settings)
    else:
        _, main = settings.stages()[0]
        short = replace(main, steps=settings.race_steps, lr_end=main.lr, reencode=0.0, keep="last")
        runners = []
        for lap in range(settings.starts):
            code = random_start(prior, [seed + lap * START_STRIDE for seed in seeds], settings)
            runners.append(climb(network, units, prior, code, short, seeds, on_step=shifted()))
            offset += short.steps
        stages.append(_winners(runners))
        code = stages[-1].code
    for size, (_, phase) in zip(sizes, settings.stages(), strict=True):
        if size != prior.size[0]:
            larger = prior.resized(size)
            prior, code = larger, prior.carry(code, larger)
        stages.append(climb(network, units, prior, code, phase, seeds, on_step=shifted()))
        code = stages[-1].code
        offset += phase.steps
    finer = prior.refine(code, settings.refine_radius) if settings.refine_steps else None
    if finer is not None:
        prior, code = finer
        second = replace(
            settings, steps=settings.refine_steps, lr=settings.refine_lr, sigmas=None, reencode=0.0, phases=(),
            octaves=1,
        )  # fmt: skip
        stages.append(climb(network, units, prior, code, second, seeds, on_step=shifted()))
        code = stages[-1].code
    elif settings.rule == "cmaes" and (finer := prior.refine(code)) is not None:
        prior, code = finer  # a black box gives no gradient to refine by: the layout is only enlarged
    history = torch.cat([stage.history for stage in stages])
    frozen, before = torch.full_like(stages[-1].frozen_at, -1), 0
    for stage in stages:
        frozen = torch.where((frozen < 0) & (stage.frozen_at >= 0), stage.frozen_at + before, frozen)
        before += len(stage.history)
    with torch.no_grad():
        images = prior.decode(code)
        read = Reader(units, device=images.device)
        activations = read(network.features(images, read.layers, settings.fit))  # type: ignore[arg-type]
    kept = frames.stack(prior.size)
    return images.cpu(), activations.cpu(), code.cpu(), history.cpu(), frozen.cpu(), kept


def _winners(runners: list[Climb]) -> Climb:
    """Of each sample's runners the one with the highest mean activation over the last quarter of its steps."""
    steps = len(runners[0].history)
    last = torch.stack([runner.history[-max(1, steps // 4) :].mean(0) for runner in runners])
    winner = last.nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax(0)
    sample = torch.arange(len(winner), device=winner.device)
    return Climb(
        torch.stack([runner.code for runner in runners])[winner, sample],
        torch.stack([runner.history for runner in runners], 1)[:, winner, sample],
        torch.stack([runner.frozen_at for runner in runners])[winner, sample],
    )
