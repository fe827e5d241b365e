"""The network under study: a frozen module, and the names of its layers and classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dgn.arguments import class_list
from dgn.errors import DgnError, first_line, one_of
from dgn.guest import guest
from dgn.network import adapt, derived
from dgn.network.derived import Derived
from dgn.network.facts import Targets
from dgn.network.fast.fused import FusedCopies
from dgn.network.frozen import Fit, FrozenModule, kept
from dgn.network.layers import read_layers, unread
from dgn.network.layout.layout import Layout
from dgn.network.layout.layouts import Layouts
from dgn.network.layout.survey import OUTPUT, Seen, Survey, survey
from dgn.network.scores import SCORES, find_scores


class Network(FrozenModule):
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
        super().__init__(module, input_size, mean, std, range=range, fit=fit, name=name)
        self.class_names = class_list(class_names)
        self.named_by_index = isinstance(class_names, Mapping)
        self.told_scores = None if scores is None else one_of("scores", scores, SCORES)
        self.axes = dict(axes or {})
        facts = {"input_size": input_size, "mean": mean, "std": std, "range": range, "scores": scores, "axes": axes,
                 "classes": self.class_names or None}  # fmt: skip
        self.origins = dict.fromkeys((fact for fact, value in facts.items() if value is not None), "given")
        """What is ``given`` by the user or ``known`` from a library; all else is ``assumed``."""
        self.targets = Targets()  # texts and images with which its outputs are cosines
        self.derived: dict[str, Derived] = {}  # layers that are computed from the module's
        self._fused = FusedCopies()
        self._original: Network | None = None

    def __repr__(self) -> str:
        return f"Network({self.name!r}, input_size={self.input_size}, {len(self.class_names)} classes)"

    @guest
    def to(self, device: torch.device | str) -> Network:
        """Move the weights, in the channels-last layout that convolutions like; returns itself."""
        with self.turn:
            self.module.to(device)
            derived.to(self.derived, device)
            self._manner.lay_out(self.module)
            vars(self).pop("layouts", None)  # it holds a copy, whose buffers are where they were
        return self

    def at(self, input_size: int | tuple[int, int]) -> Network:
        """The same frozen module seen at another input size; the weights are shared.

        Args:
            input_size: height and width in pixels, or the short side, with the proportions of the network's own input.
        """
        if isinstance(input_size, int):
            short = min(self._root.input_size)
            height, width = (round(side * input_size / short) for side in self._root.input_size)
            input_size = (height, width)
        if self.input_size == input_size:
            return self
        view = self._view(input_size=input_size)
        for found_out in ("layers", "survey", "layouts"):
            vars(view).pop(found_out, None)
        return view

    def _view(self, **changes: Any) -> Network:
        """The same network with these attributes changed."""
        view = copy.copy(self)
        vars(view).update(_original=self._root, **changes)
        if "module" in changes:
            vars(view).pop("_modules", None)
        return view

    def derive(self, name: str, layer: Derived) -> Network:
        """The same network with a further layer of that name, which is computed from one that it has."""
        self.layout(layer.layer)
        derived.check_name(name, {**self._modules, **self.layers})
        view = copy.copy(self)
        view.derived = {**self.derived, name: layer}
        vars(view).pop("layers", None)
        return view

    def apart(self) -> Network:
        """The same network for a question that must leave no trace: its module is a copy that shares the parameters, so
        that what it keeps between calls stays its own. Itself where the module can't be copied.
        """
        shared = {id(parameter): parameter for parameter in self.module.parameters()}
        try:
            return self._view(module=adapt.copied(self.module, shared))
        except Exception:
            return self

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
            return self._original.largest_layer * math.prod(self.input_size) / math.prod(self._original.input_size)
        return max((math.prod(shape) for shape in self.layers.values()), default=1)

    @guest
    def fast(self, layers: Sequence[str]) -> Network:
        """The same network for a loop that reads these layers alone: equal within float error, and faster.

        BatchNorm and activation functions become part of the convolutions before them (:mod:`dgn.network.fast.fused`),
        so that layers other than those asked for may show something else. Itself where that can't be done.
        """
        parts = [self.seen(layer).module for layer in layers]
        if not self._manner.last:
            return self  # convolutions that are done here give channels-last outputs
        with self.turn:
            module = self._fused.get(self.module, self.normalised(self._grey(1)), parts)
        return self if module is self.module else self._view(module=module, _fast=True)

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
        sources = {layer: self.seen(layer) for layer in derived.read(self.derived, layers)}
        with self.turn:
            tensors = read_layers(self._modules, sources, lambda again: self._run(images, fit, again))
        tensors |= derived.computed(self.derived, layers, tensors, self.layout)
        missing = [layer for layer in layers if layer not in tensors]
        if missing:
            raise DgnError(f"layer {missing[0]!r} of network {self.name!r} gave no tensor in its forward pass")
        return tensors

    def maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """:meth:`features` in one order for all layers: ``[N, C, *places]``."""
        read = self.features(images, list(dict.fromkeys(layers)))
        return {layer: self.layout(layer).canonical(output, len(images)) for layer, output in read.items()}

    def map_shape(self, layer: str) -> tuple[int, ...]:
        """Shape of a layer in :meth:`maps` at this input size, without the samples."""
        shape, axis = self.layer_shape(layer), self.layout(layer).features
        return (shape[axis], *shape[:axis], *shape[axis + 1 :]) if shape else (1,)

    def __call__(self, images: Tensor, fit: Fit = "resize") -> Tensor:
        """The final output (logits, for a classifier) for images ``[N, C, H, W]`` in [0, 1], see :meth:`prepare`."""
        return self.features(self._checked(images), [OUTPUT], fit)[OUTPUT]

    def seen(self, layer: str) -> Seen:
        """Which module gives a layer's tensor and when, and the shape that it has at the network's own input size.

        Raises:
            DgnError: no such layer, with the nearest names; or it is several tensors, with theirs.
        """
        if layer in self.derived:
            return self.derived[layer].seen(self.layout(self.derived[layer].layer))
        known = self._root.survey
        if layer not in known.layers:
            raise DgnError(unread(layer, known, self.module, self.name, self.derived))
        return known.layers[layer]

    @property
    def _root(self) -> Network:
        return self._original or self

    @kept
    def _modules(self) -> dict[str, nn.Module]:
        return {name: part for name, part in adapt.parts(self.module).items() if name}

    @kept
    @guest
    def survey(self) -> Survey:
        """What each layer gives, at this input size. A copy is asked, for some modules change when they are called."""
        copied = self.apart()

        def run(count: int, again: Callable[[], object]) -> Any:
            return copied._run(self._grey(count), "resize", again)

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

    @kept
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that a layer gives, in order of the forward pass, with its shape without the samples' axis.

        Of a module that is called several times, ``NAME.call2`` is what it gives when it is called again; of a call
        that gives several tensors, each is ``NAME.output.PART``. ``output`` is the final output.
        """
        asked = self._root if self.input_size == self._root.input_size else self
        shapes = {layer: seen.shape for layer, seen in asked.survey.layers.items()}
        return derived.placed(self.derived, shapes, self.layout)

    def layout(self, layer: str) -> Layout:
        """Which axes of a layer are its features and its places, at the network's own input size.

        Raises:
            DgnError: unknown layer, or one whose axes can't be found out.
        """
        if layer in self.derived:
            return self.derived[layer].layout(self.layout(self.derived[layer].layer))
        self.seen(layer)
        return self._root.layouts(layer)

    @kept
    def layouts(self) -> Layouts:
        """The layouts of its layers, found when they are asked for."""
        copied = self.apart()
        size = (self.channels, *self.input_size)
        return Layouts(copied._modules, self.survey.layers, self.axes, copied._show, size)

    def _show(self, images: Tensor) -> Any:
        with self.turn:
            return self.module(self.normalised(images.to(self.device)))

    def takes(self, size: int) -> bool:
        """Whether the module can see images of that size, see :meth:`at`; exported programs, for one, often can't."""
        view = self.at(size)
        if view is self:
            return True
        try:
            with self.turn, torch.no_grad():
                view._run(view._grey(1), "resize", lambda: None)
        except Exception:  # whatever a module raises at a size that it can't see
            return False
        return True

    def layer_shape(self, layer: str) -> tuple[int, ...]:
        """Shape of a layer's output without the batch axis; an error with the nearest names for an unknown layer."""
        self.seen(layer)
        return self.layers[layer]
