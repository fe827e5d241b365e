"""Multifaceted starts: the different kinds of images that one unit answers to (Nguyen et al. 2016b, 1602.03616)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dgn.analysis.examples import find_examples
from dgn.analysis.results import UnitExamples
from dgn.analysis.squares import Squares
from dgn.arguments import check_counts
from dgn.drawing.matrix import Cell
from dgn.drawing.show import Shown
from dgn.errors import DgnError
from dgn.guest import guest
from dgn.images.fit import resized
from dgn.images.pictures import to_image
from dgn.network.layers import feature_layer
from dgn.network.means import layer_means
from dgn.network.network import Network
from dgn.priors.base import Prior
from dgn.units.unit import Unit
from dgn.units.units import parse_units


@dataclass(repr=False)
class Facets(Shown):
    """Clusters of a unit's top-activating images.

    Attributes:
        labels: ``[N]``, the facet of each image; facets are numbered by falling size.
        nearest: of each facet, the images nearest to its centre, nearest first (indices into the N).
        points: ``[N, P]``, the space in which they were clustered (principal components, or t-SNE).
        silhouette: mean silhouette of the clustering, -1 to 1; nan for a single facet.
        scores: the silhouette of each number of facets that was tried.
        images: ``[N, C, H, W]``, what was clustered; None where only features were.
        unit: whose they are.
        names: of the images in the data set.
    """

    labels: Tensor
    nearest: list[list[int]]
    points: Tensor
    silhouette: float
    scores: dict[int, float]
    images: Tensor | None = None
    unit: Unit | None = None
    names: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of facets."""
        return len(self.nearest)

    @property
    def title(self) -> str:
        whose = f" of {self.unit.name}" if self.unit else ""
        return f"{self.count} facets{whose}: the images nearest to each centre, and their mean"

    def cells(self) -> list[Cell]:
        if self.images is None:
            raise DgnError("these facets were made of features alone: there are no images to show")
        sizes, means = torch.bincount(self.labels).tolist(), mean_images(self.images, self)
        cells = []
        for facet, (members, size, mean) in enumerate(zip(self.nearest, sizes, means, strict=True), 1):
            row = f"facet {facet}: {size} image{'s' if size > 1 else ''}"
            cells += [Cell(f"{i}", row, to_image(self.images[at]), "") for i, at in enumerate(members[:SHOWN], 1)]
            cells.append(Cell("mean", row, to_image(mean), ""))
        return cells

    def rows(self) -> list[dict[str, Any]]:
        """A row an image, best first: its facet (from 1 on), its place by nearness to the facet's centre (from 1 on; 0:
        it does not stand for it), and its name."""
        places = {index: place for members in self.nearest for place, index in enumerate(members, 1)}
        names = self.names or [""] * len(self.labels)
        return [
            {"facet": facet + 1, "place": places.get(index, 0), "name": name}
            for index, (facet, name) in enumerate(zip(self.labels.tolist(), names, strict=True))
        ]


SHOWN = 5
"""Images of a facet in its grid."""


@guest
def find_facets(
    network: Network,
    unit: str | int | Unit,
    data: str | Path | Sequence[Any] | Dataset[Any] | Squares,
    *,
    facets: int | None = None,
    most: int = 6,
    examples: int = 100,
    members: int = 15,
    components: int = 50,
    tsne: bool = False,
    layer: str | None = None,
    seed: int = 0,
    batch: int = 32,
    workers: int = 0,
) -> Facets:
    """The kinds of images in a data set that one unit answers to: its best examples, clustered.

    Args:
        network, unit: see :func:`dgn.parse_units`.
        data, batch, workers: see :func:`dgn.find_examples`.
        facets, most, members, components, tsne, seed: see :func:`cluster`.
        examples: of the best images, how many are clustered.
        layer: in whose features; None: the classifier's penultimate ones.

    Raises:
        DgnError: see :func:`dgn.find_examples`; fewer images than facets.
    """
    squares = data if isinstance(data, Squares) else Squares(data, network.sight)
    kept = min(examples, len(squares))
    check_facets(kept, facets, members=members, components=components, most=most)
    found = find_examples(
        network, parse_units([unit], network), squares, k=kept, batch=batch, workers=workers, boxes=False
    )
    return facets_of(
        network, found.units[0], squares, layer=layer, facets=facets, most=most, members=members, components=components,
        tsne=tsne, seed=seed,
    )  # fmt: skip


def facets_of(
    network: Network,
    found: UnitExamples,
    data: Squares,
    *,
    layer: str | None = None,
    facets: int | None = None,
    **how: Any,
) -> Facets:
    """The best examples of a unit, clustered; see :func:`late_features` and :func:`cluster`.

    Raises:
        DgnError: the unit is a number on none of them, or they are fewer than the facets.
    """
    found.check()
    images = data.tensors([example.index for example in found.top])
    clusters = cluster(late_features(network, images, layer), facets, **how)
    return replace(clusters, images=images, unit=found.unit, names=[example.name for example in found.top])


@guest
def cluster(
    features: Tensor,
    count: int | None = None,
    *,
    members: int = 15,
    components: int = 50,
    tsne: bool = False,
    most: int = 6,
    seed: int = 0,
) -> Facets:
    """PCA, optionally t-SNE, then k-means.

    Args:
        features: ``[N, D]``, one row an image.
        count: number of facets; None: the one from 2 to ``most`` with the highest mean silhouette.
        members: images nearest to a facet's centre that stand for it (m, 15 in the paper).
        components: principal components kept (50 in the paper).
        tsne: cluster in a t-SNE map of two dimensions, as the paper does, instead of in the components.
        most, seed: see above.

    Raises:
        DgnError: fewer images than facets, or none.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    images = len(features)
    check_facets(images, count, members=members, components=components, most=most)
    x = features.double().numpy()
    keep = min(components, images - 1, x.shape[1])
    points = PCA(keep, random_state=seed).fit_transform(x) if keep >= 1 else x  # of one image there is none
    if tsne and images >= 5:
        from sklearn.manifold import TSNE

        init = "pca" if points.shape[1] >= 2 else "random"
        points = TSNE(2, perplexity=min(30.0, (images - 1) / 3), init=init, random_state=seed).fit_transform(points)
    scores: dict[int, float] = {}
    fits = {}
    choices = [count] if count is not None else list(range(2, min(most, images - 1) + 1)) or [1]
    for k in choices:
        fits[k] = KMeans(k, n_init=10, random_state=seed).fit(points)
        distinct = len(set(fits[k].labels_.tolist()))
        scores[k] = float(silhouette_score(points, fits[k].labels_)) if 2 <= distinct < images else float("nan")
    best = max(choices, key=lambda k: -2.0 if scores[k] != scores[k] else scores[k])
    labels = torch.from_numpy(fits[best].labels_).long()
    centres = torch.from_numpy(fits[best].cluster_centers_)
    sizes = torch.bincount(labels, minlength=best)
    order = [facet for facet in sizes.argsort(descending=True, stable=True).tolist() if sizes[facet] > 0]
    where = torch.tensor(points)
    nearest, renamed = [], torch.empty_like(labels)
    for number, facet in enumerate(order):
        inside = (labels == facet).nonzero()[:, 0]
        renamed[inside] = number
        distance = (where[inside] - centres[facet]).norm(dim=1)
        nearest.append(inside[distance.argsort(stable=True)[:members]].tolist())
    return Facets(renamed, nearest, where.float(), scores[best], scores)


def check_facets(
    images: int, count: int | None = None, *, members: int = 15, components: int = 50, most: int = 6
) -> None:
    """Raise :class:`DgnError` where so many images can't make these facets; see :func:`cluster`."""
    check_counts(facets=count, members=members, components=components, most=most)
    if images < max(1, count or 1):
        raise DgnError(f"{images} example images can't make {count or 1} facets: give more images, or fewer facets")


@guest
def late_features(network: Network, images: Tensor, layer: str | None = None) -> Tensor:
    """A late layer's spatial mean for each image, ``[N, D]``; by default the classifier's penultimate features."""
    layer = layer or feature_layer(network)
    return layer_means(network, images, [layer])[layer]


def mean_images(images: Tensor, facets: Facets) -> Tensor:
    """The mean of each facet's nearest images, ``[F, C, H, W]``."""
    return torch.stack([images[rows].mean(0) for rows in facets.nearest])


@guest
@torch.no_grad()
def mean_codes(prior: Prior, images: Tensor, facets: Facets) -> Tensor:
    """The mean code of each facet's nearest images, ``[F, ...]``: the start of its ascent in a generator's code space.

    Args:
        prior: with an encoder; for pixels, codes are images and this is :func:`mean_images`.
        images: ``[N, C, H, W]`` in [0, 1], any size.
        facets: of these images.
    """
    device = prior.start(1).device
    starts = []
    for rows in facets.nearest:
        shown = resized(images[rows].to(device), prior.size)
        starts.append(prior.mean_code(shown))
    return prior.project(torch.stack(starts))
