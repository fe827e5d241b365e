"""The ascent: one loop for every prior, unit and rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from dgn.ascent.blackbox import cmaes
from dgn.ascent.named import Part
from dgn.ascent.objectives import Objective, pieces
from dgn.ascent.operators import OPERATORS, centre_mask
from dgn.ascent.rules import State, find_rule
from dgn.ascent.sampling import sample
from dgn.ascent.settings import AscentSettings
from dgn.ascent.transforms import Draws, add_noise, shift_and_zoom, transform
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.priors.base import Prior
from dgn.units.unit import Unit

VIEW_STRIDE = 7_368_787
"""Between the seeds of a sample's views."""

OnStep = Callable[[int, int, Tensor, Tensor], None]
"""Called after each forward pass with (step, steps in all, activations ``[N]``, images ``[N, C, H, W]``)."""


@dataclass
class Climb:
    """Where an ascent ended.

    Attributes:
        code: ``[N, ...]``, the code of the last forward pass (of the best one with ``keep="best"``).
        history: ``[steps, N]`` float32, activation at every forward pass, transformations included.
        frozen_at: ``[N]``, the step at which a sample stopped moving because its gradient was zero or not finite; -1.
    """

    code: Tensor
    history: Tensor
    frozen_at: Tensor


def climb(
    network: Network,
    units: Sequence[Unit],
    prior: Prior,
    code: Tensor,
    settings: AscentSettings,
    seeds: Sequence[int],
    *,
    deviations: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Climb:
    """Move each sample's code up its own unit's activation.

    One step (Nguyen et al. 2016): decode, transform, read the unit, take the gradient with respect to the code, apply
    the rule, clip to the prior's range, decay. The learning rate falls linearly, ``lr + (lr_end - lr) * i / steps``.
    A sample whose gradient is zero or not finite freezes; the others go on. The update after the last forward pass is
    not made, so the code that is returned is the one whose activation was seen last.

    Args:
        network, units: what is climbed; sample ``i`` climbs ``units[i]``.
        prior, code: how images are written down, and the start codes ``[N, ...]``.
        settings: rule, steps, rates, transformations.
        seeds: of the transformations, one a sample.
        deviations: ``[N]``, for the rule ``sample``: see :class:`dgn.ascent.sampling.Deviations`.
        on_step: see :data:`OnStep`.

    Raises:
        DgnError: no gradient flows from a unit to the image.
    """
    rule = find_rule(settings.rule)
    seen = [network.at(size) for size in settings.input_sizes] or [network]  # they take turns
    views, steps, count = settings.views, settings.steps, len(code)
    parts = [] if settings.rule == "cmaes" else _parts(seen, units, seeds, range(count), settings, code.device)
    own = Draws(seeds, code.device, salt=104_729)
    mask = None

    def look(h: Tensor, objective: Objective, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Images, activations and what is climbed, all with their gradients."""
        images = prior.decode(h)
        x = images if mask is None else images * mask + images.detach() * (1 - mask)
        written = (x, h)
        if views > 1:
            written = (x.repeat(views, 1, 1, 1), h.repeat(views, *one))
            x = written[0]
        x = shift_and_zoom(x, draws, settings.jitter, settings.scale)
        x = add_noise(transform(x, draws, settings.transforms), draws, settings.noise)
        activation, climbed = objective(x, *written)
        if views > 1:
            activation, climbed = (value.view(views, -1).mean(0) for value in (activation, climbed))
        return images, activation, climbed

    def ascend(code: Tensor, step: int, wanted: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Activations, gradients (zeros where none are wanted) and images of all samples, piece by piece."""
        found = []
        for part, objectives, draws in parts:  # a sample's gradient is its own: a piece is done with before the next
            h = code[part].detach().requires_grad_()
            images, activation, climbed = look(h, objectives[step % len(seen)], draws)
            g = _gradient(climbed, h) if wanted else None
            found.append((activation.detach(), g, images.detach() if on_step else images.new_zeros(0)))
            del images, activation, climbed  # and with them what the gradient needed
        if wanted and all(g is None for _, g, _ in found):
            names = ", ".join(dict.fromkeys(repr(unit.name) for unit in units))
            raise DgnError(f"no gradient flows from {names} to the image: its layer is not differentiable")
        gradients = [
            torch.zeros_like(code[p]) if g is None else g for (p, *_), (_, g, _) in zip(parts, found, strict=True)
        ]
        return torch.cat([a for a, _, _ in found]), torch.cat(gradients), torch.cat([one for _, _, one in found])

    one = [1] * (code.dim() - 1)
    history = torch.zeros(steps, count, device=code.device)
    frozen_at = torch.full((count,), -1, dtype=torch.long, device=code.device)
    if settings.rule == "sample":
        return _sample(prior, code, settings, seeds, deviations, ascend, history, frozen_at, on_step)
    if settings.rule == "cmaes":
        return _search(prior, code, settings, seeds, units, seen, look, history, frozen_at, on_step)
    best, best_code = torch.full((count,), -torch.inf, device=code.device), code.clone()
    state: State = {}
    for i in range(steps):
        if settings.centre_mask and mask is None and i >= settings.centre_from * steps:
            mask = centre_mask(prior.size, settings.centre_mask, code.device)
        last = i == steps - 1
        history[i], g, images = ascend(code, i, wanted=not last)
        if settings.keep == "best":
            better = (history[i] > best) & history[i].isfinite()
            best = torch.where(better, history[i], best)
            best_code = torch.where(_spread(better, code), code, best_code)
        if on_step:
            on_step(i, steps, history[i], images)
        if last:
            break
        flat = g.flatten(1)
        moves = (flat != 0).any(1) | (settings.epsilon1 > 0)  # the reconstruction pulls without a gradient too
        sound = flat.isfinite().all(1) & moves & history[i].isfinite()
        frozen_at = torch.where((frozen_at < 0) & ~sound, i, frozen_at)
        moving = _spread(frozen_at < 0, code)
        g = torch.where(moving, g, torch.zeros_like(g))
        if settings.epsilon1:
            g = g + settings.epsilon1 * torch.where(moving, prior.reencode(code) - code, torch.zeros_like(g))
        if settings.epsilon3:
            g = g + settings.epsilon3 * own.normal(*code.shape[1:])
        lr = settings.lr + (settings.lr_end - settings.lr) * i / steps
        with torch.no_grad():
            moved = prior.project(rule(code, g, state, lr), settings.sigmas)
            if settings.decay != 1.0:
                moved = prior.decay(moved, settings.decay)
            if settings.between:
                moved = prior.project(operate(prior, moved, settings.between, i / steps, i), settings.sigmas)
            if i + 1 == round(settings.reencode * steps):
                moved = prior.project(prior.reencode(moved), settings.sigmas)
            code = torch.where(moving, moved, code)
    return Climb(best_code if settings.keep == "best" else code, history, frozen_at)


def _parts(
    seen: Sequence[Network],
    units: Sequence[Unit],
    seeds: Sequence[int],
    samples: Sequence[int],
    settings: AscentSettings,
    device: torch.device,
) -> list[tuple[slice, list[Objective], Draws]]:
    """The rows of a forward pass in pieces, each with what it climbs at each input size, and its random draws.

    Args:
        seen: the network at the sizes that take turns.
        units, seeds: of the samples.
        samples: the sample of each row.
    """
    parts = []
    for part in pieces(max(seen, key=lambda at: at.largest_layer), len(samples), settings, device):
        rows = list(samples[part]) * settings.views
        objectives = [Objective(at, [units[row] for row in rows], rows, settings, device) for at in seen]
        many = [seeds[row] + view * VIEW_STRIDE for view in range(settings.views) for row in samples[part]]
        parts.append((part, objectives, Draws(many, device)))
    return parts


@torch.no_grad()
def operate(prior: Prior, code: Tensor, parts: Sequence[Part], done: float, step: int) -> Tensor:
    """The code after the operators; itself where none acts at this step."""
    if not parts:
        return code
    before = after = prior.decode(code)
    for part in parts:
        after = OPERATORS[part](after, done, step)
    if after is before:
        return code
    return code + prior.encode(after.clamp(0, 1)) - prior.encode(before)


def _search(
    prior: Prior,
    code: Tensor,
    settings: AscentSettings,
    seeds: Sequence[int],
    units: Sequence[Unit],
    seen: Sequence[Network],
    look: Callable[[Tensor, Objective, Draws], tuple[Tensor, Tensor, Tensor]],
    history: Tensor,
    frozen_at: Tensor,
    on_step: OnStep | None,
) -> Climb:
    """The black-box rule: the network is asked for activations alone."""
    repeated = [row for row in range(len(units)) for _ in range(settings.population)]  # a sample's share its draws
    parts = _parts(seen, units, seeds, repeated, settings, code.device)
    turns = cycle(range(len(seen)))

    @torch.no_grad()
    def see(candidates: Tensor) -> tuple[Tensor, Tensor]:
        turn = next(turns)
        found = [look(candidates[part], objectives[turn], draws)[1:] for part, objectives, draws in parts]
        return torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])

    @torch.no_grad()
    def note(step: int, activations: Tensor, best: Tensor) -> None:
        history[step] = activations
        if on_step:
            on_step(step, settings.steps, activations, prior.decode(best))

    return Climb(cmaes(prior, code, settings, seeds, see, note), history, frozen_at)


Ascend = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""Codes and the step -> activations, gradients and images of all samples."""


@torch.no_grad()
def _sample(
    prior: Prior,
    code: Tensor,
    settings: AscentSettings,
    seeds: Sequence[int],
    deviations: Tensor | None,
    ascend: Ascend,
    history: Tensor,
    frozen_at: Tensor,
    on_step: OnStep | None,
) -> Climb:
    """Guided denoising: a sample that the unit never pulls is one of the prior's own, and counts as frozen."""
    pulled = frozen_at >= 0
    shown = code

    def slope(estimate: Tensor, step: int) -> tuple[Tensor, Tensor]:
        nonlocal shown
        with torch.enable_grad():
            activation, gradient, shown = ascend(estimate, step)
        sound = gradient.flatten(1).isfinite().all(1) & activation.isfinite() & (gradient.flatten(1) != 0).any(1)
        pulled.logical_or_(sound)
        return activation, torch.where(_spread(sound, gradient), gradient, torch.zeros_like(gradient))

    def note(step: int, activation: Tensor) -> None:
        history[step] = activation
        if on_step:
            on_step(step, settings.steps, activation, shown)

    assert deviations is not None
    found = sample(prior, code, settings, seeds, deviations.to(code.device), slope, note)
    return Climb(found, history, torch.where(pulled, frozen_at, torch.zeros_like(frozen_at)))


def _spread(mask: Tensor, like: Tensor) -> Tensor:
    """``[N]`` as ``[N, 1, ...]``, to choose whole samples of ``like``."""
    return mask.view(-1, *[1] * (like.dim() - 1))


def _gradient(climbed: Tensor, code: Tensor) -> Tensor | None:
    """With respect to the code; None where there is no way from one to the other."""
    if not climbed.requires_grad:
        return None
    return torch.autograd.grad(climbed.sum(), code, allow_unused=True)[0]
