"""Mixed precision: which, and where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dgn.network.fast.convolution import Convolution, asked
from dgn.network.network import Network

AGREES = 0.2
"""Largest difference of a layer in bf16 to the same in float32, as a share of its norm: EfficientNet-Lite0's layers are
0.07 and less apart on noise, ResNet-50's 0.01."""


def resolve(device: torch.device, precision: str = "auto", *, trains: bool = False) -> str:
    """What ``"auto"`` means: ``"bf16"`` where the processor multiplies in it faster, else ``"fp32"``.

    CUDA does since Ampere, and so do processors with Intel AMX and with AVX512-BF16. With the latter alone oneDNN's
    gradients of strided depthwise convolutions take 12 to 100 times as long in bf16; an ascent's fused networks take
    these in float32 (:mod:`dgn.network.fast.convolution`), a training has no such way around.

    ``"bf16"`` and ``"fp32"`` are returned as they are. ``trains``: whether weights are trained.
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


def choose(network: Network, layers: Sequence[str], precision: str = "auto") -> str:
    """:func:`resolve` for a loop that reads a network's layers. ``"auto"`` is float32, too, if the network's fast copy
    can't be run and differentiated in bf16 (it goes to NumPy, say), if its layers are more than :data:`AGREES` apart on
    noise, or if bf16 is not known to be faster: on a CPU without AMX, where its convolutions are not dgn's own.
    """
    chosen = resolve(network.device, precision)
    if chosen == precision or chosen == "fp32":
        return chosen
    if network.dtype != torch.float32:  # autocast leaves double alone, and half is less than half as exact as it is
        return "fp32"
    answers, key = _answers.setdefault(network.module, {}), (network.device.type, network.input_size, tuple(layers))
    if key not in answers:
        answers[key] = _bears(network.fast(layers), layers)
    return chosen if answers[key] else "fp32"


_answers: WeakKeyDictionary[nn.Module, dict[Any, bool]] = WeakKeyDictionary()
"""By module: found out once."""


@torch.inference_mode(False)
@torch.enable_grad()
def _bears(network: Network, layers: Sequence[str]) -> bool:
    """Whether layers and gradient come out right in bf16, for one image of noise."""
    parts = list(network.module.modules())
    own = asked() and any(isinstance(part, Convolution) for part in parts)
    if network.device.type == "cpu" and not torch.cpu._is_amx_tile_supported() and (not own or _slow(parts)):
        return False
    noise = torch.rand(1, network.channels, *network.input_size, generator=torch.Generator().manual_seed(0))

    def look(precision: str) -> tuple[dict[str, Tensor], Tensor]:
        x = noise.to(network.device).requires_grad_()
        with autocast(network.device, precision):
            read = network.features(x, layers)
        found = {layer: tensor.float() for layer, tensor in read.items()}
        total = torch.stack([tensor.mean() for tensor in found.values()]).sum()
        slope = torch.autograd.grad(total, x, allow_unused=True)[0]
        read = {layer: tensor.detach() for layer, tensor in found.items()}
        return read, torch.zeros(1) if slope is None else slope

    try:
        (full, slope), (half, other) = look("fp32"), look("bf16")
    except Exception:
        return False
    near = all(float((half[layer] - full[layer]).norm()) <= AGREES * float(full[layer].norm()) for layer in layers)
    return near and (bool(other.isfinite().all()) or not bool(slope.isfinite().all()))


def _slow(parts: Sequence[nn.Module]) -> bool:
    """Whether PyTorch itself would take gradients of strided depthwise convolutions, see :func:`resolve`."""
    plain = [part for part in parts if isinstance(part, nn.Conv2d)]
    return any(part.weight.shape[1] == 1 < part.groups and max(part.stride) > 1 for part in plain)
