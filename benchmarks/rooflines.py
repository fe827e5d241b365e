"""What a call has to compute and to move: the two sides of a roofline (Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    flops: int
    bytes: int


class _Bytes(TorchDispatchMode):
    """Counts what each operation reads and writes, each tensor once; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, torch.Tensor)}
            self.total += sum(leaf.numel() * leaf.element_size() for leaf in tensors.values())
        return made


def measure(call: Callable[[], object]) -> Cost:
    """Floating-point operations, and bytes of operands and results, of all operations of a call."""
    with FlopCounterMode(display=False) as counter, _Bytes() as moved:
        call()
    return Cost(int(counter.get_total_flops()), moved.total)
