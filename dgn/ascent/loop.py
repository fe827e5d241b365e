"""The ascent: one loop for every prior, unit and rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from dgn.ascent.accent import held
from dgn.ascent.blackbox import cmaes
from dgn.ascent.named import Part
from dgn.ascent.objectives import Objective, Value, pieces
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


Piece = tuple[slice, list[Objective], Draws]
"""Rows of a forward pass that go together, what they climb at each input size, and their random draws."""


@dataclass
class Ascent:
    """The ascent of a batch: each sample's code moves up its own unit's activation.

    Attributes:
        network, units: what is climbed; sample ``i`` climbs ``units[i]``.
        prior: how images are written down.
        settings: rule, steps, rates, transformations.
        seeds: of the transformations, one a sample.
        deviations: ``[N]``, for the rule ``sample``: see :class:`dgn.ascent.sampling.Deviations`.
        on_step: see :data:`OnStep`.
    """

    network: Network
    units: Sequence[Unit]
    prior: Prior
    settings: AscentSettings
    seeds: Sequence[int]
    deviations: Tensor | None = None
    on_step: OnStep | None = None

    def climb(self, code: Tensor) -> Climb:
        """Climb from the start codes ``[N, ...]``.

        Raises:
            DgnError: no gradient flows from a unit to the image.
        """
        self._start = self.prior.decode(code).detach() if self.settings.accent else None
        self._seen = [self.network.at(size) for size in self.settings.input_sizes] or [self.network]  # they take turns
        self._mask: Tensor | None = None
        history = torch.zeros(self.settings.steps, len(code), device=code.device)
        frozen_at = torch.full((len(code),), -1, dtype=torch.long, device=code.device)
        if self.settings.rule == "cmaes":
            return self._search(code, history, frozen_at)
        self._parts = self._pieces(range(len(code)), code.device)
        move = self._sample if self.settings.rule == "sample" else self._move
        return move(code, history, frozen_at)

    def _move(self, code: Tensor, history: Tensor, frozen_at: Tensor) -> Climb:
        """By a rule of single steps.

        One step (Nguyen et al. 2016): decode, transform, read the unit, take the gradient with respect to the code,
        apply the rule, clip to the prior's range, decay. The learning rate falls linearly, ``lr + (lr_end - lr) * i /
        steps``. A sample whose gradient is zero or not finite freezes; the others go on. The update after the last
        forward pass is not made, so the code that is returned is the one whose activation was seen last.
        """
        settings, prior, steps = self.settings, self.prior, self.settings.steps
        rule, own, state = find_rule(settings.rule), Draws(self.seeds, code.device, salt=104_729), State()
        best, best_code = torch.full((len(code),), -torch.inf, device=code.device), code.clone()
        for i in range(steps):
            if settings.centre_mask and self._mask is None and i >= settings.centre_from * steps:
                self._mask = centre_mask(prior.size, settings.centre_mask, code.device)
            last = i == steps - 1
            history[i], g, images = self._ascend(code, i, wanted=not last)
            if settings.keep == "best":
                better = (history[i] > best) & history[i].isfinite()
                best = torch.where(better, history[i], best)
                best_code = torch.where(_spread(better, code), code, best_code)
            if self.on_step:
                self.on_step(i, steps, history[i], images)
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
                code = torch.where(moving, self._finished(moved, i), code)
        return Climb(best_code if settings.keep == "best" else code, history, frozen_at)

    def _finished(self, code: Tensor, step: int) -> Tensor:
        """A code behind the rule: decayed, operated on, written anew, as the settings say for this step."""
        settings, prior = self.settings, self.prior
        if settings.decay != 1.0:
            code = prior.decay(code, settings.decay)
        if settings.between:
            code = prior.project(operate(prior, code, settings.between, step / settings.steps, step), settings.sigmas)
        if step + 1 == round(settings.reencode * settings.steps):
            code = prior.project(prior.reencode(code), settings.sigmas)
        return code

    def _sample(self, code: Tensor, history: Tensor, frozen_at: Tensor) -> Climb:
        """Guided denoising: a sample that the unit never pulls is one of the prior's own, and counts as frozen."""
        pulled, shown = frozen_at >= 0, code

        def slope(estimate: Tensor, step: int) -> tuple[Tensor, Tensor]:
            nonlocal shown
            with torch.enable_grad():
                activation, gradient, shown = self._ascend(estimate, step)
            sound = gradient.flatten(1).isfinite().all(1) & activation.isfinite() & (gradient.flatten(1) != 0).any(1)
            pulled.logical_or_(sound)
            return activation, torch.where(_spread(sound, gradient), gradient, torch.zeros_like(gradient))

        def note(step: int, activation: Tensor) -> None:
            history[step] = activation
            if self.on_step:
                self.on_step(step, self.settings.steps, activation, shown)

        assert self.deviations is not None
        with torch.no_grad():
            sampled = sample(self.prior, code, self.settings, self.seeds, self.deviations.to(code.device), slope, note)
        return Climb(sampled, history, torch.where(pulled, frozen_at, torch.zeros_like(frozen_at)))

    @torch.no_grad()
    def _search(self, code: Tensor, history: Tensor, frozen_at: Tensor) -> Climb:
        """The black-box rule: the network is asked for activations alone."""
        candidates_of = [row for row in range(len(self.units)) for _ in range(self.settings.population)]
        parts = self._pieces(candidates_of, code.device)  # a sample's candidates share its draws
        turns = cycle(range(len(self._seen)))

        def see(candidates: Tensor) -> tuple[Tensor, Tensor]:
            turn = next(turns)
            looks = [self._look(candidates[part], objectives[turn], draws)[1] for part, objectives, draws in parts]
            return torch.cat([look.activation for look in looks]), torch.cat([look.climbed for look in looks])

        def note(step: int, activations: Tensor, best: Tensor) -> None:
            history[step] = activations
            if self.on_step:
                self.on_step(step, self.settings.steps, activations, self.prior.decode(best))

        return Climb(cmaes(self.prior, code, self.settings, self.seeds, see, note), history, frozen_at)

    def _look(self, h: Tensor, objective: Objective, draws: Draws, start: Tensor | None = None) -> tuple[Tensor, Value]:
        """Images, and what is read and climbed of them, all with their gradients."""
        settings, views = self.settings, self.settings.views
        images = self.prior.decode(h)
        x = images if self._mask is None else images * self._mask + images.detach() * (1 - self._mask)
        written = (x, h)
        if views > 1:
            written = (x.repeat(views, 1, 1, 1), h.repeat(views, *[1] * (h.dim() - 1)))
            x = written[0]
        if start is not None:  # it is transformed as the image is: the draws of its rows are the same
            x = torch.cat([x, start.repeat(views, 1, 1, 1)])
        x = shift_and_zoom(x, draws, settings.jitter, settings.scale)
        x = add_noise(transform(x, draws, settings.transforms), draws, settings.noise)
        value = objective(x, *written) if start is None else objective(x[: len(x) // 2], *written, x[len(x) // 2 :])
        if views > 1:
            value = value.mean(views)
        return images, value

    def _ascend(self, code: Tensor, step: int, wanted: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Activations, gradients (zeros where none are wanted) and images of all samples, piece by piece."""
        activations, gradients, shown, flows = [], [], [], False
        for (
            part,
            objectives,
            draws,
        ) in self._parts:  # a sample's gradient is its own: a piece is done with before the next
            h = code[part].detach().requires_grad_()
            start = None if self._start is None else self._start[part]
            images, value = self._look(h, objectives[step % len(self._seen)], draws, start)
            away = _gradient(value.moved, h, again=True) if wanted and value.moved is not None else None
            g = _gradient(value.climbed, h) if wanted else None
            flows = flows or g is not None
            if g is not None and away is not None and value.moved is not None:
                g = held(g, away, value.moved.detach(), self.settings.accent)
            activations.append(value.activation.detach())
            gradients.append(torch.zeros_like(code[part]) if g is None else g)
            shown.append(images.detach() if self.on_step else images.new_zeros(0))
            del images, value  # and with them what the gradient needed
        if wanted and not flows:
            names = ", ".join(dict.fromkeys(repr(unit.name) for unit in self.units))
            raise DgnError(f"no gradient flows from {names} to the image: its layer is not differentiable")
        return torch.cat(activations), torch.cat(gradients), torch.cat(shown)

    def _pieces(self, samples: Sequence[int], device: torch.device) -> list[Piece]:
        """The rows of a forward pass, ``samples`` being the sample of each, in pieces that fit the caches."""
        settings, parts = self.settings, []
        for part in pieces(max(self._seen, key=lambda at: at.largest_layer), len(samples), settings, device):
            rows = list(samples[part]) * settings.views
            units = [self.units[row] for row in rows]
            objectives = [Objective(at, units, rows, settings, device) for at in self._seen]
            many = [self.seeds[row] + view * VIEW_STRIDE for view in range(settings.views) for row in samples[part]]
            many *= 2 if settings.accent else 1  # the start's
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


def _spread(mask: Tensor, like: Tensor) -> Tensor:
    """``[N]`` as ``[N, 1, ...]``, to choose whole samples of ``like``."""
    return mask.view(-1, *[1] * (like.dim() - 1))


def _gradient(value: Tensor, code: Tensor, again: bool = False) -> Tensor | None:
    """With respect to the code; None where there is no way from one to the other. ``again``: another will follow."""
    if not value.requires_grad:
        return None
    return torch.autograd.grad(value.sum(), code, allow_unused=True, retain_graph=again)[0]
