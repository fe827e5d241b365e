"""Ascent without gradients: CMA-ES over the code, all candidates of all samples in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dgn.ascent.settings import AscentSettings
from dgn.errors import DgnError
from dgn.priors.base import Prior

See = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Codes ``[N * P, ...]``, sample by sample -> activations and what is climbed, ``[N * P]`` each."""


def cmaes(
    prior: Prior,
    code: Tensor,
    settings: AscentSettings,
    seeds: Sequence[int],
    see: See,
    note: Callable[[int, Tensor, Tensor], None],
) -> Tensor:
    """Climb with separable CMA-ES (Hansen 2016, arXiv 1604.00772; Ros & Hansen 2008), one search a sample.

    Of the loop's settings it knows the transformations, views and penalties, and ``sigmas``.

    The covariance is diagonal: codes have hundreds of numbers. ``settings.lr`` is the first step size, in the code's
    own units, ``settings.steps`` the number of generations, ``settings.population`` their size.

    Args:
        prior, code: the range, and the start codes ``[N, ...]``.
        settings, seeds: of each sample's draws.
        see: evaluates candidates; nothing is asked of it but numbers.
        note: called after each generation with (step, the best activation of each sample, its code).

    Returns:
        The last generation's best code, ``[N, ...]``.

    Raises:
        DgnError: pycma is not installed; settings that only gradients can follow; a population under 4.
    """
    try:
        import cma
    except ImportError as error:
        raise DgnError("rule=cmaes needs pycma; run: pip install cma") from error
    for name in ("decay", "between", "centre_mask", "diversity", "accent", "epsilon1", "epsilon3", "keep"):
        if getattr(settings, name) != getattr(AscentSettings(), name):
            raise DgnError(f"rule=cmaes knows no {name}: leave ascent.{name} out")
    count, size = len(code), settings.population
    if size < 4:
        raise DgnError(f"population is {size}, cmaes needs 4 or more")
    searches = []
    for row, seed in zip(code, seeds, strict=True):
        options = {
            "CMA_diagonal": True, "popsize": size, "verbose": -9, "maxiter": np.inf,
            "seed": np.nan, "randn": np.random.RandomState(seed % 2**32).randn,  # a stream of its own
        }  # fmt: skip
        searches.append(cma.CMAEvolutionStrategy(row.flatten().double().cpu().numpy(), settings.lr, options))
    best = code
    for step in range(settings.steps):
        asked = [np.stack(search.ask()) for search in searches]
        candidates = torch.from_numpy(np.concatenate(asked)).to(code).view(count * size, *code.shape[1:])
        seen = prior.project(candidates, settings.sigmas)
        activation, climbed = (each.float().view(count, size) for each in see(seen))
        value = climbed
        cost = torch.where(value.isfinite(), -value, torch.full_like(value, 1e30)).double().cpu().numpy()
        for search, asked_of, cost_of in zip(searches, asked, cost, strict=True):
            search.tell(list(asked_of), list(cost_of))
        first = value.nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax(1)
        rows = torch.arange(count, device=code.device)
        best = seen.view(count, size, *code.shape[1:])[rows, first]
        note(step, activation[rows, first], best)
    return best
