"""What a generator is trained on: pixels, features, the re-encoded code, and an adversary on the encoder's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def feature_distance(fake: Sequence[Tensor], real: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean absolute difference, each channel divided by its standard deviation.

    The comparator loss of Dosovitskiy & Brox 2016 (arXiv 1602.02644, eq. 4) with L1 and per-channel scales.
    """
    parts = [((a.float() - b.float()) / s).abs().mean() for a, b, s in zip(fake, real, scales, strict=True)]
    return torch.stack(parts).sum()


def blend(code: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Codes ``[N, ...]`` whose first ``count`` rows are ``cos(t) a + sin(t) b`` of their own and the next row's.

    ``t`` is uniform from pi/8 to 3 pi/8. A sum of this kind keeps the covariance of normalised codes.
    """
    if not count:
        return code
    angle = torch.pi * (0.125 + 0.25 * torch.rand(count, generator=generator, device=code.device))
    angle = angle.view(-1, *[1] * (code.dim() - 1))
    mixed = code[:count] * angle.cos() + code.roll(-1, 0)[:count] * angle.sin()
    return torch.cat([mixed, code[count:]])


class Head(nn.Module):
    """One small discriminator over one frozen feature map (Sauer et al. 2021, arXiv 2111.01007)."""

    def __init__(self, channels: int, downsamplings: int, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 1), nn.LeakyReLU(0.2)]
        for _ in range(downsamplings):
            layers += [nn.Conv2d(width, width, 4, 2, 1), nn.GroupNorm(8, width), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, features: Tensor) -> Tensor:
        return self.body(features)  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """A head over each of the encoder's tapped maps; maps larger than 8 cells are halved until they are not."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(shape[0], max(0, (shape[1] - 1).bit_length() - 3)) for shape in shapes)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [head(feature) for head, feature in zip(self.heads, features, strict=True)]


def hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the discriminator, summed over heads."""
    parts = [F.relu(1 - a.float()).mean() + F.relu(1 + b.float()).mean() for a, b in zip(real, fake, strict=True)]
    return torch.stack(parts).sum()


def hinge_generator(fake: Sequence[Tensor]) -> Tensor:
    """The generator's side of the hinge loss, summed over heads."""
    return torch.stack([-score.float().mean() for score in fake]).sum()
