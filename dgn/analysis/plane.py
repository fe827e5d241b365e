"""Activations in a plane: which of them are taken, how they are laid out, and in which cells of a grid they lie."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from dgn.errors import DgnError, one_of
from dgn.guest import quiet
from dgn.network.layout.layout import Layout

METHODS = {"auto": "UMAP if it is installed, else t-SNE", "umap": "UMAP", "tsne": "t-SNE", "pca": "PCA"}

OUTER, MARGIN = 0.01, 0.1
"""Of the activations the share on each side that may lie beyond the plane's edge, where they are put, and how far
beyond the others that edge is, as a share of their width: as in the paper's code (Lucid)."""


def find_method(name: str) -> str:
    """The method that a name means.

    Raises:
        DgnError: there is none, or its package is missing.
    """
    installed = find_spec("umap") is not None
    if one_of("method", name, METHODS) == "umap" and not installed:
        raise DgnError("method=umap needs umap-learn: pip install umap-learn; or give method=tsne")
    return name if name != "auto" else "umap" if installed else "tsne"


def taken(maps: Tensor, layout: Layout, draws: np.ndarray | None) -> Tensor:
    """One vector an image, ``[N, C]``.

    Args:
        maps: ``[N, C, *places]``, in the layout's own size.
        layout: of the layer.
        draws: ``[N]`` from 0 to 1, which choose a place: of a grid one that is not at its edge, if there are any. None:
            the mean over all places.
    """
    if maps.dim() == 2 or draws is None:
        return maps if maps.dim() == 2 else maps.flatten(2).mean(2)
    cells, grid = layout.cells(maps), layout.grid
    flat = maps.flatten(2) if cells is None else cells
    places = torch.arange(flat.shape[2], device=maps.device)
    if grid is not None:
        across, down = (slice(1, -1) if side > 2 else slice(None) for side in (grid.width, grid.height))
        places = places.view(grid.height, grid.width)[down, across].flatten()
    chosen = places[(torch.from_numpy(draws) * len(places)).long().to(maps.device)]
    return flat[torch.arange(len(flat), device=maps.device), :, chosen]


def lay_out(vectors: Tensor, method: str, seed: int) -> Tensor:
    """Activations ``[N, C]`` in the plane ``[N, 2]``, from 0 to 1; the same for the same seed, whatever the threads."""
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    x = torch.nn.functional.normalize(vectors.double(), dim=1).numpy()  # distances then go with the cosine
    with quiet(), threadpool_limits(1):  # sums in one order
        points = PCA(min(50, *x.shape), random_state=seed).fit_transform(x)
        if method == "umap":
            from umap import UMAP

            points = UMAP(n_neighbors=min(20, len(x) - 1), min_dist=0.01, random_state=seed, n_jobs=1).fit_transform(x)
        elif method == "tsne":
            from sklearn.manifold import TSNE

            points = TSNE(2, perplexity=min(30.0, (len(x) - 1) / 3), init="pca", random_state=seed).fit_transform(
                points
            )
    points = np.asarray(points[:, :2], np.float64)
    low, high = np.quantile(points, [OUTER, 1 - OUTER], axis=0)
    beyond = MARGIN * (high - low)
    points = points.clip(low - beyond, high + beyond)
    points -= points.min(0)
    return torch.from_numpy(points / np.maximum(points.max(0), 1e-12)).float()


def gathered(plane: Tensor, grid: int) -> dict[tuple[int, int], list[int]]:
    """Which activations lie in each cell, by (row, column), row by row."""
    columns, rows = (plane * grid).long().clamp(max=grid - 1).T.tolist()
    found: dict[tuple[int, int], list[int]] = {}
    for index, place in enumerate(zip(rows, columns, strict=True)):
        found.setdefault(place, []).append(index)
    return dict(sorted(found.items()))


def whitened(vectors: Tensor, means: Tensor) -> Tensor:
    """Means ``[M, C]`` times the inverse second moments of the vectors ``[N, C]``, shrunken as Ledoit and Wolf 2004."""
    from sklearn.covariance import ledoit_wolf

    moments, _ = ledoit_wolf(vectors.double().numpy(), assume_centered=True)
    return torch.from_numpy(means.double().numpy() @ np.linalg.pinv(moments, hermitian=True)).float()
