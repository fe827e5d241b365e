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
    like = prior.start(1)
    shape = tuple(like.shape[1:])
    given = start.to(like)
    if tuple(given.shape) == shape or tuple(given.shape[1:]) == shape:
        code = given if given.dim() == like.dim() else given[None]
    elif given.dim() in (3, 4) and given.shape[-3] == prior.channels:
        images = (given if given.dim() == 4 else given[None]).clamp(0, 1)
        if tuple(images.shape[2:]) != prior.size:
            images = F.interpolate(images, size=prior.size, mode="bilinear", antialias=True, align_corners=False)
        code = prior.encode(images)
    elif (adopted := prior.adopt(given if given.dim() == 4 else given[None])) is not None:
        code = adopted
    else:
        raise DgnError(
            f"a start {list(start.shape)} is neither images [N, {prior.channels}, H, W] nor codes of prior "
            f"{prior.name!r}, {list(shape)} each"
        )
    if len(code) not in (1, count):
        raise DgnError(f"{len(code)} start codes for {count} samples: give one for all, or one each")
    return prior.project(code.expand(count, *code.shape[1:]).clone())
