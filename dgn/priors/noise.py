"""Noise as a code: each image of a distribution has its own, and a differential equation joins the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dgn.priors.base import Prior
from dgn.priors.gaussian import FlowPrior, GaussianPrior

STEPS = 3
"""From noise to code: docs/results/flow.md."""

BEGIN = 0.4
"""How far on the way to a code an ascent begins at it."""


class NoisePrior(Prior):
    """Noise ``[n, C, h, w]``, each element N(0, 1), from which a distribution's probability flow leads to a code.

    ``dx/dt = (E[x | x_t] - x_t) / (1 - t)`` from t = 0 to 1 (Lipman et al. 2022, arXiv 2210.02747). The Gaussian's
    share is known in closed form, one factor for each eigenvector of its covariance, so that a Gaussian alone takes one
    step and is exact. What a learned flow adds is integrated along that solution, extrapolated from the step before (an
    exponential integrator of second order, as DPM-Solver++: Lu et al. 2022, arXiv 2211.01095). Nothing more is trained.

    Args:
        space: codes with a distribution.
        steps: of the way, with a learned flow.
    """

    family = "noise"
    coordinates = "noise"

    def __init__(self, space: GaussianPrior, steps: int = STEPS) -> None:
        self.space, self.steps, self.layout = space, steps, space.layout
        self.name, self.channels, self.size, self.encodes = space.name, space.channels, space.size, space.encodes

    # --- from noise to code, and back --------------------------------------------------------------------------

    def to_code(self, noise: Tensor) -> Tensor:
        """Normalised codes ``[n, C, h, w]`` of noise of the same shape; differentiable."""
        space, x, last = self.space, noise, None
        for t, after in pairwise(self._times(self.steps)):
            moved = space.along(x - t * space.mean, carried(t, after))
            if isinstance(space, FlowPrior):
                told = self._told(x, t)
                moved = moved + space.along(told, self._added(t, after))
                if last is not None:
                    moved = moved + space.along((told - last[0]) / (t - last[1]), self._added(t, after, growing=True))
                last = told, t
            x = after * space.mean + moved
        return x

    @torch.no_grad()
    def to_noise(self, code: Tensor, steps: int = 24, rounds: int = 3, until: float = 1.0) -> Tensor:
        """Noise of normalised codes ``[n, C, h, w]``, about: the same way back, in finer steps.

        Args:
            code: of images.
            steps: of the way, with a learned flow.
            rounds: in which each step is solved for the place that it came from.
            until: time of the codes: below 1 they are still mixed with noise.
        """
        space, x = self.space, code
        times = [t for t in self._times(steps) if t < until]
        for t, after in reversed(list(pairwise([*times, until]))):
            moved, x = x - after * space.mean, t * space.mean + space.along(x - after * space.mean, carried(after, t))
            for _ in range(rounds if isinstance(space, FlowPrior) else 0):
                own = moved - space.along(self._told(x, t), self._added(t, after))
                x = t * space.mean + space.along(own, carried(after, t))
        return x

    def _times(self, steps: int) -> list[float]:
        """From 0 to 1; a Gaussian's way is one step."""
        steps = steps if isinstance(self.space, FlowPrior) else 1
        return [i / steps for i in range(steps + 1)]

    def _told(self, code: Tensor, t: float) -> Tensor:
        """What the Gaussian's estimate is wrong by, as the flow tells it, in units of the Gaussian's error."""
        space = self.space
        assert isinstance(space, FlowPrior)
        guess = GaussianPrior.denoise(space, code, t)
        return space.flow(code, guess, torch.full((len(code),), t, device=code.device))  # type: ignore[no-any-return]

    def _added(self, t: float, after: float, growing: bool = False) -> Callable[[Tensor], Tensor]:
        """What a correction of 1 that the flow makes from ``t`` on adds by ``after``, of a variance; with ``growing``,
        a correction that grows from 0 by 1 a unit of time."""
        space, count = self.space, 64
        assert isinstance(space, FlowPrior)
        times = t + (after - t) * (torch.arange(count, device=space.mean.device) + 0.5) / count
        rate = space.error(times) / (1 - times) * ((times - t) if growing else 1) * (after - t) / count

        def factor(variance: Tensor) -> Tensor:
            return spread(variance, after) * (rate / spread(variance[..., None], times)).sum(-1)

        return factor

    # --- the images --------------------------------------------------------------------------------------------

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        return self.project(self.space.start(n, seeds))

    @property
    def centres(self) -> Tensor | None:  # type: ignore[override]
        """Codes between those of real images, as the distribution's own."""
        return self.space.centres

    def decode_centres(self, centres: Tensor) -> Tensor:
        return self.space.decode(centres)

    def at_centres(self, centres: Tensor, seeds: Sequence[int]) -> Tensor:
        """The noise that leads past a centre, seen from so much noise (:data:`BEGIN`) that much of it is still open."""
        mixed = BEGIN * centres + (1 - BEGIN) * self.space.start(len(centres), seeds)
        return self.project(self.to_noise(mixed, until=BEGIN))

    def decode(self, code: Tensor) -> Tensor:
        return self.space.decode(self.space.project(self.to_code(code)))

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        """See :func:`on_shell`."""
        return on_shell(code, sigmas)

    def encode(self, images: Tensor) -> Tensor:
        return self.project(self.to_noise(self.space.encode(images)))

    def mean_code(self, images: Tensor) -> Tensor:
        """Of their codes, not of their noise, whose mean is nobody's."""
        return self.at_centres(self.space.mean_code(images)[None], [0])[0]

    def reencode(self, code: Tensor) -> Tensor:
        return self.project(self.to_noise(self.space.reencode(self.to_code(code))))

    def convert(self, code: Tensor, coordinates: str) -> Tensor:
        if coordinates == self.coordinates:
            return code
        return self.to_noise(self.space.convert(code, coordinates))

    def sampled(self) -> GaussianPrior:
        return self.space

    def resized(self, size: int) -> NoisePrior:
        return self if self.size == (size, size) else NoisePrior(self.space.resized(size), self.steps)

    def carry(self, code: Tensor, to: Prior) -> Tensor:
        return code

    def weights(self) -> dict[str, Tensor]:
        return self.space.weights()

    def to(self, device: torch.device | str) -> NoisePrior:
        self.space.to(device)
        return self


def on_shell(noise: Tensor, sigmas: float | None = None) -> Tensor:
    """Noise ``[n, C, h, w]`` moved to the shell of radius ``sqrt(D)`` on which it lies; with ``sigmas``, no element
    further out before."""
    noise = noise if sigmas is None else noise.clamp(-sigmas, sigmas)
    size = noise.flatten(1).square().mean(1).sqrt().clamp(min=1e-12)
    return noise / size.view(-1, 1, 1, 1)


def spread(variance: Tensor, t: float | Tensor) -> Tensor:
    """Standard deviation of ``x_t = (1 - t) noise + t code`` along an eigenvector of the codes' covariance."""
    return (t * t * variance + (1 - t) ** 2).sqrt()


def carried(t: float, after: float) -> Callable[[Tensor], Tensor]:
    """What the Gaussian's flow multiplies by from ``t`` to ``after``, of a variance."""
    return lambda variance: spread(variance, after) / spread(variance, t)
