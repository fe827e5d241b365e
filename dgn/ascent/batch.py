"""One batch of samples on its whole way: races of starts, phases, refinement, and the last look."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.ascent.loop import Ascent, Climb, OnStep
from dgn.ascent.settings import AscentSettings
from dgn.network.network import Network
from dgn.priors import Prior
from dgn.units.read import Reader
from dgn.units.unit import Unit


def canvas_sizes(prior: Prior, settings: AscentSettings) -> list[int]:
    """Pixels of the canvas in each phase; the last is the prior's."""
    grows = [grow for grow, _ in settings.stages()]
    sizes = [float(prior.size[0])]
    for grow in reversed(grows[1:]):
        sizes.append(sizes[-1] / grow)
    step = prior.size_step
    return [max(step, round(size / step) * step) for size in reversed(sizes)]


def at_size(prior: Prior, size: int) -> Prior:
    """The prior at the size of a phase's canvas; itself, of whatever shape, at its own."""
    return prior if size == prior.size[0] else prior.resized(size)


class Frames:
    """Images on the way, evenly spaced over the main ascent and the refinement.

    Args:
        count: how many.
        settings: of the ascent.
        on_step: hears of every forward pass.
    """

    def __init__(self, count: int, settings: AscentSettings, on_step: OnStep | None = None) -> None:
        behind = settings.race_steps if settings.starts > 1 else 0
        """Rows of the history that the winner's race takes up."""
        steps = settings.total_steps - settings.race_cost
        places = {round(i * (steps - 1) / max(1, count - 1)) for i in range(count)} if count != 1 else {steps - 1}
        self._first, self._behind = settings.race_cost, behind
        self.steps = [behind + place for place in sorted(places)] if count else []
        self.images: list[Tensor] = []
        self._total, self._on_step = settings.total_steps, on_step

    def behind(self, done: int) -> OnStep:
        """A callback for one ascent that adds ``done``, the forward passes made before it, to its step numbers."""

        def step(i: int, _steps: int, activations: Tensor, images: Tensor) -> None:
            self._look(done + i, images)
            if self._on_step is not None:
                self._on_step(done + i, self._total, activations, images)

        return step

    def _look(self, step: int, images: Tensor) -> None:
        """A forward pass of the job, counted with all races."""
        if step >= self._first and step - self._first + self._behind in self.steps:
            self.images.append(images.float().cpu())

    def stack(self, size: tuple[int, int]) -> Tensor:
        """``[F, N, C, H, W]`` at the final size."""
        same = [F.interpolate(images, size=size, mode="bilinear", antialias=True) for images in self.images]
        return torch.stack(same) if same else torch.zeros(0)


@dataclass
class Outcome:
    """What became of one batch; as in :class:`dgn.synthesis.result.Synthesis`."""

    images: Tensor
    activations: Tensor
    codes: Tensor
    history: Tensor
    frozen_at: Tensor
    frames: Tensor
    frame_activations: Tensor
    coordinates: str


def climb_batch(
    network: Network,
    rows: list[tuple[Unit, int]],
    prior: Prior,
    settings: AscentSettings,
    starts: list[Tensor],
    frames: Frames,
    deviations: Tensor | None = None,
) -> Outcome:
    """One batch: races between start codes ``[N, ...]`` where there are several, the ascent's phases, its refinement
    where the prior has one, and the final look in float32."""
    units, seeds = [unit for unit, _ in rows], [seed for _, seed in rows]
    offset = 0
    sizes = canvas_sizes(prior, settings)
    prior = at_size(prior, sizes[0])

    stages: list[Climb] = []
    code = starts[0]
    if len(starts) > 1:
        _, main = settings.stages()[0]
        short = replace(main, steps=settings.race_steps, lr_end=main.lr, reencode=0.0, keep="last")
        runners = []
        for start in starts:
            runners.append(Ascent(network, units, prior, short, seeds, on_step=frames.behind(offset)).climb(start))
            offset += short.steps
        stages.append(_winners(runners, _standing(network, units, prior, runners, settings)))
        code = stages[-1].code
    for size, (_, phase) in zip(sizes, settings.stages(), strict=True):
        if size != prior.size[0]:
            larger = prior.resized(size)
            prior, code = larger, prior.carry(code, larger)
        stages.append(Ascent(network, units, prior, phase, seeds, deviations, frames.behind(offset)).climb(code))
        code = stages[-1].code
        offset += phase.steps
    finer = prior.refine(code, settings.refine_radius) if settings.refine_steps else None
    if finer is not None:
        prior, code = finer
        second = replace(
            settings, steps=settings.refine_steps, lr=settings.refine_lr, sigmas=None, reencode=0.0, phases=(),
            octaves=1,
        )  # fmt: skip
        stages.append(Ascent(network, units, prior, second, seeds, on_step=frames.behind(offset)).climb(code))
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
        read = Reader(network, units, images.device)

        def look(images: Tensor) -> Tensor:
            return read(network.features(images.to(code.device), read.layers, settings.fit)).cpu()  # type: ignore[arg-type]

        kept = frames.stack(prior.size)
        on_the_way = torch.stack([look(frame) for frame in kept]) if len(kept) else kept
        return Outcome(
            images=images.cpu(), activations=look(images), codes=code.cpu(), history=history.cpu(),
            frozen_at=frozen.cpu(), frames=kept, frame_activations=on_the_way, coordinates=prior.coordinates,
        )  # fmt: skip


RACE_SIZES = (0.6, 0.8, 1.0, 1.2, 1.4)
"""Sizes at which the runners of a race are looked at, as shares of the loop's (largest) input size."""


@torch.no_grad()
def _standing(
    network: Network, units: list[Unit], prior: Prior, runners: list[Climb], settings: AscentSettings
) -> Tensor:
    """How well each sample's runners did, ``[runners, N]``; see ``race_by`` of :class:`AscentSettings`."""
    if settings.race_by == "activation":
        last = max(1, len(runners[0].history) // 4)
        return torch.stack([runner.history[-last:].mean(0) for runner in runners])
    own = max(settings.input_sizes, default=min(network.input_size))
    sizes = dict.fromkeys(max(32, round(own * share / 32) * 32) for share in RACE_SIZES)
    seen = [network.at(size) for size in sizes if network.takes(size)] or [network]
    read = Reader(network, [unit.as_log(network) for unit in units], runners[0].code.device)
    standing = []
    for runner in runners:
        images = prior.decode(runner.code)
        looks = [read(at.features(images, read.layers, settings.fit)) for at in seen]  # type: ignore[arg-type]
        standing.append(torch.stack(looks).mean(0))
    return torch.stack(standing)


def _winners(runners: list[Climb], standing: Tensor) -> Climb:
    """Of each sample's runners the one that stands highest, ``standing`` being ``[runners, N]``."""
    winner = standing.nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax(0)
    sample = torch.arange(len(winner), device=winner.device)
    return Climb(
        torch.stack([runner.code for runner in runners])[winner, sample],
        torch.stack([runner.history for runner in runners], 1)[:, winner, sample],
        torch.stack([runner.frozen_at for runner in runners])[winner, sample],
    )
