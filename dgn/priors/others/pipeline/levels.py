"""How a pipeline's scheduler measures noise, and what its network's output then says of the image without it.

Each function takes ``signal * x + noise * e`` (``x`` in the pipeline's own scale, ``e`` N(0, 1) in each element) and
gives ``E[x | ...]``. The network was trained at some levels of noise: what lies beyond the last is taken for the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgn.errors import DgnError

Predict = Callable[[Tensor, float], Tensor]
"""The network: its own input ``[n, C, h, w]`` and its own time -> its output, of the same shape."""
Denoise = Callable[[Predict, Tensor, float, float], Tensor]
"""``(predict, mixed, signal, noise)`` -> ``E[x | mixed]``."""


def denoiser(scheduler: Any) -> Denoise:
    """Of a scheduler of diffusers.

    Raises:
        DgnError: it measures noise, or its network predicts, in a way that dgn does not know.
    """
    if "sigma_data" in scheduler.config and hasattr(scheduler, "get_scalings_for_boundary_condition"):
        return partial(consistency, scheduler)
    if type(scheduler).__name__.startswith("FlowMatch"):
        return partial(flow, scheduler)
    kind = scheduler.config.get("prediction_type", "epsilon")
    if getattr(scheduler, "alphas_cumprod", None) is None or kind not in ("epsilon", "v_prediction", "sample"):
        raise DgnError(
            f"the pipeline's scheduler is a {type(scheduler).__name__} with prediction_type {kind!r}; expected one "
            "with alphas_cumprod that predicts epsilon, v_prediction or sample, flow matching, or a consistency model's"
        )
    return partial(preserving, scheduler)


def least_signal(scheduler: Any) -> float:
    """Signal over noise where the network's training begins; 0 where it begins at noise alone."""
    if "sigma_max" in scheduler.config and "sigma_data" in scheduler.config:
        return 1 / scheduler.config.sigma_max
    if getattr(scheduler, "alphas_cumprod", None) is None:
        return 0.0
    last = float(scheduler.alphas_cumprod[-1])
    return (last / (1 - last)) ** 0.5


def preserving(scheduler: Any, predict: Predict, mixed: Tensor, signal: float, noise: float) -> Tensor:
    """``sqrt(a) x + sqrt(1 - a) e``, ``a`` by the time (Ho et al. 2020, arXiv 2006.11239; v: Salimans & Ho 2022, arXiv
    2202.00512); between two times of the training the time is a fraction, at which log(a / (1 - a)) is interpolated."""
    config = scheduler.config
    kept = scheduler.alphas_cumprod.double().cpu().numpy().clip(1e-8, 1 - 1e-8)
    ratios = np.log(kept) - np.log1p(-kept)  # falling
    ratio = min(max(2 * math.log(max(signal, 1e-12) / max(noise, 1e-12)), ratios[-1]), ratios[0])
    time = float(np.interp(-ratio, -ratios, np.arange(len(ratios))))
    alpha, sigma = (1 + math.exp(-ratio)) ** -0.5, (1 + math.exp(ratio)) ** -0.5
    x = mixed / math.hypot(signal, noise)
    told, kind = predict(x, time), config.get("prediction_type", "epsilon")
    if kind == "epsilon":
        told = (x - sigma * told) / alpha
    elif kind == "v_prediction":
        told = alpha * x - sigma * told
    if config.get("clip_sample"):
        told = told.clamp(-config.clip_sample_range, config.clip_sample_range)
    if hasattr(scheduler, "get_scalings_for_boundary_condition_discrete"):  # latent consistency models
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(time)
        told = out * told + skip * x
    return told


def flow(scheduler: Any, predict: Predict, mixed: Tensor, signal: float, noise: float) -> Tensor:
    """``(1 - s) x + s e``, of which the network tells ``e - x`` (Lipman et al. 2022, arXiv 2210.02747)."""
    share, x = noise / (signal + noise), mixed / (signal + noise)
    return x - share * predict(x, share * scheduler.config.num_train_timesteps)


def consistency(scheduler: Any, predict: Predict, mixed: Tensor, signal: float, noise: float) -> Tensor:
    """``x + s e``; the output is mixed with the input so that it is the input at the least noise (Song et al. 2023,
    arXiv 2303.01469, appendix C)."""
    config = scheduler.config
    wanted = noise / max(signal, 1e-12)
    sigma = min(max(wanted, config.sigma_min), config.sigma_max)
    x = mixed / math.hypot(signal, noise) * math.hypot(1, sigma)
    told = predict(x / math.hypot(sigma, config.sigma_data), float(scheduler.sigma_to_t(sigma)))
    skip, out = scheduler.get_scalings_for_boundary_condition(torch.tensor(sigma, dtype=torch.float32))
    told = float(out) * told + float(skip) * x
    return told.clamp(-1, 1) if config.clip_denoised else told
