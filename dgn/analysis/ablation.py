"""Region ablation: what an image loses, for a unit, when a part of it is covered (Zeiler & Fergus 2014)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dgn.arguments import check_counts
from dgn.ascent.transforms import gaussian
from dgn.drawing.heat import overlay
from dgn.drawing.matrix import Cell
from dgn.drawing.show import Shown
from dgn.errors import DgnError, one_of
from dgn.guest import guest
from dgn.images.fit import Size, parse_size
from dgn.images.given import as_images
from dgn.images.items import seen_item
from dgn.images.pictures import to_image
from dgn.images.reading import read_image
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.network.scores import log_probabilities
from dgn.network.steady import steadiness
from dgn.units.read import Reader
from dgn.units.unit import Unit
from dgn.units.units import parse_units

FILLS = ("grey", "mean", "blur", "noise")
"""What a patch is covered with: mid-grey, the image's mean colour, the image blurred, seeded noise."""


@dataclass(repr=False)
class Ablation(Shown):
    """How one unit's activation falls when parts of an image are covered.

    Attributes:
        unit: the unit.
        activation: of the whole image.
        drops: ``[rows, columns]``, whole image's activation minus that with the patch at this place.
        heat: ``[H, W]`` at the network's input size: mean drop over all patches that cover a pixel.
        image: ``[C, H, W]``, the image as the network saw it.
        size, stride: of the patches in pixels of the input, ``(height, width)``.
        fill: what they were covered with.
    """

    unit: Unit
    activation: float
    drops: Tensor
    heat: Tensor
    image: Tensor
    size: tuple[int, int]
    stride: tuple[int, int]
    fill: str

    @property
    def title(self) -> str:
        size, stride = (" x ".join(map(str, pair)) for pair in (self.size, self.stride))
        return f"What {self.unit.name} loses: patches of {size} px, {stride} apart, filled with {self.fill}"

    def cells(self) -> list[Cell]:
        drop = f"largest drop {float(self.drops.max()):.1f}"
        return [
            Cell("image", self.unit.name, to_image(self.image), f"activation {self.activation:.1f}"),
            Cell("when covered", self.unit.name, overlay(self.image, self.heat), drop),
        ]

    def rows(self) -> list[dict[str, Any]]:
        """A row a patch: the pixels of its upper left corner, and the drop of the activation."""
        return [
            {"unit": self.unit.name, "top": y * self.stride[0], "left": x * self.stride[1], "drop": drop}
            for y, row in enumerate(self.drops.tolist()) for x, drop in enumerate(row)
        ]  # fmt: skip


@dataclass
class Curve:
    """Activation (and probability, of output units) against the share of the image that was changed.

    Attributes:
        kind: ``"deletion"`` or ``"insertion"``.
        shares, activations, probabilities: of each step; probabilities are empty for hidden units, and
            for outputs that are no scores of classes.
        area: under the curve of the activation, divided by the whole image's.
    """

    kind: str
    shares: list[float]
    activations: list[float]
    probabilities: list[float]
    area: float


@guest
def ablate(
    network: Network,
    image: Tensor | np.ndarray | Image.Image | str | Path,
    unit: str | int | Unit | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: str = "grey",
    seed: int = 0,
    batch: int = 16,
    note: Callable[[int, int], object] | None = None,
) -> Ablation:
    """Slide a patch over an image and see what the unit loses.

    Equal to Captum's ``Occlusion`` with the same windows, strides and baseline.

    Args:
        network: under study.
        image: ``[C, H, W]`` or ``[1, C, H, W]`` in [0, 1], or uint8; a picture of Pillow, or a file. It meets the
            network's input by its ``fit``.
        unit: see :func:`dgn.parse_units`; None: the class that the network chooses.
        size, stride: of the patch, in pixels of the network's input; None: see :func:`patch_sizes`.
        fill: one of :data:`FILLS`.
        seed: of the noise.
        batch: covered images a forward pass.
        note: called with (patches done, patches in all).

    Raises:
        DgnError: a patch larger than the image, a stride of 0 or beyond the patch, an unknown fill.
    """
    x = _seen(network, image)
    one = first_choice(network, x) if unit is None else parse_units([unit], network)[0]
    height, width = x.shape[1:]
    size, stride = patch_sizes(size, stride, (height, width))
    if size[0] > height or size[1] > width:
        raise DgnError(f"a patch of {size[0]} x {size[1]} px doesn't fit an image of {height} x {width}: give size=32")
    if stride[0] > size[0] or stride[1] > size[1]:
        raise DgnError(f"stride is {stride[0]} x {stride[1]} px, expected 1 to {min(size)}, the side of the patch")
    check_counts(batch=batch)
    cover = filling(x, fill, seed)
    tops = [i * stride[0] for i in range(math.ceil((height - size[0]) / stride[0]) + 1)]
    lefts = [i * stride[1] for i in range(math.ceil((width - size[1]) / stride[1]) + 1)]
    patches = [(..., slice(top, top + size[0]), slice(left, left + size[1])) for top in tops for left in lefts]
    batch = steadiness(network, one.layers).batch(batch)
    activations: list[float] = []
    for start in range(0, len(patches), batch):
        images = x.repeat(len(patches[start : start + batch]), 1, 1, 1)
        for covered, patch in zip(images, patches[start:], strict=False):
            covered[patch] = cover[patch]
        activations += _activations(network, one, images)
        if note:
            note(len(activations), len(patches))
    (whole,) = _activations(network, one, x[None])
    drops = whole - torch.tensor(activations)
    heat, count = torch.zeros(2, height, width, dtype=torch.float64)
    for patch, drop in zip(patches, drops.tolist(), strict=True):
        heat[patch] += drop
        count[patch] += 1
    heat = (heat / count.clamp(min=1)).float()
    return Ablation(one, whole, drops.view(len(tops), len(lefts)), heat, x.cpu(), size, stride, fill)


@torch.no_grad()
def first_choice(network: Network, image: torch.Tensor) -> Unit:
    """The output unit that an image ``[C, H, W]`` excites most."""
    return parse_units([int(network(image[None].to(network.device))[0].argmax())], network)[0]


def patch_sizes(size: Any, stride: Any, seen: Size) -> tuple[Size, Size]:
    """Height and width of the patches, and their strides, for an input of ``seen`` pixels.

    By default 48 and 16. For inputs below 96 pixels the patch keeps its proportion to 224 pixels; patches below 16
    pixels have a stride of a third of the patch.

    Raises:
        DgnError: neither a number of pixels nor two.
    """
    short = min(seen)
    patch = parse_size((48 if short >= 96 else max(1, short * 3 // 14)) if size is None else size)
    smaller = min(patch)
    return patch, parse_size((16 if smaller >= 16 else max(1, smaller // 3)) if stride is None else stride, "stride")


@guest
def curves(
    network: Network, found: Ablation, *, steps: int = 28, fill: str = "blur", seed: int = 0, batch: int = 16
) -> tuple[Curve, Curve]:
    """Deletion and insertion (Petsiuk et al. 2018, RISE): the hottest pixels are covered, or uncovered, first.

    Args:
        network, found: see :func:`ablate`.
        steps: parts into which the pixels are divided.
        fill, seed: what covers them.
        batch: images a forward pass.
    """
    check_counts(steps=steps)
    x = found.image.to(network.device)
    batch = steadiness(network, found.unit.layers).batch(batch)
    cover = filling(x, fill, seed)
    rank = torch.empty(x[0].numel(), dtype=torch.long)
    order = found.heat.flatten().argsort(descending=True, stable=True)
    rank[order] = torch.arange(len(order))
    share = ((rank.view_as(found.heat) + 0.5) / len(order)).to(x.device)
    shares = [i / steps for i in range(steps + 1)]
    result = []
    for kind, first, second in (("deletion", x, cover), ("insertion", cover, x)):
        activations: list[float] = []
        probabilities: list[float] = []
        for start in range(0, len(shares), batch):
            images = torch.stack([torch.where(share < s, second, first) for s in shares[start : start + batch]])
            activations += _activations(network, found.unit, images, probabilities)
        scale = found.activation if found.activation else 1.0
        area = float(torch.trapezoid(torch.tensor(activations), torch.tensor(shares))) / scale
        result.append(Curve(kind, shares, activations, probabilities, area))
    return result[0], result[1]


def filling(x: Tensor, fill: str, seed: int = 0) -> Tensor:
    """What covers a patch, as a whole image ``[C, H, W]``; see :data:`FILLS`."""
    if fill == "grey":
        return torch.full_like(x, 0.5)
    if fill == "mean":
        return x.mean((1, 2), keepdim=True).expand_as(x).clone()
    if fill == "blur":
        return gaussian(x[None], x.new_full((1,), x.shape[1] / 20))[0]
    one_of("fill", fill, FILLS)
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)


def _seen(network: Network, given: Tensor | np.ndarray | Image.Image | str | Path) -> Tensor:
    """The image at the network's input size, still in [0, 1]."""
    if isinstance(given, (str, Path)):
        given = read_image(Path(given), network.sight)
    if isinstance(given, Image.Image):
        given = seen_item(given, network.sight)
    image = as_images(given, "the image", network.channels)
    if len(image) != 1 or image.shape[1] != network.channels:
        raise DgnError(f"ablation takes one image [{network.channels}, H, W], got {list(given.shape)}")
    return network.sight.tensors(image.float().to(network.device))[0].clamp(0, 1)


@torch.no_grad()
def _activations(network: Network, unit: Unit, images: Tensor, probabilities: list[float] | None = None) -> list[float]:
    """A unit's activation of each image. An output unit's probabilities are added to a list, where outputs are scores
    of classes.
    """
    read = network.fast(unit.layers).features(images, unit.layers)
    if probabilities is not None and unit.class_index is not None and network.scores != "none":
        logs = log_probabilities(network.layout(OUTPUT).canonical(read[OUTPUT], len(images)), network.scores, 1)
        probabilities += logs[:, unit.class_index].exp().tolist()
    return Reader(network, [unit] * len(images))(read).tolist()
