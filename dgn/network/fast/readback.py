"""Numbers on their way from the device to the host, which goes on meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """Copies a small tensor to the host without waiting for the device.

    Args:
        values: of any shape; may change afterwards.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=values.is_cuda, copy=True)  # pinned, where it's CUDA's
        self._copied: torch.cuda.Event | None = None
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    @property
    def ready(self) -> bool:
        """Whether the numbers are there."""
        return self._copied is None or self._copied.query()

    def read(self) -> list[float]:
        """The numbers; waits for them where they are not there yet."""
        if self._copied is not None:
            self._copied.synchronize()
        return [float(value) for value in self._values.flatten().tolist()]
