"""The ascent: one loop for every prior, unit and rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgn.ascent.rules import State, find_rule
from dgn.ascent.transforms import Draws, add_noise, shift_and_zoom
from dgn.errors import DgnError
from dgn.network import Network
from dgn.priors.base import Prior
from dgn.settings import AscentSettings
from dgn.units import Reader, Unit

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


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision for ``"bf16"``; ``"auto"`` means bf16 where the processor has it, else float32."""
    if precision == "auto":
        native = torch.cpu._is_avx512_bf16_supported() if device.type == "cpu" else torch.cuda.is_bf16_supported()
        precision = "bf16" if native else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def climb(
    network: Network,
    units: Sequence[Unit],
    prior: Prior,
    code: Tensor,
    settings: AscentSettings,
    seeds: Sequence[int],
    *,
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
        on_step: see :data:`OnStep`.

    Raises:
        DgnError: no gradient flows from a unit to the image.
    """
    rule = find_rule(settings.rule)
    read = Reader(units, device=code.device)
    seen = network if settings.input_size is None else network.at(settings.input_size)
    draws = Draws(seeds, code.device)
    steps, count = settings.steps, len(code)
    history = torch.zeros(steps, count, device=code.device)
    frozen_at = torch.full((count,), -1, dtype=torch.long, device=code.device)
    best, best_code = torch.full((count,), -torch.inf, device=code.device), code.clone()
    state: State = {}
    for i in range(steps):
        h = code.detach().requires_grad_()
        with autocast(code.device, settings.precision):
            images = prior.decode(h)
            x = shift_and_zoom(images, draws, settings.jitter, settings.scale)
            x = add_noise(x, draws, settings.noise)
            activation = read(seen.features(x, read.layers, settings.fit))  # type: ignore[arg-type]
        history[i] = activation.detach()
        if settings.keep == "best":
            better = (history[i] > best) & history[i].isfinite()
            best = torch.where(better, history[i], best)
            best_code = torch.where(_spread(better, code), code, best_code)
        if on_step:
            on_step(i, steps, history[i], images.detach())
        if i == steps - 1:
            break
        g = _gradient(activation, h, units)
        flat = g.flatten(1)
        sound = flat.isfinite().all(1) & (flat != 0).any(1) & history[i].isfinite()
        frozen_at = torch.where((frozen_at < 0) & ~sound, i, frozen_at)
        moving = _spread(frozen_at < 0, code)
        g = torch.where(moving, g, torch.zeros_like(g))
        lr = settings.lr + (settings.lr_end - settings.lr) * i / steps
        with torch.no_grad():
            moved = prior.project(rule(code, g, state, lr), settings.sigmas)
            if settings.decay != 1.0:
                moved = prior.decay(moved, settings.decay)
            if i + 1 == round(settings.reencode * steps):
                moved = prior.project(prior.reencode(moved), settings.sigmas)
            code = torch.where(moving, moved, code)
    return Climb(best_code if settings.keep == "best" else code, history, frozen_at)


def _spread(mask: Tensor, like: Tensor) -> Tensor:
    """``[N]`` as ``[N, 1, ...]``, to choose whole samples of ``like``."""
    return mask.view(-1, *[1] * (like.dim() - 1))


def _gradient(activation: Tensor, code: Tensor, units: Sequence[Unit]) -> Tensor:
    names = ", ".join(dict.fromkeys(repr(unit.name) for unit in units))
    if not activation.requires_grad:
        raise DgnError(f"no gradient flows from {names} to the image: its layer is not differentiable")
    (gradient,) = torch.autograd.grad(activation.sum(), code, allow_unused=True)
    if gradient is None:
        raise DgnError(f"no gradient flows from {names} to the code")
    return gradient
