"""A dictionary's encoder: from a layer's features to its latents, each place for itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dgn.errors import DgnError, one_of

ACTIVATIONS = ("relu", "tanh_relu", "topk", "abs_topk", "jumprelu", "nnls")
"""What makes latents of pre-activations: ReLU; the tanh of it; of each place the ``k`` highest above 0, or the ``k``
furthest from 0; those above a threshold; ``nnls``: codes ``z >= 0`` whose ``z @ weight`` is nearest to the input."""
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
"""What is done to a place's features first: nothing, mean 0 and deviation 1, or a norm of sqrt(C)."""
ITERATIONS = 300


class Dictionary(nn.Module):
    """Latents ``[N, F, *places]`` of a layer ``[N, C, *places]``.

    The values are the dictionary's own. The gradient is everywhere that of the pre-activation (of ``nnls``: of the
    projection on the latent's direction), also where a latent is silent: its own gradient is zero there, and no ascent
    could begin (a straight-through estimator, Bengio et al. 2013, arXiv 1308.3432).

    Args:
        weight: ``[F, C]``, of the encoder; of ``nnls`` the dictionary itself.
        bias: ``[F]``, added; None: 0.
        activation: one of :data:`ACTIVATIONS`.
        k: latents a place, of ``topk`` and ``abs_topk``.
        threshold: of ``jumprelu``, ``[F]`` or a number.
        normalize: one of :data:`NORMALISATIONS`.

    Raises:
        DgnError: shapes that don't fit, an unknown name, ``k`` or a threshold that is missing.
    """

    weight: Tensor
    bias: Tensor
    threshold: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: str,
        *,
        k: int | None = None,
        threshold: Tensor | float | None = None,
        normalize: str = "none",
    ) -> None:
        super().__init__()
        if weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            shapes = [list(part.shape) for part in (weight, bias) if part is not None]
            raise DgnError(f"a dictionary has weights [latents, features] and a bias [latents], got {shapes}")
        self.latents, self.features = weight.shape
        self.activation = one_of("activation", activation, ACTIVATIONS)
        self.normalize = one_of("normalize", normalize, NORMALISATIONS)
        if activation in ("topk", "abs_topk") and not (k and 1 <= k <= self.latents):
            raise DgnError(f"k is {k}, expected 1 to {self.latents} latents a place for the activation {activation}")
        if activation == "jumprelu" and threshold is None:
            raise DgnError("the activation jumprelu needs a threshold: its file holds none, give threshold=NUMBER")
        self.k = int(k or 0)
        level = torch.as_tensor(0.0 if threshold is None else threshold).float().flatten()
        if len(level) not in (1, self.latents):
            raise DgnError(f"{len(level)} thresholds for {self.latents} latents")
        self.register_buffer("weight", weight.detach().float().contiguous())
        self.register_buffer("bias", torch.zeros(self.latents) if bias is None else bias.detach().float())
        self.register_buffer("threshold", level.clamp(min=0))  # ReLU comes first

    def extra_repr(self) -> str:
        k = f" (k {self.k})" if self.k else ""
        return (
            f"{self.activation}{k}, {self.latents:,} latents of {self.features:,} features, normalize {self.normalize}"
        )

    def forward(self, maps: Tensor) -> Tensor:
        x = self._normalised(maps.flatten(2) if maps.dim() > 2 else maps[:, :, None])
        slope = self.weight
        if self.activation == "nnls":
            with torch.no_grad():
                values = self._codes(x)
            slope = slope / slope.square().sum(1, keepdim=True).clamp(min=1e-12)
            before = slope @ x if x.requires_grad else values
        else:
            before = slope @ x + self.bias[:, None]
            values = self._latents(before.detach())
        if before.requires_grad:
            values = values + (before - before.detach())
        return values.reshape(len(maps), self.latents, *maps.shape[2:])

    def _normalised(self, x: Tensor) -> Tensor:
        """As SAELens and ViT-Prisma do it, the deviation with C - 1."""
        if self.normalize == "layer_norm":
            x = x - x.mean(1, keepdim=True)
            return x / (x.std(1, keepdim=True) + 1e-5)
        return x * (self.features**0.5 / x.norm(dim=1, keepdim=True)) if self.normalize != "none" else x

    def _latents(self, before: Tensor) -> Tensor:
        if self.activation == "abs_topk":
            return _kept(before, before.abs().topk(self.k, dim=1, sorted=False).indices)
        above = before.relu()
        if self.activation == "topk":
            return _kept(above, above.topk(self.k, dim=1, sorted=False).indices)
        if self.activation == "jumprelu":
            return torch.where(above <= self.threshold[:, None], torch.zeros_like(above), above)
        return above.tanh() if self.activation == "tanh_relu" else above

    def _codes(self, x: Tensor) -> Tensor:
        """Non-negative least squares by accelerated projected gradients (Beck & Teboulle 2009), restarted where they
        overshoot; overcomplete's solvers go towards the same codes, which are unique up to C latents."""
        gram, target = self.weight @ self.weight.T, self.weight @ x
        step = 1 / torch.linalg.matrix_norm(gram, 2).clamp(min=1e-12)
        z = ahead = torch.zeros_like(target)
        t = torch.ones_like(target[:, :1])
        for _ in range(ITERATIONS):
            after = (ahead - step * (gram @ ahead - target)).relu()
            over = ((ahead - after) * (after - z)).sum(1, keepdim=True) > 0
            t = torch.where(over, torch.ones_like(t), t)
            later = (1 + (1 + 4 * t.square()).sqrt()) / 2
            ahead = after + (t - 1) / later * (after - z)
            z, t = after, later
        return z


def _kept(values: Tensor, indices: Tensor) -> Tensor:
    """The values of these latents, all others 0."""
    return torch.zeros_like(values).scatter(1, indices, values.gather(1, indices))
