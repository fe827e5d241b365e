"""Priors by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dgn.errors import DgnError, nearest
from dgn.priors.base import Prior
from dgn.resources import resource

__all__ = ["Prior", "load_prior", "shipped_priors"]


def shipped_priors() -> list[str]:
    """Names of the generators that come with dgn; the first is what ``"dgn"`` stands for."""
    return sorted(path.parent.name for path in resource("pretrained").glob("*/generator.safetensors"))


def load_prior(
    name: str | Path = "dgn",
    *,
    size: int | None = None,
    space: str = "auto",
    channels: int = 3,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    module: nn.Module | None = None,
) -> Prior:
    """A prior by name.

    Args:
        name: ``"dgn"`` (the shipped generator), ``"pixel"``, ``"fourier"``, ``"maco"``, the name of a folder in
            ``pretrained/``, the path of a generator's checkpoint or its folder, or somebody else's generator:
            ``"deepsim"``, ``"biggan"``, ``"autoencoder"``, ``"exported"``, ``"module"`` (see :mod:`dgn.priors.hub`).
        size: height and width in pixels of the images; None for the prior's own (128).
        space: of a generator, ``"components"``, ``"code"`` or ``"auto"``.
        channels: of a pixel or Fourier prior's images.
        weights, options, module: of somebody else's generator: its file or folder, its loader's keywords, or itself.

    Raises:
        DgnError: unknown name, unreadable checkpoint, or a size that the generator can't make.
    """
    from dgn.priors.deep import load_deep
    from dgn.priors.fourier import FourierPrior, MacoPrior
    from dgn.priors.hub import KINDS, load_hub
    from dgn.priors.pixel import PixelPrior

    text = str(name)
    if text == "pixel":
        return PixelPrior(128 if size is None else size, channels)
    if text == "fourier":
        return FourierPrior(128 if size is None else size, channels)
    if text == "maco":
        return MacoPrior(128 if size is None else size, channels)
    if text in KINDS:
        return load_hub(text, weights, options or {}, size=size, module=module)
    shipped = shipped_priors()
    if text == "dgn":
        if not shipped:
            raise DgnError(f"no shipped generator in {str(resource('pretrained'))!r}; train one with: dgn train")
        return load_deep(resource("pretrained") / DEFAULT, size, space)
    if text in shipped:
        return load_deep(resource("pretrained") / text, size, space, name=text)
    if Path(text).exists():
        path = Path(text)
        return load_deep(path, size, space, name=(path if path.is_dir() else path.parent).name)
    known = ["dgn", "pixel", "fourier", "maco", *KINDS, *shipped]
    hint = nearest(text, known) or f"; expected one of {', '.join(known)}, or the path of a checkpoint"
    raise DgnError(f"no prior {text!r}{hint}")


DEFAULT = "spatial64"
"""The shipped generator that ``"dgn"`` stands for."""
