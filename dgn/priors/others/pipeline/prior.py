"""A diffusion pipeline as a prior: its noise as the code, and its latents as a distribution that can be sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgn.images.fit import resized
from dgn.priors.base import Prior, seeded_normal
from dgn.priors.noise import on_shell
from dgn.priors.others.pipeline.model import Pipeline

OWN_CODES = 32
"""Images of its own that stand for real ones: a standard deviation of an activation over them is right to an eighth."""


class LatentPrior(Prior):
    """Latents ``[n, C, h, w]`` in units of their standard deviation; the pipeline's denoiser is their distribution.

    Args:
        pipeline: loaded.
        size: pixels of a side of the images; None for its own.
        notes: see :class:`dgn.priors.base.Prior`.
    """

    name = family = "pipeline"
    coordinates = "latents"

    def __init__(self, pipeline: Pipeline, size: int | None, notes: Sequence[str]) -> None:
        self.pipeline, self.channels, self.notes = pipeline, pipeline.channels, tuple(notes)
        self.size = pipeline.size if size is None else (size, size)
        self._own: Tensor | None = None
        self._seen = torch.zeros(0), -1.0

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        """Noise, N(0, 1): a code at t = 0."""
        return seeded_normal(self.pipeline.shape, range(n) if seeds is None else seeds, self.pipeline.device)

    def decode(self, code: Tensor) -> Tensor:
        return self.shown(self.pipeline.decode(code * self.pipeline.scale))

    def shown(self, images: Tensor) -> Tensor:
        """Images ``[n, channels, h, w]`` at the size of this prior."""
        return images if images.shape[2:] == self.size else resized(images, self.size, "stretch").clamp(0, 1)

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        return code if sigmas is None else code.clamp(-sigmas, sigmas)

    def encode(self, images: Tensor) -> Tensor:
        if images.shape[2:] != self.pipeline.size:
            images = resized(images, self.pipeline.size, "stretch").clamp(0, 1)
        return self.pipeline.encode(images) / self.pipeline.scale

    def reencode(self, code: Tensor) -> Tensor:
        return self.encode(self.decode(code))

    @torch.no_grad()
    def convert(self, code: Tensor, coordinates: str) -> Tensor:
        """Latents of the pipeline's noise, too."""
        if coordinates == PipelinePrior.coordinates:
            return self.pipeline.generate(code) / self.pipeline.scale
        return super().convert(code, coordinates)

    def denoise(self, code: Tensor, t: float) -> Tensor:
        self._seen = code.detach(), t
        return self.pipeline.denoise(code, t / self.pipeline.scale, 1 - t) / self.pipeline.scale

    def covary(self, direction: Tensor, t: float) -> Tensor:
        """At the codes ``x_t`` that were denoised last, by the network's own slope: ``Cov[x | x_t] = noise^2 / signal *
        dE[x | x_t] / dx_t``, which is symmetric, so one pass back gives it (Boys et al. 2023, arXiv 2310.06721). Where
        none were denoised at ``t``, as of codes that are N(0, 1) in each element."""
        code, seen = self._seen
        if seen != t or code.shape != direction.shape:
            return direction * (1 - t) ** 2 / (t * t + (1 - t) ** 2)
        pipeline, noise = self.pipeline, 1 - t
        signal = max(t / pipeline.scale, pipeline.least * noise)
        with torch.enable_grad():
            code = code.detach().requires_grad_()
            clean = pipeline.denoise(code, signal, noise)
            (slope,) = torch.autograd.grad(clean, code, direction.to(clean))
        return slope * noise**2 / (signal * pipeline.scale**2)

    def within(self, code: Tensor, reach: float) -> Tensor:
        own = self.real_codes(OWN_CODES)
        mean = own.mean(0)
        typical = (own - mean).flatten(1).square().sum(1).mean().sqrt()
        distance = (code - mean).flatten(1).norm(dim=1).clamp(min=1e-12)
        return mean + (code - mean) * (reach * typical / distance).clamp(max=1).view(-1, 1, 1, 1)

    @torch.no_grad()
    def real_codes(self, n: int) -> Tensor:
        """Of images of its own, from seeds 0 on, at most :data:`OWN_CODES`: each takes the way from noise."""
        if self._own is None:
            noise = seeded_normal(self.pipeline.shape, range(OWN_CODES), self.pipeline.device)
            self._own = self.pipeline.generate(noise) / self.pipeline.scale
        return self._own[:n]

    def sampled(self) -> LatentPrior:
        return self

    def weights(self) -> dict[str, Tensor]:
        return self.pipeline.weights()

    def to(self, device: torch.device | str) -> LatentPrior:
        self.pipeline.to(device)
        self._own = None if self._own is None else self._own.to(device)
        return self


class PipelinePrior(Prior):
    """Noise ``[n, C, h, w]``, each element N(0, 1), from which a pipeline makes an image in few steps.

    Args:
        space: the same pipeline's latents.
    """

    name = family = "pipeline"
    coordinates = "noise"
    encodes = False

    def __init__(self, space: LatentPrior) -> None:
        self.space = space
        self.channels, self.size, self.notes = space.channels, space.size, space.notes

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        return self.project(self.space.start(n, seeds))

    def decode(self, code: Tensor) -> Tensor:
        """What the pipeline's own call gives for this noise."""
        pipeline = self.space.pipeline
        return self.space.shown(pipeline.decode(pipeline.generate(code)))

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        """See :func:`dgn.priors.noise.on_shell`."""
        return on_shell(code, sigmas)

    def sampled(self) -> LatentPrior:
        return self.space

    def weights(self) -> dict[str, Tensor]:
        return self.space.weights()

    def to(self, device: torch.device | str) -> PipelinePrior:
        self.space.to(device)
        return self
