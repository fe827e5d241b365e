"""Priors by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dgn.errors import DgnError, nearest
from dgn.guest import guest
from dgn.images.fit import parse_size
from dgn.priors.base import Prior
from dgn.resources import generator_path, shipped_priors

__all__ = ["Prior", "generator_path", "load_prior", "shipped_priors"]


@guest
def load_prior(
    name: str | Path = "dgn",
    *,
    size: int | tuple[int, int] | None = None,
    space: str = "auto",
    channels: int = 3,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    module: nn.Module | None = None,
    trust: bool = False,
) -> Prior:
    """A prior by name.

    Args:
        name: ``"dgn"`` (the shipped generator), ``"pixel"``, ``"fourier"``, ``"maco"``, the name of a folder in
            ``pretrained/``, the path of a generator's checkpoint or its folder, or somebody else's generator:
            ``"deepsim"``, ``"biggan"``, ``"autoencoder"``, ``"pipeline"``, ``"exported"``, ``"module"`` (see
            :mod:`dgn.priors.hub`); of a diffusion pipeline, also its folder.
        size: height and width in pixels of the images, of pixels and spectra also ``(H, W)``; None for the prior's own
            (128).
        space: of a generator, ``"components"``, ``"code"``, ``"noise"`` or ``"auto"``.
        channels: of a pixel or Fourier prior's images.
        weights, options, module: of somebody else's generator: its file or folder, its loader's keywords, or itself.
        trust: whether a file of ``"exported"`` may be opened, which is a program that can do anything, or weights of a
            pipeline that are no safetensors.

    Raises:
        DgnError: unknown name, unreadable checkpoint, or a size that the generator can't make.
    """
    from dgn.priors.components import load_deep
    from dgn.priors.fourier import FourierPrior, MacoPrior
    from dgn.priors.hub import KINDS, load_hub
    from dgn.priors.others.pipeline.folder import is_pipeline
    from dgn.priors.pixel import PixelPrior

    if isinstance(name, nn.Module):
        raise DgnError(
            f"prior is a bare {type(name).__name__}, expected a name or a dgn.Prior: wrap it, "
            'dgn.load_prior("module", module=module, options={"code_shape": [...]})'
        )
    text = str(name)
    if text == "pixel":
        return PixelPrior(128 if size is None else size, channels)
    if text == "fourier":
        return FourierPrior(128 if size is None else size, channels)
    if text == "maco":
        return MacoPrior(128 if size is None else size, channels)
    if size is not None and not isinstance(size, int):
        height, width = parse_size(size)
        if height != width:
            raise DgnError(f"prior {text!r} makes square images: give its size as one number, not {height} x {width}")
        size = height
    if text in KINDS:
        return load_hub(text, weights, options or {}, size=size, module=module, trust=trust)
    path = generator_path(text)
    if path is not None and is_pipeline(path):
        return load_hub("pipeline", text, options or {}, size=size, module=None, trust=trust)
    if path is not None and path.is_dir() and not (path / "generator.safetensors").is_file():
        raise DgnError(f"no prior in {text!r}: no generator.safetensors, and no model_index.json of a pipeline")
    if path is not None:
        return load_deep(
            path, size, space, name="dgn" if text == "dgn" else (path if path.is_dir() else path.parent).name
        )
    known = ["dgn", "pixel", "fourier", "maco", *KINDS, *shipped_priors()]
    hint = nearest(text, known) or f"; expected one of {', '.join(known)}, or the path of a checkpoint or a pipeline"
    raise DgnError(f"no prior {text!r}{hint}")


CANVASES = ("pixel", "fourier", "maco")
"""Priors whose images can have any proportions: by default those of the network's input."""
