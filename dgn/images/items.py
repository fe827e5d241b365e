"""The image in an item of somebody's data set, whatever the item is: a picture, an array, a path, a row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from dgn.errors import DgnError
from dgn.images.fit import Sight, to_channels
from dgn.images.given import as_images
from dgn.images.reading import decode, flattened

KEYS = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp", "images", "picture", "photo", "x")
"""Under which an item's image is looked for first."""


def find_image(item: Any) -> Image.Image | Tensor | np.ndarray | Path | bytes:
    """The image in an item.

    Args:
        item: an image itself (Pillow's, a tensor, an array, a path, encoded bytes), a tuple or list that begins with
            one, or a mapping that holds one: ``{"image": ..., "label": ...}``, rows of Hugging Face's data sets with
            ``{"bytes": ..., "path": ...}`` too.

    Raises:
        DgnError: nothing of the kind.
    """
    if isinstance(item, (Image.Image, Tensor, np.ndarray, Path, bytes)):
        return item
    if isinstance(item, str):
        return Path(item)
    if isinstance(item, Mapping):
        if item.get("bytes") is not None:
            return bytes(item["bytes"])
        if "bytes" in item and item.get("path"):
            return Path(str(item["path"]))
        kinds = (Image.Image, Tensor, np.ndarray, Path, bytes, Mapping)
        named = [item[key] for key in KEYS if key in item and isinstance(item[key], (str, *kinds))]
        others = [value for value in item.values() if isinstance(value, kinds) and getattr(value, "ndim", 2) >= 2]
        if named or others:
            return find_image((named or others)[0])
        raise DgnError(f"no image among the keys {', '.join(map(repr, item))}: expected 'image'")
    if isinstance(item, (tuple, list)) and len(item):
        return find_image(item[0])
    raise DgnError(
        f"a {type(item).__name__} is no image: expected a picture of Pillow, an array or tensor, a path, (image, "
        "label), or {'image': ...}"
    )


def seen_item(item: Any, sight: Sight) -> Tensor:
    """An item's image as a network sees it, ``[channels, H, W]`` in [0, 1].

    Raises:
        DgnError: no image in it, one of other channels, or values outside of [0, 1].
        OSError: a file that can't be read.
    """
    image = find_image(item)
    if isinstance(image, (Path, bytes)):
        image = decode(image if isinstance(image, bytes) else image.read_bytes())
    if isinstance(image, Image.Image):
        return sight.tensor(flattened(image))
    pixels = as_images(image, "an item's image", sight.channels).float()
    if len(pixels) != 1:
        raise DgnError(f"an item holds {len(pixels)} images, expected one")
    return sight.tensors(to_channels(pixels, sight.channels))[0]
