"""Sampling what a unit prefers instead of climbing to it: ``p(x) exp(a(x) / (T sigma))``, by guided denoising.

Natural images tilted by the activation ``a`` are, of all distributions with the same mean activation, the one nearest
to natural images (arXiv 2605.17504; PPGN, Nguyen et al. 2017, sampled it by Langevin steps). T -> 0 is the ascent,
T -> infinity a random image of the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dgn.ascent.settings import AscentSettings
from dgn.ascent.starts import above_zero
from dgn.ascent.transforms import Draws
from dgn.network.network import Network
from dgn.priors.base import Prior
from dgn.units.read import BatchReader
from dgn.units.unit import Unit, layers_of

Slope = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Codes ``[N, ...]`` and the step -> activations ``[N]`` and their gradient with respect to the codes."""

REAL_CODES = 128
"""Codes of real images over which the standard deviation of an activation is read; it is right to 6 %."""


def times(settings: AscentSettings) -> list[float]:
    """``settings.steps + 1`` times from ``start_time`` to 1.

    ``t = u / (u + shift (1 - u))`` with evenly spaced u: codes of many numbers are told from noise early, so most of
    the decisions fall at small t, where a ``shift`` above 1 puts more of the steps (Esser et al. 2024, arXiv
    2403.03206, section 5.3.2).
    """
    first, shift = settings.start_time, settings.shift
    u0 = shift * first / (1 - first + shift * first)
    steps = [u0 + (1 - u0) * i / settings.steps for i in range(settings.steps + 1)]
    return [u / (u + shift * (1 - u)) for u in steps]


def sample(
    prior: Prior,
    code: Tensor,
    settings: AscentSettings,
    seeds: Sequence[int],
    sigma: Tensor,
    slope: Slope,
    note: Callable[[int, Tensor], None],
) -> Tensor:
    """A sample of ``p(x) exp(a(x) / (T sigma))`` for each row, from noise to code.

    ``x_t = (1 - t) e + t x``, t from 0 to 1. At each step the prior estimates ``x^ = E[x | x_t]``; the activation pulls
    the estimate by ``Cov[x | x_t] grad a / (T sigma)``, which is what it adds to the mean of the tilted distribution
    where ``a`` is linear (so the pull fades as the image becomes certain, and goes where real codes vary); what is left
    of the noise, a share of it fresh, leads to the next time. With ``churn=0`` that is DDIM (Song et al. 2021, arXiv
    2010.02502), with 1 ancestral sampling (its eta is the square root).

    Args:
        prior: that has ``denoise``.
        code: noise ``[N, ...]``, or codes to begin at, mixed with noise at ``settings.start_time`` above 0.
        settings: ``temperature``, ``steps``, ``inner``, ``shift``, ``churn``, ``reach``,
            ``start_time``.
        seeds: of each row's noise.
        sigma: ``[N]``, standard deviation of each row's activation over real images.
        slope: see :data:`Slope`.
        note: called after each step with (step, activations).
    """
    draws = Draws(seeds, code.device, salt=15_487_469)
    t0, *_ = schedule = times(settings)
    x = t0 * code + (1 - t0) * draws.normal(*code.shape[1:]) if t0 else code
    weight = (1 / (settings.temperature * sigma)).view(-1, *[1] * (code.dim() - 1))
    for i, (t, after) in enumerate(pairwise(schedule)):
        estimate = prior.denoise(x, t)
        for _ in range(settings.inner):
            activation, gradient = slope(estimate, i)
            move = weight * prior.covary(gradient, t)
            estimate = estimate + capped(move, settings.pull * (1 - t)) / settings.inner
        if settings.reach:
            estimate = prior.within(estimate, settings.reach)
        x = later(x, estimate, t, after, settings.churn, draws)
        note(i, activation)
    return prior.project(x, settings.sigmas)


def later(x: Tensor, estimate: Tensor, t: float, after: float, churn: float, draws: Draws) -> Tensor:
    """``x_t``, with the code estimated, at the time ``after``: what is left of its noise is fresh by the share that
    ``churn`` gives."""
    noise = (x - t * estimate) / (1 - t)
    fresh = churn * (1 - (t * (1 - after) / (after * (1 - t))) ** 2)
    noise = (1 - fresh) ** 0.5 * noise + fresh**0.5 * draws.normal(*x.shape[1:])
    return after * estimate + (1 - after) * noise


def capped(move: Tensor, most: float) -> Tensor:
    """Each row no longer than ``most``, as a root mean square over its elements."""
    size = move.flatten(1).square().mean(1).sqrt().clamp(min=1e-12)
    return move * (most / size).clamp(max=1).view(-1, *[1] * (move.dim() - 1))


class Deviations:
    """Standard deviation of units' activations over codes of real images, read once a job (where a screening has read
    some already, see :meth:`dgn.ascent.starts.Screening.deviations`).

    Args:
        network, prior, settings: what samples, how; the network sees images as large as the (largest) in the loop.
        units: all that will ask.
    """

    def __init__(self, network: Network, prior: Prior, units: Sequence[Unit], settings: AscentSettings) -> None:
        self.prior, self._units = prior, list(dict.fromkeys(units))
        seen = network.at(max(settings.input_sizes, default=min(network.input_size)))
        self._read = BatchReader(seen.fast(layers_of(self._units)), self._units, settings.fit)  # type: ignore[arg-type]
        self._known: Tensor | None = None

    @torch.no_grad()
    def of(self, units: Sequence[Unit]) -> Tensor:
        """``[N]``, one a sample; 1 for a unit whose activation never changes."""
        if self._known is None:
            values = [self._read(self.prior.decode(part))[0] for part in self.prior.real_codes(REAL_CODES).split(32)]
            self._known = above_zero(torch.cat(values).float().std(0))
        return self._known[[self._units.index(unit) for unit in units]]
