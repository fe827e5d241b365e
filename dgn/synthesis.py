"""The main job: units in, preferred images out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgn.ascent.loop import Climb, OnStep, climb
from dgn.ascent.rules import IN_RAW_CODE, find_rule
from dgn.errors import DgnError
from dgn.network import Network
from dgn.priors import Prior, load_prior
from dgn.settings import PRESETS, AscentSettings
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

    @property
    def warnings(self) -> list[str]:
        """One line for each row that stopped moving."""
        lines = []
        for unit, seed, step in zip(self.units, self.seeds, self.frozen_at.tolist(), strict=True):
            if step >= 0:
                lines.append(
                    f"{unit.name} (seed {seed}, {self.prior}) froze at step {step}: its gradient was zero or not finite"
                )
        return lines


def choose_ascent(prior: Prior, ascent: str | AscentSettings | None = None, **changes: Any) -> AscentSettings:
    """Settings for a prior: its own, a preset's (``"nguyen2016"``) or given ones, with changes that are not None."""
    if isinstance(ascent, str):
        if ascent not in PRESETS:
            raise DgnError(f"no ascent {ascent!r}; expected one of {', '.join(PRESETS)}")
        ascent = PRESETS[ascent]
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
    seeds = [seed] if seeds is None else [int(value) for value in seeds]
    if not seeds or batch < 1:
        raise DgnError("give at least one seed, and a batch above 0")
    rows = [(unit, value) for unit in parsed for value in seeds]
    parts = [
        _piece(network, rows[first : first + batch], prior, settings, on_step) for first in range(0, len(rows), batch)
    ]
    images, activations, codes, history, frozen = (list(column) for column in zip(*parts, strict=True))
    return Synthesis(
        torch.cat(images), torch.cat(activations), torch.cat(codes), torch.cat(history, 1),
        [unit for unit, _ in rows], [value for _, value in rows], torch.cat(frozen), prior.name, settings,
    )  # fmt: skip


def _piece(
    network: Network, rows: list[tuple[Unit, int]], prior: Prior, settings: AscentSettings, on_step: OnStep | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One batch: the ascent, its refinement where the prior has one, and the final look in float32."""
    units, seeds = [unit for unit, _ in rows], [seed for _, seed in rows]
    total, offset = settings.total_steps, 0

    def shifted() -> OnStep | None:
        if on_step is None:
            return None
        call, done = on_step, offset
        return lambda i, _n, activations, images: call(done + i, total, activations, images)

    stages: list[Climb] = []
    code = _start(prior, seeds, settings)
    if settings.starts > 1:
        short = replace(settings, steps=settings.race_steps, lr_end=settings.lr, reencode=0.0, keep="last")
        runners = []
        for lap in range(settings.starts):
            code = _start(prior, [seed + lap * START_STRIDE for seed in seeds], settings)
            runners.append(climb(network, units, prior, code, short, seeds, on_step=shifted()))
            offset += short.steps
        stages.append(_winners(runners))
        code = stages[-1].code
    stages.append(climb(network, units, prior, code, settings, seeds, on_step=shifted()))
    offset += settings.steps
    finer = prior.refine(stages[-1].code, settings.refine_radius) if settings.refine_steps else None
    if finer is not None:
        prior, code = finer
        second = replace(settings, steps=settings.refine_steps, lr=settings.refine_lr, sigmas=None, reencode=0.0)
        stages.append(climb(network, units, prior, code, second, seeds, on_step=shifted()))
    history, result = torch.cat([stage.history for stage in stages]), stages[-1]
    frozen, before = torch.full_like(result.frozen_at, -1), 0
    for stage in stages:
        frozen = torch.where((frozen < 0) & (stage.frozen_at >= 0), stage.frozen_at + before, frozen)
        before += len(stage.history)
    with torch.no_grad():
        images = prior.decode(result.code)
        read = Reader(units, device=images.device)
        activations = read(network.features(images, read.layers, settings.fit))  # type: ignore[arg-type]
    return images.cpu(), activations.cpu(), result.code.cpu(), history.cpu(), frozen.cpu()


def _start(prior: Prior, seeds: list[int], settings: AscentSettings) -> Tensor:
    code = prior.start(len(seeds), seeds)
    return code if settings.start_scale == 1 else prior.project(prior.decay(code, settings.start_scale))


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
