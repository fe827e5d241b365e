"""Mixed precision: which, and where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from dgn.network import Network

AGREES = 0.2
"""Largest difference of a layer in bf16 to the same in float32, as a share of its norm: EfficientNet-Lite0's layers are
0.07 and less apart on noise, ResNet-50's 0.01."""


def resolve(device: torch.device, precision: str = "auto", *, trains: bool = False) -> str:
    """What ``"auto"`` means: ``"bf16"`` where the processor multiplies in it faster, else ``"fp32"``.

    CUDA does since Ampere, and so do processors with Intel AMX and with AVX512-BF16. With the latter alone oneDNN's
    gradients of strided depthwise convolutions take 12 to 100 times as long in bf16; an ascent's fused networks take
    these in float32 (:mod:`dgn.convolution`), a training has no such way around.

    Args:
        device: where it computes.
        precision: ``"auto"``, ``"bf16"`` or ``"fp32"``; the last two are returned as they are.
        trains: whether weights are trained.
    """
    if precision != "auto":
        return precision
    if device.type == "cpu":
        fast = torch.cpu._is_amx_tile_supported() or (not trains and torch.cpu._is_avx512_bf16_supported())
    else:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if fast else "fp32"


def autocast(device: torch.device, precision: str = "auto", *, trains: bool = False) -> AbstractContextManager[Any]:
    """Mixed precision where :func:`resolve` says ``"bf16"``, else float32."""
    enabled = resolve(device, precision, trains=trains) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@torch.no_grad()
def choose(network: Network, layers: Sequence[str], precision: str = "auto") -> str:
    """:func:`resolve` for a network's loop, where ``"auto"`` is float32, too, if the network can't be run in bf16 (it
    goes to NumPy, say) or its layers are more than :data:`AGREES` apart on noise.

    Args:
        network: under study.
        layers: that are read.
        precision: see :func:`resolve`.
    """
    chosen = resolve(network.device, precision)
    if chosen == precision or chosen == "fp32":
        return chosen
    noise = torch.rand(1, network.channels, *network.input_size, generator=torch.Generator().manual_seed(0))
    noise = noise.to(network.device)
    full = network.features(noise, layers)
    try:
        with autocast(network.device, chosen):
            half = network.features(noise, layers)
    except Exception:
        return "fp32"
    gaps = [(half[layer].float() - full[layer].float()).norm() / full[layer].float().norm() for layer in layers]
    return chosen if all(not float(gap) > AGREES for gap in gaps) else "fp32"
