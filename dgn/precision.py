"""Mixed precision: which, and where it pays."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager[Any]:
    """Mixed precision for ``"bf16"``; ``"auto"`` means bf16 where the processor multiplies matrices in it (CUDA since
    Ampere, Intel AMX), else float32.

    AVX512-BF16 alone is not enough: convolutions were measured to be slower with it than in float32.
    """
    if precision == "auto":
        if device.type == "cpu":
            fast = torch.cpu._is_amx_tile_supported()
        else:
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if fast else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
