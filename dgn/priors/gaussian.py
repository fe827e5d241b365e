"""The generator's code with a distribution: the Gaussian of its principal components, or a flow on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.priors.base import Prior
from dgn.priors.deep import GeneratorPrior
from dgn.priors.flow import Flow
from dgn.priors.generator import Components


class GaussianPrior(Prior):
    """Codes ``[n, C, h, w]`` of a generator at the size of its layout, as a Gaussian ``N(mean, covariance)``.

    The covariance has the components' variances along them and one variance, the rest's, in all other directions. Of a
    code mixed with noise, ``x_t = (1 - t) noise + t code``, the expected code is then known in closed form (a Wiener
    filter); nothing is trained.

    Args:
        layout: the generator at the size that the components fit.
        components: of its codes.
        size: pixels of the images; those of the layout are enlarged (bicubic), the code stays what it is.
    """

    family = "components"

    def __init__(self, layout: GeneratorPrior, components: Components, size: int) -> None:
        self.layout, self.components = layout, components
        self._centres: Tensor | None = None
        self.name, self.channels, self.size = layout.name, layout.channels, (size, size)
        self.coordinates, self.encodes = layout.coordinates, layout.encodes

    def sampled(self) -> GaussianPrior:
        return self

    @property
    def centres(self) -> Tensor | None:  # type: ignore[override]
        """Those of the components, written as codes."""
        if self._centres is None and len(self.components.centres):
            self._centres = self.components.to_code(self.components.centres)
        return self._centres

    # --- the distribution ------------------------------------------------------------------------------------

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        """Noise, N(0, 1): a code at t = 0."""
        return self.layout.start(n, seeds)

    def denoise(self, code: Tensor, t: float | Tensor) -> Tensor:
        row, one = (t.view(-1, 1), t.view(-1, 1, 1, 1)) if isinstance(t, Tensor) else (t, t)
        return self.mean + self.along(code - one * self.mean, lambda v: row * v / (row * row * v + (1 - row) ** 2))

    def covary(self, direction: Tensor, t: float) -> Tensor:
        return self.along(direction, lambda v: v * (1 - t) ** 2 / (t * t * v + (1 - t) ** 2))

    def within(self, code: Tensor, reach: float) -> Tensor:
        parts = self.components
        mean, others = self.mean, len(parts.mean) - len(parts.scale)
        typical = (parts.scale.square().sum() + parts.rest * others).sqrt()
        distance = (code - mean).flatten(1).norm(dim=1).clamp(min=1e-12)
        return mean + (code - mean) * (reach * typical / distance).clamp(max=1).view(-1, 1, 1, 1)

    def real_codes(self, n: int) -> Tensor:
        parts = self.components
        if len(parts.centres) >= n:
            return parts.to_code(parts.centres[torch.linspace(0, len(parts.centres) - 1, n).long()])
        device = parts.mean.device
        white, rest = (
            torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)).to(device)
            for shape in ((len(parts.scale),), parts.shape)
        )
        rest = rest * parts.rest**0.5
        return parts.to_code(white) + rest - self._within(rest)

    @property
    def mean(self) -> Tensor:
        """The mean code, ``[C, h, w]``."""
        return self.components.mean.view(self.components.shape)

    def along(self, code: Tensor, factor: Callable[[Tensor], Tensor]) -> Tensor:
        """A matrix that has the covariance's eigenvectors, times a code ``[n, C, h, w]``.

        Args:
            factor: its eigenvalue where the covariance has this one.
        """
        parts = self.components
        rest = factor(torch.full_like(parts.scale[:1], parts.rest))
        flat = code.flatten(1)
        along = (flat @ parts.basis) * (factor(parts.scale**2) - rest)
        return (along @ parts.basis.T + rest * flat).view_as(code)

    def _within(self, code: Tensor) -> Tensor:
        basis = self.components.basis
        return (code.flatten(1) @ basis @ basis.T).view_as(code)

    # --- the images ------------------------------------------------------------------------------------------

    def decode(self, code: Tensor) -> Tensor:
        images = self.layout.decode(code)
        if self.size == self.layout.size:
            return images
        return F.interpolate(images, size=self.size, mode="bicubic", align_corners=False).clamp(0, 1)

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        return self.layout.project(code, sigmas)

    def encode(self, images: Tensor) -> Tensor:
        if self.size != self.layout.size:
            images = F.interpolate(images, size=self.layout.size, mode="bilinear", antialias=True, align_corners=False)
        return self.layout.encode(images)

    def reencode(self, code: Tensor) -> Tensor:
        return self.layout.reencode(code)

    def convert(self, code: Tensor, coordinates: str) -> Tensor:
        if coordinates == "components":
            return self.components.to_code(code)
        return self.layout.convert(code, coordinates)

    def adopt(self, code: Tensor) -> Tensor | None:
        """A spatial code of another size, its cells shrunk or enlarged to the layout's; components' coordinates."""
        rows = code[0] if code.dim() == 3 and len(code) == 1 else code
        if rows.dim() == 2 and rows.shape[1] == len(self.components.scale):
            return self.components.to_code(rows)
        if code.dim() != 4 or code.shape[1] != self.components.shape[0]:
            return None
        return F.interpolate(code, size=self.components.shape[1:], mode="bilinear", antialias=True)

    def resized(self, size: int) -> GaussianPrior:
        return self if self.size == (size, size) else GaussianPrior(self.layout, self.components, size)

    def carry(self, code: Tensor, to: Prior) -> Tensor:
        return code

    def weights(self) -> dict[str, Tensor]:
        parts = self.components
        rest = torch.tensor(parts.rest)
        return {
            **self.layout.weights(), "components": parts.basis, "scale": parts.scale, "centres": parts.centres,
            "mean": parts.mean, "rest": rest,
        }  # fmt: skip

    def to(self, device: torch.device | str) -> GaussianPrior:
        self.layout.to(device)
        self.components, self._centres = self.components.to(device), None
        return self


class FlowPrior(GaussianPrior):
    """Codes with a learned distribution: a flow on top of the components' Gaussian.

    Args:
        layout, components, size: see :class:`dgn.priors.gaussian.GaussianPrior`.
        flow: that was trained with these components.
    """

    family = "flow"

    def __init__(self, layout: GeneratorPrior, components: Components, size: int, flow: Flow) -> None:
        super().__init__(layout, components, size)
        self.flow = flow

    def denoise(self, code: Tensor, t: float | Tensor) -> Tensor:
        guess = super().denoise(code, t)
        time = t if isinstance(t, Tensor) else torch.full((len(code),), t, device=code.device)
        return guess + self.error(time).view(-1, 1, 1, 1) * self.flow(code, guess, time)

    def error(self, t: Tensor) -> Tensor:
        """Root mean square an element of what the Gaussian's estimate is wrong by at times ``[n]``."""
        parts = self.components
        variances = torch.cat([parts.scale**2, parts.scale.new_full((1,), parts.rest)])
        counts = torch.ones_like(variances)
        counts[-1] = len(parts.mean) - len(parts.scale)
        noise = (1 - t[:, None]) ** 2
        left = variances * noise / (t[:, None] ** 2 * variances + noise)
        return ((left * counts).sum(1) / counts.sum()).sqrt()

    def resized(self, size: int) -> FlowPrior:
        if self.size == (size, size):
            return self
        return FlowPrior(self.layout, self.components, size, self.flow)

    def weights(self) -> dict[str, Tensor]:
        return {**super().weights(), **{f"flow.{name}": value for name, value in self.flow.state_dict().items()}}

    def to(self, device: torch.device | str) -> FlowPrior:
        super().to(device)
        self.flow.to(device)
        return self
