"""The network under study: a frozen module, how images enter it, and the names of its layers and classes."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgn.arguments import class_list, input_shape, normalisation
from dgn.errors import DgnError, first_line, nearest
from dgn.guest import guest
from dgn.images.fit import Sight, check_fit
from dgn.images.given import as_images
from dgn.network import adapt
from dgn.network.calling import Manner, Reached, call
from dgn.network.fast.fused import FusedCopies
from dgn.network.layout.layout import Layout
from dgn.network.layout.layouts import Layouts
from dgn.network.layout.survey import OUTPUT, Source, Survey, pick, survey
from dgn.network.scores import check_scores, find_scores
from dgn.network.turns import Known, Turn, kept

Fit = Literal["resize", "crop"]


class Network:
    """A frozen copy of a module together with what is needed to show it images.

    Args:
        module: any ``nn.Module`` that takes one image tensor ``[N, C, H, W]``, in whatever numbers its weights are. It
            is copied: the caller's module keeps its mode, its ``requires_grad`` flags, its gradients and its hooks.
            Hooks that are on it when it is handed over are part of what it computes and run in the copy too. Of a
            TorchScript program the output alone can be read.
        input_size: height and width in pixels of the module's input, as one number, ``(H, W)`` or ``(C, H, W)``.
        mean, std: normalisation of images in [0, 1]: one number a channel, as a list, an array or a tensor, whose
            length is the channel count; or one number for all channels. None: 0.5.
        class_names: names of the output units, in order, or a dictionary ``{index: name}`` or ``{name: index}``; may be
            empty or None.
        axes: of layers whose axes can't be found out, or are to be read otherwise: by name or pattern (``blocks.*``), a
            letter an axis, N for the samples, C for the features, L, H, W, D for places, as in ``NHWC``.
        name: what the network is called in tables and file names.
        range: of the module's pixels, ``"0..255"``, ``"-1..1"`` or ``(low, high)``, in whose units mean (None: 0) and
            std (None: 1) then are; None: 0..1.
        fit: how images of other proportions meet the input, see :data:`dgn.images.fit.FITS`.
        scores: what the outputs are, see :data:`dgn.network.scores.SCORES`; None: found out where it is needed.

    Several threads may use one network, and views of it: they take turns. Threads with networks of their own don't
    wait for each other.

    Raises:
        DgnError: when the sizes or the normalisation make no sense, or the module can't be copied.
    """

    @guest
    def __init__(
        self,
        module: nn.Module,
        input_size: int | Sequence[int],
        mean: Any = None,
        std: Any = None,
        class_names: Sequence[str] | Mapping[Any, Any] | None = (),
        *,
        axes: Mapping[str, str] | None = None,
        name: str = "custom",
        range: Any = None,
        fit: str = "crop",
        scores: str | None = None,
    ) -> None:
        channels, height, width = input_shape(input_size)
        self.module = adapt.frozen(module, name)
        self.class_names = class_list(class_names)
        self.named_by_index = isinstance(class_names, Mapping)
        given = {"mean": mean, "std": std, "range": range, "classes": self.class_names or None, "scores": scores,
                 "axes": axes}  # fmt: skip
        self.origins = {"input_size": "given", **{key: "given" for key, value in given.items() if value is not None}}
        """What is ``given`` by the user or ``known`` from a library; all else is ``assumed``."""
        self.mean, self.std = normalisation(mean, std, channels, adapt.input_channels(self.module), range)
        self.range, self.fit, self.told_scores = range, check_fit(fit), None if scores is None else check_scores(scores)
        self.input_size = (height, width)
        self.name = name
        self.axes = dict(axes or {})
        self._manner = Manner.of(self.module)
        self.turn = Turn()
        self._fused = FusedCopies()
        self._original: Network | None = None
        self._fast = False
        self._uploaded: dict[Any, tuple[Tensor, Tensor]] = {}
        self.known = Known()
        if adapt.is_waiting(self.module):
            self._blank_pass()

    def _blank_pass(self) -> None:
        """A lazy module gets its shapes, and random weights, from a grey image."""
        try:
            with torch.no_grad():
                self.module(self.prepare(torch.full((1, self.channels, *self.input_size), 0.5)))
        except Exception as error:
            raise DgnError(
                f"network {self.name!r} is lazy and failed on its first image, {self.channels} x {self.input_size[0]} "
                f"x {self.input_size[1]}: {first_line(error)}"
            ) from error
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)

    # --- where and how it runs -------------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        """Number of channels of its images."""
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return adapt.device_of(self.module)

    @property
    def dtype(self) -> torch.dtype:
        """The numbers in which the module takes images: as a rule those of its weights."""
        return self._manner.dtype

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout in which the module takes images: channels-last, or contiguous where it fails on that."""
        return self._manner.memory_format

    @guest
    def to(self, device: torch.device | str) -> Network:
        """Move the weights, in the channels-last layout that convolutions like; returns itself."""
        with self.turn:
            self.module.to(device)
            self._manner.lay_out(self.module)
            self.__dict__.pop("_layouts", None)  # it holds a copy, whose buffers are where they were
        return self

    def at(self, input_size: int | tuple[int, int]) -> Network:
        """The same frozen module seen at another input size; the weights are shared.

        Args:
            input_size: height and width in pixels, or the short side, with the proportions of the network's own input.
        """
        original = self._original or self
        if isinstance(input_size, int):
            short = min(original.input_size)
            height, width = (round(side * input_size / short) for side in original.input_size)
            input_size = (height, width)
        if self.input_size == input_size:
            return self
        view = self._view()
        view.input_size, view._original = input_size, original
        view.forget()
        return view

    def forget(self) -> None:
        """What was found out of its layers is found out anew: its input size has changed, or its axes."""
        for found in ("layers", "_survey", "_layouts"):
            self.__dict__.pop(found, None)

    def _view(self) -> Network:
        view = copy.copy(self)
        view.known = Known()
        return view

    def apart(self) -> Network:
        """The same network for a question that is to leave no trace: what its module keeps between calls is its own.

        Parameters are shared. Itself where the module can't be copied so.
        """
        try:
            module = adapt.copied(self.module, {id(tensor): tensor for tensor in self.module.parameters()})
        except Exception:
            return self
        view = self._view()
        view.__dict__.pop("_modules", None)
        view.module, view._original = module, self._root
        return view

    @property
    def sight(self) -> Sight:
        """How it sees photographs; where they leave a border, this has the normalisation's mean colour."""
        fill = tuple(round(255 * min(1.0, max(0.0, value))) for value in self.mean)
        return Sight(self.input_size, self.fit, self.channels, fill)

    @property
    def scores(self) -> str:
        """What its outputs are, see :data:`dgn.network.scores.SCORES`: as it was told, or found out once."""
        return self.told_scores or self._root._found_scores

    @kept
    def _found_scores(self) -> str:
        scores = find_scores(self)
        self.origins.setdefault("scores", "found")
        return scores

    @property
    def largest_layer(self) -> float:
        """Numbers in its largest layer's output for one image; of a view, estimated from the original's."""
        if self._original is not None:
            area, own = (height * width for height, width in (self.input_size, self._original.input_size))
            return self._original.largest_layer * area / own
        return max((math.prod(shape) for shape in self.layers.values()), default=1)

    @guest
    def fast(self, layers: Sequence[str]) -> Network:
        """The same network for a loop that reads these layers alone: equal within float error, and faster.

        BatchNorm and activation functions are done by the convolutions before them (see :mod:`dgn.network.fast.fused`);
        layers other than those asked for may show something else. Itself where that can't be done.
        """
        parts = [self.source(layer).module for layer in layers]
        if not self._manner.last:
            return self  # convolutions that are done here give channels-last outputs
        with self.turn:
            module = self._fused.get(self.module, self.normalised(self._blank(1)), parts)
        if module is self.module:
            return self
        view = self._view()
        view.__dict__.pop("_modules", None)
        view.module, view._fast, view._original = module, True, self._root
        return view

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
        else:
            images = self.sight.tensors(images)
        mean, std = self._normalisation(images)
        normalised = ((images - mean) / std).to(self._manner.dtype)
        return normalised.contiguous(memory_format=self.memory_format)

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
            images: ``[N, C, H, W]`` in [0, 1], any size (not checked: transformed images may leave [0, 1]).
            layers: module names as ``network.layers`` lists them; ``"output"`` is the final output.
            fit: see :meth:`prepare`.

        Returns:
            One tensor a layer in its own shape, ``[N, ...]``, before any in-place change by what follows it.

        Raises:
            DgnError: unknown layer, or one that gave no tensor.
        """
        read = self._read(images, {layer: self.source(layer) for layer in layers}, fit)
        missing = [layer for layer in layers if layer not in read]
        if missing:
            raise DgnError(f"layer {missing[0]!r} of network {self.name!r} gave no tensor in its forward pass")
        return read

    def canonical(self, layer: str, output: Tensor, samples: int) -> Tensor:
        """A layer's output ``[N, C, *places]``, whatever the layer's own order; see
        :class:`dgn.network.layout.layout.Layout`.

        Args:
            layer: its name.
            output: as :meth:`features` gives it, at any input size.
            samples: N.

        Raises:
            DgnError: the layer's axes can't be found out.
        """
        return self.layout(layer).canonical(output, samples)

    def maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """:meth:`features` in one order for all layers: ``[N, C, *places]``."""
        read = self.features(images, list(dict.fromkeys(layers)))
        return {layer: self.canonical(layer, output, len(images)) for layer, output in read.items()}

    def map_shape(self, layer: str) -> tuple[int, ...]:
        """Shape of a layer in :meth:`maps` at this input size, without the samples."""
        shape, axis = self.layer_shape(layer), self.layout(layer).features
        return (shape[axis], *shape[:axis], *shape[axis + 1 :]) if shape else (1,)

    def samples_first(self, layer: str, output: Tensor, samples: int) -> Tensor:
        """A layer's output ``[N, ...]`` in its own order but for the axis of the samples; see :meth:`canonical`."""
        self.source(layer)
        return self._root._survey.layers[layer].samples_first(output, samples)

    def __call__(self, images: Tensor, fit: Fit = "resize") -> Tensor:
        """The final output (logits, for a classifier) for images ``[N, C, H, W]`` in [0, 1], see :meth:`prepare`."""
        return self.features(self._checked(images), [OUTPUT], fit)[OUTPUT]

    def _read(self, images: Tensor, sources: Mapping[str, Source], fit: Fit) -> dict[str, Tensor]:
        with self.turn, self._taps(sources) as (read, again):
            try:
                output = self._run(images, fit, again)
            except Reached:
                pass
            else:
                _pick_all(output, {layer: source for layer, source in sources.items() if not source.module}, read)
        return read

    def _run(self, images: Tensor, fit: Fit, again: Callable[[], object]) -> Any:
        """What the module makes of images; see :func:`dgn.network.calling.call`."""
        if self._fast:  # a fused copy takes them as it was made for it
            return self.module(self.normalised(images, fit))
        return call(self.module, lambda: self.normalised(images, fit), self._manner, again, self.name)

    @contextmanager
    def _taps(self, sources: Mapping[str, Source]) -> Iterator[tuple[dict[str, Tensor], Callable[[], None]]]:
        """Hooks that live for one forward pass and fill the yielded dictionary; the function yielded beside it begins
        anew."""
        read: dict[str, Tensor] = {}
        calls: dict[str, int] = defaultdict(int)
        wanted: dict[str, dict[str, Source]] = defaultdict(dict)
        for layer, source in sources.items():
            wanted[source.module][layer] = source

        def tap(module: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                calls[module] += 1
                here = {layer: source for layer, source in wanted[module].items() if source.call == calls[module]}
                last = len(read) + len(here) == len(sources)
                # What follows may add to these tensors in place (residual sums do): keep the values as they are now.
                _pick_all(output, here, read, copied=not last)
                if here and len(read) == len(sources):
                    raise Reached

            return hook

        handles = [adapt.hook(self._modules[module], tap(module)) for module in wanted if module]

        def again() -> None:
            read.clear()
            calls.clear()

        try:
            yield read, again
        finally:
            for handle in handles:
                handle.remove()

    def source(self, layer: str) -> Source:
        """Which module gives a layer's tensor, and when.

        Raises:
            DgnError: no such layer, with the nearest names; or it is several tensors, with theirs.
        """
        known = self._root._survey
        if layer in known.layers:
            return known.layers[layer].source
        if layer in known.several:
            some = ", ".join(f"{name} {list(self._root.layers[name])}" for name in known.several[layer])
            what = "output" if layer == OUTPUT else f"layer {layer!r}"
            raise DgnError(f"the {what} of network {self.name!r} is several tensors: name one of {some}")
        if layer == OUTPUT or layer in self._modules:
            raise DgnError(f"layer {layer!r} of network {self.name!r} gave no tensor in its forward pass")
        raise DgnError(f"no layer {layer!r} in network {self.name!r}{self._hint(layer, known.layers)}")

    def calls(self, layer: str) -> int:
        """How often the module of a layer is called in a forward pass."""
        return self._root._survey.calls.get(self.source(layer).module, 1)

    @property
    def _root(self) -> Network:
        return self._original or self

    @kept
    def _modules(self) -> dict[str, nn.Module]:
        return {name: part for name, part in adapt.parts(self.module).items() if name}

    @kept
    @guest
    def _survey(self) -> Survey:
        """What each layer gives, at this input size. A copy is asked: what a module keeps between calls stays."""
        copied = self.apart()

        def run(count: int, again: Callable[[], object]) -> Any:
            return copied._run(self._blank(count), "resize", again)

        try:
            with self.turn:
                return survey(copied._modules, run, self.class_names)
        except DgnError:
            raise
        except Exception as error:
            height, width = self.input_size
            raise DgnError(
                f"network {self.name!r} failed on an image of {height} x {width} px: {first_line(error)}"
            ) from error

    def _blank(self, count: int) -> Tensor:
        """Grey images."""
        return torch.full((count, self.channels, *self.input_size), 0.5, device=self.device)

    @kept
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that a layer gives, in order of the forward pass, with its shape without the samples' axis.

        Of a module that is called several times, ``NAME.call2`` is what it gives when it is called again; of a call
        that gives several tensors, each is ``NAME.output.PART``. ``output`` is the final output.
        """
        same = self.input_size == self._root.input_size
        return {layer: seen.shape for layer, seen in (self._root if same else self)._survey.layers.items()}

    def layout(self, layer: str) -> Layout:
        """Which axes of a layer are its features and its places, at the network's own input size.

        Raises:
            DgnError: unknown layer, or one whose axes can't be found out.
        """
        self.source(layer)
        return self._root._layouts(layer)

    def ask_layouts(self, layers: Iterable[str]) -> None:
        """Find out at once what :meth:`layout` would find out of these layers one by one."""
        self._root._layouts.ask([layer for layer in layers if self.source(layer)])

    @kept
    def _layouts(self) -> Layouts:
        copied = self.apart()
        size = (self.channels, *self.input_size)
        return Layouts(copied._modules, self._survey.layers, self.axes, copied._show, size)

    def _show(self, images: Tensor) -> Any:
        with self.turn:
            return self.module(self.normalised(images.to(self.device)))

    def takes(self, size: int) -> bool:
        """Whether the module can see images of that size, see :meth:`at`; exported programs, for one, often can't."""
        if self.at(size) is self:
            return True
        view = self.at(size)
        try:
            with self.turn, torch.no_grad():
                view._run(view._blank(1), "resize", lambda: None)
        except Exception:  # whatever a module raises at a size that it can't see
            return False
        return True

    def layer_shape(self, layer: str) -> tuple[int, ...]:
        """Shape of a layer's output without the batch axis; an error with the nearest names for an unknown layer."""
        self.source(layer)
        return self.layers[layer]

    def _hint(self, layer: str, known: Iterable[str]) -> str:
        return adapt.hidden_layer(self.module, layer) or nearest(layer, known)


def _pick_all(output: Any, sources: Mapping[str, Source], read: dict[str, Tensor], *, copied: bool = False) -> None:
    """Put the tensors at these sources' paths into ``read``; what is not there is left out."""
    for layer, source in sources.items():
        with suppress(KeyError):
            tensor = pick(output, source.path)
            read[layer] = tensor.clone() if copied else tensor


def feature_layer(network: Network) -> str:
    """The layer whose output the last linear layer reads: a classifier's penultimate features; else its output."""
    modules = dict(network.module.named_modules())
    linear = [name for name in network.layers if isinstance(modules.get(name), nn.Linear)]
    before = list(network.layers)[: list(network.layers).index(linear[-1])] if linear else []
    inputs = getattr(modules[linear[-1]], "in_features", None) if linear else None
    for name in reversed(before):
        if inputs in network.layers[name] and network.layout(name).count == inputs:
            return name
    return OUTPUT
