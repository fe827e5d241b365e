"""A frozen module, and how images enter it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from dgn.arguments import input_shape, normalisation
from dgn.errors import DgnError, one_of
from dgn.images.fit import FITS, Sight, central_part
from dgn.images.given import as_images
from dgn.network import adapt
from dgn.network.calling import Manner, Turn, call

Fit = Literal["resize", "crop"]


T = TypeVar("T")


class kept(Generic[T]):  # a decorator, as property is
    """A property that is computed once, as :class:`functools.cached_property`. Up to Python 3.11 that one has a single
    lock for all instances: threads with different networks would wait for each other, and those with turns forever.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function, self.__doc__, self._name = function, function.__doc__, function.__name__

    def __get__(self, instance: object | None, owner: type) -> T:
        if instance is None:  # as help() asks it of the class
            return self  # type: ignore[return-value]
        value = instance.__dict__[self._name] = self._function(instance)
        return value


class FrozenModule:
    """A frozen copy of a module, its input size and its normalisation; for the arguments see :class:`dgn.Network`."""

    def __init__(
        self,
        module: nn.Module,
        input_size: int | Sequence[int],
        mean: Any,
        std: Any,
        *,
        range: Any,
        fit: str,
        name: str,
    ) -> None:
        channels, height, width = input_shape(input_size)
        self.module = adapt.frozen(module, name)
        self.input_size = (height, width)
        self.mean, self.std = normalisation(mean, std, channels, adapt.input_channels(self.module), range)
        self.range, self.fit, self.name = range, one_of("fit", fit, FITS), name
        self.turn = Turn()
        self._manner = Manner.of(self.module)
        self._fast = False
        self._uploaded: dict[Any, tuple[Tensor, Tensor]] = {}

    @property
    def channels(self) -> int:
        """Number of channels of its images."""
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The numbers in which the module takes images: as a rule those of its weights."""
        return self._manner.dtype

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout in which the module takes images: channels-last, or contiguous where it fails on that."""
        return self._manner.memory_format

    @property
    def sight(self) -> Sight:
        """How it sees photographs; where they leave a border, this has the normalisation's mean colour."""
        fill = tuple(round(255 * min(1.0, max(0.0, value))) for value in self.mean)
        return Sight(self.input_size, self.fit, self.channels, fill)

    def prepare(self, images: Tensor, fit: Fit = "resize") -> Tensor:
        """Images of any size as the module wants them: differentiable, at ``input_size``, normalised.

        Args:
            images: ``[N, C, H, W]`` in [0, 1], or uint8; see :func:`dgn.images.given.as_images`.
            fit: ``"resize"`` resizes to the input size (bilinear, antialiased; images of other proportions by the
                network's own ``fit``); ``"crop"`` takes the centre as it is, after enlarging images that are too small,
                as in Nguyen et al. 2016.

        Returns:
            ``[N, C, *input_size]``, normalised, in the module's own numbers.

        Raises:
            DgnError: another shape, or values outside of [0, 1].
        """
        return self.normalised(self._checked(images), fit)

    def _checked(self, images: Any) -> Tensor:
        if getattr(images, "ndim", 0) != 4:
            shape = list(getattr(images, "shape", []))
            raise DgnError(f"network {self.name!r} takes images [N, {self.channels}, H, W], got {shape}")
        return as_images(images, f"the image for network {self.name!r}", self.channels)

    def normalised(self, images: Tensor, fit: Fit = "resize") -> Tensor:
        """:meth:`prepare` inside a loop, where noise may leave [0, 1]: no value is looked at."""
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise DgnError(f"network {self.name!r} takes images [N, {self.channels}, H, W], got {list(images.shape)}")
        if images.dtype == torch.uint8:
            images = images.float() / 255
        one_of("fit", fit, ("resize", "crop"))
        images = self.sight.tensors(images) if fit == "resize" else central_part(images, self.input_size)
        mean, std = self._normalisation(images)
        return ((images - mean) / std).to(self._manner.dtype).contiguous(memory_format=self.memory_format)

    def _normalisation(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation where the images are; uploaded once, for an upload waits for the device."""
        key = (images.device, images.dtype, self.mean, self.std)
        if key not in self._uploaded:
            with torch.inference_mode(False):  # gradients may be wanted later
                self._uploaded[key] = (
                    images.new_tensor(self.mean)[:, None, None], images.new_tensor(self.std)[:, None, None]
                )  # fmt: skip
        return self._uploaded[key]

    def _run(self, images: Tensor, fit: Fit, again: Callable[[], object]) -> Any:
        """What the module makes of images; see :func:`dgn.network.calling.call`."""
        if self._fast:  # a fused copy takes them as it was made for it
            return self.module(self.normalised(images, fit))
        return call(self.module, lambda: self.normalised(images, fit), self._manner, again, self.name)

    def _grey(self, count: int) -> Tensor:
        return torch.full((count, self.channels, *self.input_size), 0.5, device=self.device)
