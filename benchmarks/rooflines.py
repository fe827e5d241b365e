"""What a call has to compute and to move: the two sides of a roofline (Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Cost(NamedTuple):
    flops: int
    bytes: int


UNREAD = {"aten::convolution_backward": 1, "aten::max_pool2d_with_indices_backward": 1}
"""Operands by their number that an operation is given and need not read: for the gradient of the images alone."""


class _Counter(TorchDispatchMode):
    """Counts what each operation computes, and what it has to read and write; views, and memory only laid aside,
    move nothing. (PyTorch's FlopCounterMode follows modules, too, which forbids ``torch.autograd.grad``.)"""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        name, count = function._schema.name, flop_registry.get(function._overloadpacket)
        if count:
            self.flops += count(*args, **(kwargs or {}), out_val=made)
        if not function.is_view and not name.startswith("aten::empty"):
            skipped = UNREAD.get(name)
            read = {id(leaf): leaf for index, one in enumerate(args) if index != skipped for leaf in _tensors(one)}
            read |= {id(leaf): leaf for leaf in _tensors(kwargs)}
            self.bytes += sum(leaf.nbytes for leaf in (*read.values(), *_tensors(made)))
        return made


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def measure(call: Callable[[], object]) -> Cost:
    """Floating-point operations, and bytes of operands and results, of all operations of a call."""
    with _Counter() as counter:
        call()
    return Cost(int(counter.flops), counter.bytes)
