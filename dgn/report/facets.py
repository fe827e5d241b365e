"""Facets beside each other: their real images and their means."""

from __future__ import annotations

from torch import Tensor

from dgn.analysis.facets import Facets, mean_images
from dgn.drawing.matrix import Matrix
from dgn.images.pictures import to_image


def facets_matrix(images: Tensor, facets: Facets, shown: int) -> Matrix:
    """A row a facet: up to ``shown`` of its images, those nearest its centre, and the mean; more columns may follow."""
    sizes = facets.labels.bincount().tolist()
    shown = min(shown, max(map(len, facets.nearest)))
    rows = [f"facet {number}: {size} images" for number, size in enumerate(sizes, 1)]
    matrix = Matrix(rows, [f"real {place}" for place in range(1, shown + 1)] + ["mean image"])
    for row, (members, mean) in enumerate(zip(facets.nearest, mean_images(images, facets), strict=True)):
        for column, image in enumerate([*images[members[:shown]], mean]):
            matrix.pictures[row, column] = to_image(image)
    return matrix
