"""Priors by name."""

from __future__ import annotations

from pathlib import Path

from dgn.errors import DgnError, nearest
from dgn.priors.base import Prior
from dgn.resources import resource

__all__ = ["Prior", "load_prior", "shipped_priors"]


def shipped_priors() -> list[str]:
    """Names of the generators that come with dgn; the first is what ``"dgn"`` stands for."""
    return sorted(path.parent.name for path in resource("pretrained").glob("*/generator.safetensors"))


def load_prior(name: str | Path = "dgn", *, size: int | None = None, space: str = "auto", channels: int = 3) -> Prior:
    """A prior by name.

    Args:
        name: ``"dgn"`` (the shipped generator), ``"pixel"``, the name of a folder in ``pretrained/``, or the path of a
            generator's checkpoint or its folder.
        size: height and width in pixels of the images; None for the prior's own (128).
        space: of a generator, ``"components"``, ``"code"`` or ``"auto"``.
        channels: of a pixel prior's images.

    Raises:
        DgnError: unknown name, unreadable checkpoint, or a size that the generator can't make.
    """
    from dgn.priors.deep import load_deep
    from dgn.priors.pixel import PixelPrior

    text = str(name)
    if text == "pixel":
        return PixelPrior(128 if size is None else size, channels)
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
    known = ["dgn", "pixel", *shipped]
    hint = nearest(text, known) or f"; expected one of {', '.join(known)}, or the path of a checkpoint"
    raise DgnError(f"no prior {text!r}{hint}")


DEFAULT = "spatial64"
"""The shipped generator that ``"dgn"`` stands for."""
