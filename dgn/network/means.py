"""What a network makes of images as a whole: the spatial means of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dgn.images.fit import to_channels
from dgn.images.given import as_images
from dgn.network.network import Network
from dgn.network.steady import steadiness

BATCH = 32
"""Images a forward pass, where a row does not depend on the others."""


@torch.no_grad()
def layer_means(
    network: Network, images: Tensor, layers: Sequence[str], note: Callable[[int], object] | None = None
) -> dict[str, Tensor]:
    """Each layer's spatial mean for each image, ``[N, D]``, float32 on the CPU.

    Args:
        network, layers: what is read.
        images: ``[N, C, H, W]`` in [0, 1], any size, grey or in colour.
        note: hears of each batch.
    """
    images = to_channels(as_images(images, "the images", network.channels).float(), network.channels)
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for piece in images.split(steadiness(network, layers).batch(BATCH)):
        for layer, maps in network.maps(piece.to(network.device), layers).items():
            maps = maps.float()
            parts[layer].append((maps.flatten(2).mean(2) if maps.dim() > 2 else maps).cpu())
        if note:
            note(len(piece))
    return {layer: torch.cat(means) for layer, means in parts.items()}
