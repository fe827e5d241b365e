"""Transfer: does a network that took no part name a synthesised image as its target (Fel et al. 2023)?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgn.network import Network


@torch.no_grad()
def ranks(judge: Network, images: Tensor, classes: Sequence[int], batch: int = 32) -> Tensor:
    """The rank (1: first choice) that a judge gives each image's target class.

    Args:
        judge: a classifier over the same classes.
        images: ``[N, C, H, W]`` in [0, 1], any size.
        classes: the target's output index of each image.

    Returns:
        int64 ``[N]``.
    """
    parts = []
    for first in range(0, len(images), batch):
        logits = judge(images[first : first + batch].to(judge.device)).float().cpu()
        target = torch.tensor(list(classes[first : first + batch]))
        own = logits.gather(1, target[:, None])
        parts.append((logits > own).sum(1) + 1)
    return torch.cat(parts)


def top(ranks_: Tensor, k: int) -> float:
    """Share of the images whose target is among the judge's first ``k`` choices."""
    return float((ranks_ <= k).double().mean())


def interval(ranks_: Tensor, k: int, resamples: int = 2000, level: float = 0.95) -> tuple[float, float]:
    """Bootstrapped confidence interval of :func:`top` over images."""
    hits = (ranks_ <= k).double()
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(hits), (resamples, len(hits)), generator=generator)
    shares = hits[draws].mean(1)
    edge = (1 - level) / 2
    low, high = torch.quantile(shares, torch.tensor([edge, 1 - edge], dtype=torch.float64)).tolist()
    return low, high
