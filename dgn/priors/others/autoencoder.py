"""The autoencoders of diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgn.errors import DgnError, first_line
from dgn.priors.base import Prior
from dgn.priors.others.module import ModulePrior


def load_autoencoder(path: Path, *, size: int | None = None) -> Prior:
    """The decoder of a diffusers autoencoder (``AutoencoderKL``, ``AutoencoderTiny``, ``VQModel``, ...).

    Args:
        path: the autoencoder's folder, with ``config.json`` and its ``.safetensors`` weights.
        size: pixels of the images, a multiple of a latent cell's; None for 128.
    """
    if not (path / "config.json").is_file():
        raise DgnError(
            f"no diffusers autoencoder in {str(path)!r}; download one (for example stabilityai/sd-vae-ft-mse) into a "
            "folder and give prior.NAME.weights=FOLDER"
        )
    try:
        import diffusers
    except ImportError as error:
        raise DgnError("an autoencoder needs diffusers; run: pip install diffusers") from error
    try:
        kind = json.loads((path / "config.json").read_text()).get("_class_name", "AutoencoderKL")
    except (ValueError, AttributeError):
        raise DgnError(f"{str(path / 'config.json')!r} is no configuration of diffusers") from None
    if not str(kind).startswith(("Autoencoder", "VQModel", "ConsistencyDecoderVAE")) or not hasattr(diffusers, kind):
        raise DgnError(f"{str(path)!r} holds a {kind!r}, not an autoencoder that diffusers knows")
    try:
        model = getattr(diffusers, kind).from_pretrained(str(path), use_safetensors=True, local_files_only=True)
    except Exception as error:
        raise DgnError(f"diffusers can't load {str(path)!r}: {first_line(error)}") from error
    model = model.eval().requires_grad_(False)
    size = size or 128
    with torch.no_grad():
        latent = _latent(model.encode(torch.zeros(1, 3, size, size)))
        spread = 1.0 / float(getattr(model.config, "scaling_factor", None) or 1.0)

    def encode(images: Tensor) -> Tensor:
        return _latent(model.encode(images.float() * 2 - 1))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, code: Tensor) -> Tensor:
            return self.model.decode(code).sample  # type: ignore[no-any-return]

    edge = 4 * spread
    return ModulePrior(
        Decoder(), latent.shape[1:], name="autoencoder", low=-1.0, bounds=(-edge, edge), spread=0.3 * spread,
        encode=encode, size=size,
        ascent={"lr": 0.05 * spread},
    )  # fmt: skip


def _latent(output: Any) -> Tensor:
    if hasattr(output, "latent_dist"):
        return output.latent_dist.mode()  # type: ignore[no-any-return]
    return output.latents if hasattr(output, "latents") else output[0]  # type: ignore[no-any-return]
