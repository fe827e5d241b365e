"""Any module that turns codes into images, as a prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dgn.errors import DgnError, first_line
from dgn.images.fit import resized
from dgn.priors.base import Prior, seeded_normal


class ModulePrior(Prior):
    """Any differentiable module that turns codes into images.

    Args:
        module: ``[n, *code_shape]`` -> images ``[n, 3, H, W]``; frozen here.
        code_shape: of one code.
        low, high: of the pixels that the module gives; they are mapped to [0, 1] and clipped.
        bounds: of each element of the code: ``project`` clips to them; with ``sigmas``, to that many ``spread``.
        spread: standard deviation of the start codes.
        encode: images in [0, 1] -> codes, where there is a way back.
        size: pixels asked of the final image; the module's images are scaled to it. None: as they come.
        family, ascent: see :class:`dgn.priors.base.Prior`.
    """

    def __init__(
        self,
        module: nn.Module,
        code_shape: Sequence[int],
        *,
        name: str = "module",
        low: float = 0.0,
        high: float = 1.0,
        bounds: tuple[float, float] = (-3.0, 3.0),
        spread: float = 1.0,
        encode: Callable[[Tensor], Tensor] | None = None,
        size: int | None = None,
        family: str = "other",
        ascent: Mapping[str, Any] | None = None,
    ) -> None:
        if not code_shape or min(code_shape) < 1 or high <= low or bounds[1] <= bounds[0]:
            raise DgnError(f"code_shape {tuple(code_shape)}, pixels {low} to {high}, bounds {bounds}: these can't work")
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        if isinstance(module, torch.jit.ScriptModule):
            module.eval()
        else:
            for part in module.modules():
                part.training = False  # an exported program refuses eval()
        self.module = module
        self.code_shape, self.name = tuple(int(side) for side in code_shape), name
        self.low, self.high, self.bounds, self.spread, self._encode = low, high, bounds, spread, encode
        self.family, self.ascent = family, ascent or {}
        self._device: torch.device | str = "cpu"
        self._size, self.encodes = size, encode is not None
        self.channels, self.size = 3, (0, 0)
        try:
            with torch.no_grad():
                image = self.decode(self.start(2))
        except DgnError:
            raise
        except Exception as error:
            raise DgnError(f"prior {name!r} failed on a code {list(self.code_shape)}: {first_line(error)}") from error
        if image.dim() != 4:
            raise DgnError(f"prior {name!r} gave {list(image.shape)}, expected images [n, 3, H, W]")
        self.channels, self.size = image.shape[1], (image.shape[2], image.shape[3])

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        code = self.spread * seeded_normal(self.code_shape, range(n) if seeds is None else seeds, self._device)
        return self.project(code)

    def decode(self, code: Tensor) -> Tensor:
        image = self.pixels(self.module, code)
        image = ((image.float() - self.low) / (self.high - self.low)).clamp(0, 1)
        return image if self._size is None else resized(image, (self._size, self._size), "stretch")

    def pixels(self, module: nn.Module, code: Tensor) -> Tensor:
        """What the module makes of a code, in its own pixel range."""
        output = module(code)
        if isinstance(output, Mapping):
            output = next(iter(output.values()))
        output = getattr(output, "sample", output)
        return output[0] if isinstance(output, (tuple, list)) else output

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        low, high = self.bounds if sigmas is None else (-sigmas * self.spread, sigmas * self.spread)
        return code.clamp(max(low, self.bounds[0]), min(high, self.bounds[1]))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images) if self._encode is None else self._encode(images)

    def reencode(self, code: Tensor) -> Tensor:
        return super().reencode(code) if self._encode is None else self.encode(self.decode(code))

    def weights(self) -> dict[str, Tensor]:
        return dict(self.module.state_dict())

    def to(self, device: torch.device | str) -> ModulePrior:
        self.module.to(device)
        self._device = device
        return self
