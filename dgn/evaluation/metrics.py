"""Numbers that say how good images are: distances in a judge's feature space, KID, MS-SSIM, and their intervals.

Feature arguments are float tensors ``[N, D]``, one row an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A figure with the lower and the upper end of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """``1 - cos`` between all rows: ``[N, M]`` from ``[N, D]`` and ``[M, D]``, from 0 to 2."""
    x, y = torch.nn.functional.normalize(x.double(), dim=1), torch.nn.functional.normalize(y.double(), dim=1)
    return (1 - x @ y.T).clamp(min=0)


def nearest_distance(x: Tensor, real: Tensor, *, skip: Tensor | None = None) -> Tensor:
    """Cosine distance of each row to the nearest real image, ``[N]``.

    Args:
        x, real: features ``[N, D]``, ``[M, D]``.
        skip: ``[N]``, for rows that are themselves among ``real``: the index that does not count (-1: none).
    """
    distance = cosine_distance(x, real)
    if skip is not None:
        rows = (skip >= 0).nonzero()[:, 0]
        distance[rows, skip[rows]] = torch.inf
    return distance.amin(1)


def identified(x: Tensor, own: Sequence[int], real: Tensor, examples: Tensor, *, skip: Tensor | None = None) -> Tensor:
    """Which rows are more like their own unit's examples than like those of any other unit: 1 or 0, ``[N]``.

    Like is the mean cosine over a unit's examples, of features less their mean over all real images (what all images
    share says nothing of a unit).

    Args:
        x: features ``[N, D]`` of what units want to see.
        own: of each row, its unit.
        real: features ``[M, D]``.
        examples: ``[U, K]``, each unit's best among ``real``.
        skip: ``[N]``, for rows that are themselves among ``real``: the index that does not count as an example.
    """
    mean = real.double().mean(0)
    alike = 1 - cosine_distance(x.double() - mean, real.double() - mean)[:, examples]
    if skip is not None:
        alike[examples[None] == skip[:, None, None]] = torch.nan
    return (alike.nanmean(2).nan_to_num(-torch.inf).argmax(1) == torch.tensor(own)).double()


def pair_distance(x: Tensor) -> Tensor:
    """Cosine distance of every pair of rows, ``[N (N - 1) / 2]``."""
    first, second = torch.triu_indices(len(x), len(x), 1)
    return cosine_distance(x, x)[first, second]


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    from sklearn.metrics.pairwise import polynomial_kernel

    return torch.from_numpy(polynomial_kernel(x.double().numpy(), y.double().numpy(), degree=3, coef0=1))


def kid(
    x: Tensor,
    y: Tensor,
    groups: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
) -> Interval:
    """Kernel inception distance between two sets of features, unbiased, with the cubic kernel ``(x.y / D + 1)^3``.

    Binkowski et al. 2018 (arXiv 1801.01401, eq. 4). 0 in expectation for two samples of one distribution; it can be
    negative. The interval is bootstrapped over the images of both sets; an image drawn twice is not paired with itself.

    Args:
        x, y: ``[N, D]``, ``[M, D]``, at least two rows each.
        groups: of each row of x (its unit): groups are drawn, then rows within them. None: rows are drawn.
        resamples: of the bootstrap.
    """
    kxx, kyy, kxy = _cubic(x, x), _cubic(y, y), _cubic(x, y)
    kxx.fill_diagonal_(0)
    kyy.fill_diagonal_(0)

    def estimate(w: Tensor, v: Tensor) -> Tensor:
        """``[R]`` from how often each image was drawn, ``[R, N]`` and ``[R, M]``."""
        within_x = ((w @ kxx) * w).sum(1) / (w.sum(1).square() - w.square().sum(1))
        within_y = ((v @ kyy) * v).sum(1) / (v.sum(1).square() - v.square().sum(1))
        return within_x + within_y - 2 * ((w @ kxy) * v).sum(1) / (w.sum(1) * v.sum(1))

    one = [torch.ones(1, len(rows), dtype=torch.float64) for rows in (x, y)]
    generator = torch.Generator().manual_seed(0)
    found = estimate(_drawn(groups or range(len(x)), resamples, generator), _counts(len(y), resamples, generator))
    found = found[found.isfinite()]  # of very few images, a resample may hold one alone, which has no pairs
    return Interval(float(estimate(*one)), *(_ends(found) if len(found) else (torch.nan, torch.nan)))


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity of pairs of images in [0, 1], ``[N]`` from ``[N, C, H, W]`` twice.

    Wang et al. 2003. Images under 161 px have fewer than its five scales; the weights of those that are left are
    scaled up to sum to one.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as similarity

    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    scales = next((n for n in range(5, 0, -1) if min(x.shape[2:]) // 2 ** (n - 1) > 10), 1)
    betas = tuple(weight / sum(weights[:scales]) for weight in weights[:scales])
    pairs = zip(x.split(1), y.split(1), strict=True)
    values = [similarity(a, b, data_range=1.0, betas=betas, normalize="relu") for a, b in pairs]
    return torch.stack([torch.as_tensor(value) for value in values])


def code_ranks(codes: Tensor, again: Tensor) -> Tensor:
    """Code-cycle rank, ``[N]``: place of a code among all when sorted by distance to its own re-encoding; 1 is best."""
    distance = torch.cdist(again.flatten(1).double(), codes.flatten(1).double())
    return (distance < distance.diagonal()[:, None]).sum(1) + 1


def mean_interval(values: Tensor, groups: Sequence[str] | None = None, *, resamples: int = 2000) -> Interval:
    """Mean with its bootstrapped confidence interval.

    Args:
        values: ``[N]``; entries that are not finite are left out.
        groups: of each value (its unit): groups are drawn, then values within them, so that several seeds of one unit
            don't count as so many units.
        resamples: of the bootstrap.
    """
    kept = values.double().isfinite()
    if not bool(kept.any()):
        return Interval(*(torch.nan,) * 3)
    names = [name for name, keep in zip(groups or range(len(values)), kept.tolist(), strict=True) if keep]
    values = values.double()[kept]
    weights = _drawn(names, resamples, torch.Generator().manual_seed(0))
    return Interval(float(values.mean()), *_ends((weights @ values) / weights.sum(1)))


def _drawn(names: Sequence[object], resamples: int, generator: torch.Generator) -> Tensor:
    """How often each value was drawn in each resample, ``[resamples, N]``: first groups, then values within them."""
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    group = torch.tensor([order[name] for name in names])
    drawn = _counts(len(order), resamples, generator)
    inner = torch.zeros(resamples, len(group), dtype=torch.float64)
    for index in range(len(order)):
        rows = (group == index).nonzero()[:, 0]
        inner[:, rows] = _counts(len(rows), resamples, generator)
    return drawn[:, group] * inner


def _counts(rows: int, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each of ``rows`` was drawn in each resample, ``[resamples, rows]``."""
    draws = torch.randint(rows, (resamples, rows), generator=generator)
    ones = torch.ones(resamples, rows, dtype=torch.float64)
    return torch.zeros(resamples, rows, dtype=torch.float64).scatter_add_(1, draws, ones)


def _ends(estimates: Tensor) -> tuple[float, float]:
    """Between which 95 % of them lie."""
    edge = (1 - 0.95) / 2
    low, high = torch.quantile(estimates.double(), torch.tensor([edge, 1 - edge], dtype=torch.float64)).tolist()
    return low, high
