"""Where an ascent begins: random codes, given ones, or the codes of given images."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from dgn.errors import DgnError
from dgn.priors.base import Prior
from dgn.settings import AscentSettings


def random_start(prior: Prior, seeds: Sequence[int], settings: AscentSettings) -> Tensor:
    """The prior's own start codes, moved away from (or towards) the mean code by ``settings.start_scale``."""
    code = prior.start(len(seeds), list(seeds))
    return code if settings.start_scale == 1 else prior.project(prior.decay(code, settings.start_scale))


def given_start(prior: Prior, start: Tensor, count: int) -> Tensor:
    """Start codes from images or codes; one for all samples, or one each.

    Args:
        prior: that will climb.
        start: ``[C, H, W]`` or ``[N, C, H, W]`` in [0, 1] (images, which the prior encodes), or codes of this prior.
        count: samples.

    Raises:
        DgnError: neither codes of this prior nor images; another number than 1 or ``count``; no encoder.
    """
    shape = tuple(prior.start(1).shape[1:])
    rows = start if start.dim() == len(shape) + 1 else start[None]
    is_image = rows.dim() == 4 and rows.shape[1] == prior.channels
    if tuple(rows.shape[1:]) == shape:
        code = rows.to(prior.start(1))
    elif is_image:
        images = rows.float().clamp(0, 1).to(prior.start(1).device)
        if tuple(images.shape[2:]) != prior.size:
            images = F.interpolate(images, size=prior.size, mode="bilinear", antialias=True, align_corners=False)
        code = prior.encode(images)
    elif (adopted := prior.adopt((start if start.dim() == 4 else start[None]).to(prior.start(1)))) is not None:
        code = adopted
    else:
        raise DgnError(
            f"a start {list(start.shape)} is neither images [N, {prior.channels}, H, W] nor codes of prior "
            f"{prior.name!r}, {list(shape)} each"
        )
    if len(code) not in (1, count):
        raise DgnError(f"{len(code)} start codes for {count} samples: give one for all, or one each")
    return prior.project(code.expand(count, *code.shape[1:]).clone())
