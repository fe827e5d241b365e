"""When memory is full."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from dgn.errors import DgnError, first_line

_FULL = (
    "DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "CUDA out of memory",
    "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full: that of a GPU, or the CPU allocator's."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error) for sign in _FULL)


def free_memory() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_batches(look: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Tensor:
    """What a function makes of images, a batch after the other; one that does not fit into memory is halved, and so are
    those after it.

    Args:
        look: takes ``[N, ...]``, gives a tensor with as many rows.
        images: all of them.
        batch: images at first.

    Raises:
        DgnError: a single one does not fit.
    """
    found: list[Tensor] = []
    first, batch = 0, min(batch, len(images))
    while first < len(images):
        piece, full = None, ""
        try:
            piece = look(images[first : first + batch])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            full = first_line(error)
        if piece is None:  # outside of the handler, as above
            free_memory()
            if batch == 1:
                raise DgnError(f"one image does not fit into this memory: give network.input_size=PIXELS ({full})")
            batch //= 2
            continue
        found.append(piece)
        first += len(piece)
    return torch.cat(found)
