"""Ascent without gradients: CMA-ES over the code, all candidates of all samples in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dgn.errors import DgnError
from dgn.priors.base import Prior
from dgn.settings import AscentSettings

See = Callable[[Tensor, Tensor], Tensor]
"""Codes ``[N * P, ...]`` and the sample each belongs to, ``[N * P]`` -> activations ``[N * P]``."""


def cmaes(
    prior: Prior,
    code: Tensor,
    settings: AscentSettings,
    seeds: Sequence[int],
    see: See,
    note: Callable[[int, Tensor, Tensor], None],
) -> Tensor:
    """Climb with separable CMA-ES (Hansen 2016, arXiv 1604.00772; Ros & Hansen 2008), one search a sample.

    The covariance is diagonal: codes have hundreds of numbers. ``settings.lr`` is the first step size, in the code's
    own units, ``settings.steps`` the number of generations, ``settings.population`` their size.

    Args:
        prior, code: the range, and the start codes ``[N, ...]``.
        settings, seeds: of each sample's draws.
        see: evaluates candidates; nothing is asked of it but numbers.
        note: called after each generation with (step, the best activation of each sample, its code).

    Returns:
        The last generation's best code, ``[N, ...]``.
    """
    try:
        import cma
    except ImportError as error:
        raise DgnError("rule=cmaes needs pycma; run: pip install cma") from error
    count, size = len(code), settings.population
    searches = []
    for row, seed in zip(code, seeds, strict=True):
        options = {"CMA_diagonal": True, "popsize": size, "seed": seed % 2**31 + 1, "verbose": -9, "maxiter": np.inf}
        searches.append(cma.CMAEvolutionStrategy(row.flatten().double().cpu().numpy(), settings.lr, options))
    sample = torch.arange(count, device=code.device).repeat_interleave(size)
    best = code
    for step in range(settings.steps):
        asked = [np.stack(search.ask()) for search in searches]
        candidates = torch.from_numpy(np.concatenate(asked)).to(code).view(count * size, *code.shape[1:])
        seen = prior.project(candidates, settings.sigmas)
        value = see(seen, sample).float().view(count, size)
        cost = torch.where(value.isfinite(), -value, torch.full_like(value, 1e30)).double().cpu().numpy()
        for search, asked_of, cost_of in zip(searches, asked, cost, strict=True):
            search.tell(list(asked_of), list(cost_of))
        first = value.nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax(1)
        rows = torch.arange(count, device=code.device)
        best = seen.view(count, size, *code.shape[1:])[rows, first]
        note(step, value[rows, first], best)
    return best
