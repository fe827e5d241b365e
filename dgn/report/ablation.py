"""Ablations of several images: their table, their overview and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dgn.analysis.ablation import Ablation, Curve
from dgn.drawing.charts import Lines
from dgn.drawing.heat import share_scale
from dgn.drawing.letters import number
from dgn.drawing.matrix import Matrix
from dgn.images.pictures import to_image

Ablated = tuple[str, Ablation, tuple[Curve, Curve] | None]
"""An image's name, its ablation, and its curves of deletion and insertion."""

COLUMNS = ("image", "unit", "activation", "largest_drop", "top", "left", "deletion_area", "insertion_area")


def results(images: Sequence[Ablated]) -> list[dict[str, Any]]:
    """The table: a row an image."""
    rows = []
    for name, one, both in images:
        row, column = divmod(int(one.drops.argmax()), one.drops.shape[1])
        areas = ("", "") if both is None else (f"{curve.area:.5g}" for curve in both)
        values = (
            name, one.unit.name, f"{one.activation:.6g}", f"{float(one.drops.max()):.6g}", row * one.stride[0],
            column * one.stride[1], *areas,
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def overview(images: Sequence[Ablated], most: int = 7) -> Matrix:
    """Images above their heat maps, whose colours have one scale."""
    shown = [one for _, one, _ in images[:most]]
    matrix = Matrix(["image", "drop when covered"], [one.unit.name for one in shown])
    for column, one in enumerate(shown):
        matrix.pictures[0, column] = to_image(one.image)
        matrix.captions[0, column] = f"activation {number(one.activation)}"
        matrix.captions[1, column] = f"largest drop {number(float(one.drops.max()))}"
    return share_scale(matrix, 1, [(one.image, one.heat) for one in shown])


def curve_panels(images: Sequence[Ablated], most: int = 6) -> list[Lines]:
    """A panel an image: activation against the share of the pixels that was covered, or uncovered."""
    panels = []
    for name, one, both in images[:most]:
        if both is None:
            continue
        panel = Lines(f"{one.unit.name} in {name}", "share of the pixels", "activation")
        for curve in both:
            panel.curves[curve.kind] = (curve.shares, curve.activations)
        panels.append(panel)
    return panels
