"""BigGAN (Brock et al. 2019), as its package builds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgn.errors import DgnError, first_line
from dgn.files.storage import read_tensors
from dgn.priors.base import Prior, seeded_normal
from dgn.priors.others.module import ModulePrior


class _BigGanPrior(ModulePrior):
    """Code: the noise, then a class embedding of the same generator, both free to move."""

    def __init__(self, module: nn.Module, truncation: float, noise: int, embedding: int, **more: Any) -> None:
        self.truncation, self.noise, self.embedding = truncation, noise, embedding
        self._classes = module.embeddings.weight.detach().T  # type: ignore[union-attr,operator]
        super().__init__(module, (noise + embedding,), low=-1.0, bounds=(-2.0 * max(truncation, 0.5), 2.0), **more)

    def pixels(self, module: nn.Module, code: Tensor) -> Tensor:
        return module.generator(code, self.truncation)  # type: ignore[union-attr,operator]

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        """Truncated noise, and the mean class embedding with a little of one class, drawn by the seed."""
        seeds = range(n) if seeds is None else seeds
        noise = self.truncation * seeded_normal((self.noise,), seeds, self._device).clamp(-2, 2)
        classes = self._classes.to(self._device)
        place = torch.tensor([seed * 7919 % len(classes) for seed in seeds], device=self._device)
        return torch.cat([noise, (classes.mean(0) + 0.2 * (classes[place] - classes.mean(0)))], 1)

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        edge = 2 * self.truncation
        classes = self._classes.to(code.device)
        mean, spread = classes.mean(0), classes.std(0) * (3.0 if sigmas is None else sigmas)
        noise, embedding = code.split([self.noise, self.embedding], 1)
        return torch.cat(
            [noise.clamp(-edge, edge), torch.minimum(torch.maximum(embedding, mean - spread), mean + spread)], 1
        )


def load_biggan(path: Path, *, truncation: float = 0.4, size: int | None = None) -> Prior:
    """BigGAN (Brock et al. 2019) as the package ``pytorch-pretrained-biggan`` builds it.

    Args:
        path: a folder with ``config.json`` and ``pytorch_model.bin`` (or ``model.safetensors``), of biggan-deep-128,
            -256 or -512.
        truncation: of the noise, above 0 up to 1.
        size: pixels of the images; None for the generator's own.
    """
    if not 0 < truncation <= 1:
        raise DgnError(f"truncation is {truncation}, expected above 0, at most 1")
    weights = next(
        (path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()), None
    )
    if weights is None or not (path / "config.json").is_file():
        raise DgnError(
            f"no BigGAN in {str(path)!r}; put config.json and pytorch_model.bin of biggan-deep-128 "
            "(s3.amazonaws.com/models.huggingface.co/biggan) there and give prior.NAME.weights=FOLDER"
        )
    try:
        from pytorch_pretrained_biggan import BigGAN, BigGANConfig
    except ImportError as error:
        raise DgnError("BigGAN needs its package; run: pip install pytorch-pretrained-biggan") from error
    try:
        config = BigGANConfig.from_json_file(str(path / "config.json"))
        module = BigGAN(config)
    except Exception as error:
        raise DgnError(f"{str(path / 'config.json')!r} describes no BigGAN: {first_line(error)}") from error
    try:
        found = module.load_state_dict(read_tensors(weights), strict=False)
    except RuntimeError as error:
        raise DgnError(
            f"the weights {str(weights)!r} don't fit their config.json: {str(error).splitlines()[-1]}"
        ) from error
    if found.missing_keys:
        raise DgnError(f"{str(weights)!r} is no BigGAN of its config.json: it lacks {found.missing_keys[0]!r}")
    return _BigGanPrior(
        module, truncation, config.z_dim, config.z_dim, name="biggan", size=size,
        family="biggan",
    )  # fmt: skip
