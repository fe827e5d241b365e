"""The network under study: a frozen module, how images enter it, and the names of its layers and classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgn.errors import DgnError, nearest
from dgn.fused import FusedCopies

OUTPUT = "output"
"""The name under which a network's final output is read."""

Fit = Literal["resize", "crop"]


class _Reached(Exception):
    """Raised inside a hook once every layer that was asked for has been read: nothing deeper is computed."""


class Network:
    """A frozen copy of a module together with what is needed to show it images.

    Args:
        module: any ``nn.Module`` that takes one image tensor ``[N, C, H, W]``. It is copied: the caller's
            module keeps its mode, its ``requires_grad`` flags, its gradients and its hooks. Hooks that are on it when
            it is handed over are part of what it computes and run in the copy too.
        input_size: height and width in pixels of the module's input, as one number or ``(H, W)``.
        mean, std: per-channel normalisation of images in [0, 1]; their length is the channel count.
        class_names: names of the output units, in order; may be empty.
        name: what the network is called in tables and file names.

    Raises:
        DgnError: when the sizes or the normalisation make no sense, or the module can't be copied.
    """

    def __init__(
        self,
        module: nn.Module,
        input_size: int | tuple[int, int],
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        class_names: Sequence[str] = (),
        *,
        name: str = "custom",
    ) -> None:
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise DgnError(f"mean {tuple(mean)} and std {tuple(std)} need one value a channel, std above 0")
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        if min(height, width) < 1:
            raise DgnError(f"input_size is {input_size}, expected pixels above 0")
        try:
            frozen = copy.deepcopy(module)
        except Exception as error:
            raise DgnError(f"the module of network {name!r} can't be copied: {error}") from error
        with suppress(NotImplementedError):  # an exported program has no modes
            frozen.eval()
        frozen.requires_grad_(False)
        for parameter in frozen.parameters():
            parameter.grad = None
        for part in frozen.modules():
            if getattr(part, "inplace", False) is True:
                part.inplace = False  # type: ignore[assignment]  # a layer is read before its activation function
        self.module = frozen
        self.input_size = (int(height), int(width))
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.class_names = tuple(class_names)
        self.name = name
        self._fused = FusedCopies()
        self._original: Network | None = None
        self._uploaded: dict[Any, tuple[Tensor, Tensor]] = {}

    # --- where and how it runs -------------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        """Number of channels of its images."""
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        for tensor in self.module.state_dict().values():
            return tensor.device
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> Network:
        """Move the weights, in the channels-last layout that convolutions like; returns itself."""
        self.module.to(device)
        if any(parameter.dim() == 4 for parameter in self.module.parameters()):
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def at(self, input_size: int) -> Network:
        """The same frozen module seen at another input size, in pixels; the weights are shared."""
        if self.input_size == (input_size, input_size):
            return self
        view = copy.copy(self)
        view.__dict__.pop("layers", None)  # shapes depend on the size
        view.input_size, view._original = (input_size, input_size), self._original or self
        return view

    @property
    def largest_layer(self) -> float:
        """Numbers in its largest layer's output for one image; of a view, estimated from the original's."""
        if self._original is not None:
            area, own = (height * width for height, width in (self.input_size, self._original.input_size))
            return self._original.largest_layer * area / own
        return max((math.prod(shape) for shape in self.layers.values()), default=1)

    def fast(self, layers: Sequence[str]) -> Network:
        """The same network for a loop that reads these layers alone: equal within float error, and faster.

        BatchNorm and activation functions are done by the convolutions before them (see :mod:`dgn.fused`); layers
        other than those asked for may show something else. Itself where that can't be done.
        """
        blank = torch.full((1, self.channels, *self.input_size), 0.5, device=self.device)
        module = self._fused.get(self.module, self.prepare(blank), layers)
        if module is self.module:
            return self
        view = copy.copy(self)
        view.__dict__.pop("_modules", None)
        view.module = module
        return view

    def prepare(self, images: Tensor, fit: Fit = "resize") -> Tensor:
        """Images of any size as the module wants them: differentiable, at ``input_size``, normalised.

        Args:
            images: ``[N, C, H, W]`` in [0, 1].
            fit: ``"resize"`` stretches to the input size (bilinear, antialiased); ``"crop"`` takes the centre, after
                enlarging images that are too small, as in Nguyen et al. 2016.

        Returns:
            ``[N, C, *input_size]``, normalised.
        """
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise DgnError(f"network {self.name!r} takes images [N, {self.channels}, H, W], got {list(images.shape)}")
        height, width = self.input_size
        if fit == "crop":
            scale = max(height / images.shape[2], width / images.shape[3], 1.0)
            if scale > 1.0:
                size = (round(images.shape[2] * scale), round(images.shape[3] * scale))
                images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
            top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
            images = images[:, :, top : top + height, left : left + width]
        elif fit != "resize":
            raise DgnError(f"unknown fit {fit!r}, expected 'resize' or 'crop'")
        elif tuple(images.shape[2:]) != self.input_size:
            shrinks = images.shape[2] > height or images.shape[3] > width
            images = F.interpolate(
                images, size=self.input_size, mode="bilinear", align_corners=False, antialias=shrinks
            )
        mean, std = self._normalisation(images)
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)

    def _normalisation(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation where the images are; uploaded once, for an upload waits for the device."""
        key = (images.device, images.dtype, self.mean, self.std)
        if key not in self._uploaded:
            with torch.inference_mode(False):  # gradients may be wanted later
                self._uploaded[key] = (
                    images.new_tensor(self.mean)[:, None, None], images.new_tensor(self.std)[:, None, None]
                )  # fmt: skip
        return self._uploaded[key]

    # --- reading layers --------------------------------------------------------------------------------------

    def features(self, images: Tensor, layers: Sequence[str], fit: Fit = "resize") -> dict[str, Tensor]:
        """The named layers' outputs for ``images``; nothing deeper than the deepest of them is computed.

        Args:
            images: ``[N, C, H, W]`` in [0, 1], any size.
            layers: module names as ``network.layers`` lists them; ``"output"`` is the final output.
            fit: see :meth:`prepare`.

        Returns:
            One tensor a layer in its own shape, ``[N, ...]``, before any in-place change by what follows it.

        Raises:
            DgnError: unknown layer, or one that gave no tensor.
        """
        with self._taps(layers) as read:
            try:
                output = self.module(self.prepare(images, fit))
            except _Reached:
                pass
            else:
                if OUTPUT in layers and OUTPUT not in read:
                    read[OUTPUT] = _single_tensor(output)
        missing = [layer for layer in layers if layer not in read]
        if missing:
            raise DgnError(f"layer {missing[0]!r} of network {self.name!r} gave no tensor in its forward pass")
        return read

    def __call__(self, images: Tensor, fit: Fit = "resize") -> Tensor:
        """The final output (logits, for a classifier) for images ``[N, C, H, W]`` in [0, 1]."""
        return self.features(images, [OUTPUT], fit)[OUTPUT]

    @contextmanager
    def _taps(self, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Hooks that live for one forward pass and fill the yielded dictionary."""
        modules = self._modules
        wanted = set(layers)
        for layer in layers:
            if layer != OUTPUT and layer not in modules:
                known = [OUTPUT, *self.layers]
                raise DgnError(f"no layer {layer!r} in network {self.name!r}{nearest(layer, known)}")
        read: dict[str, Tensor] = {}

        def tap(layer: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                tensor = _single_tensor(output)
                if layer in read or tensor is None:
                    return
                last = len(read) + 1 == len(wanted)
                # What follows may add to this tensor in place (residual sums do): keep the value as it is now.
                read[layer] = tensor if last else tensor.clone()
                if last:
                    raise _Reached

            return hook

        handles = [modules[layer].register_forward_hook(tap(layer)) for layer in wanted if layer in modules]
        try:
            yield read
        finally:
            for handle in handles:
                handle.remove()

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return {name: part for name, part in self.module.named_modules() if name}

    @cached_property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Every layer that gives one tensor, in order of the forward pass, with its shape without the batch axis."""
        shapes: dict[str, tuple[int, ...]] = {}
        handles = []

        def tap(layer: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                tensor = _single_tensor(output)
                if tensor is not None and tensor.dim() >= 2:
                    shapes.setdefault(layer, tuple(tensor.shape[1:]))

            return hook

        try:
            for name, part in self._modules.items():
                handles.append(part.register_forward_hook(tap(name)))
            blank = torch.full((1, self.channels, *self.input_size), 0.5, device=self.device)
            with torch.no_grad():
                output = _single_tensor(self.module(self.prepare(blank)))
        except DgnError:
            raise
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DgnError(
                f"network {self.name!r} failed on an image of {self.input_size[0]} x {self.input_size[1]} px: {first}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        if output is not None and output.dim() >= 2:
            shapes.setdefault(OUTPUT, tuple(output.shape[1:]))
        return shapes

    def takes(self, size: int) -> bool:
        """Whether the module can see images of that size; exported programs, for one, often can't."""
        if self.input_size == (size, size):
            return True
        try:
            return bool(self.at(size).layers)
        except DgnError:
            return False

    def layer_shape(self, layer: str) -> tuple[int, ...]:
        """Shape of a layer's output without the batch axis; an error with the nearest names for an unknown layer."""
        if layer not in self.layers:
            raise DgnError(f"no layer {layer!r} in network {self.name!r}{nearest(layer, self.layers)}")
        return self.layers[layer]


def _single_tensor(output: Any) -> Any:
    """The tensor a layer gave: itself, or the first of a tuple, list or mapping; None where there is none."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return next((item for item in output if isinstance(item, Tensor)), None)
    return None


def feature_layer(network: Network) -> str:
    """The layer whose output the last linear layer reads: a classifier's penultimate features; else its output."""
    modules = dict(network.module.named_modules())
    linear = [name for name in network.layers if isinstance(modules.get(name), nn.Linear)]
    before = list(network.layers)[: list(network.layers).index(linear[-1])] if linear else []
    inputs = getattr(modules[linear[-1]], "in_features", None) if linear else None
    for name in reversed(before):
        shape = network.layers[name]
        if shape == (inputs,) or (len(shape) == 3 and shape[0] == inputs):
            return name
    return OUTPUT
