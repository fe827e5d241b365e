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


UNREAD = {"aten::convolution_backward": 1, "aten::max_pool2d_with_indices_backward": 1}
"""Operands by their number that an operation is given and need not read: for the gradient of the images alone."""


class _Bytes(TorchDispatchMode):
    """Counts what each operation has to read and write; views, and memory that is only laid aside, move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name = function._schema.name
        if not function.is_view and not name.startswith("aten::empty"):
            skipped = UNREAD.get(name)
            read = {id(leaf): leaf for index, one in enumerate(args) if index != skipped for leaf in _tensors(one)}
            read |= {id(leaf): leaf for leaf in _tensors(kwargs)}
            self.total += sum(leaf.nbytes for leaf in (*read.values(), *_tensors(made)))
        return made


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def measure(call: Callable[[], object]) -> Cost:
    """Floating-point operations, and bytes of operands and results, of all operations of a call."""
    with FlopCounterMode(display=False) as counter, _Bytes() as moved:
        call()
    return Cost(int(counter.get_total_flops()), moved.total)
