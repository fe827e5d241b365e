"""The network under study: a frozen module, and the names of its layers and classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgn.arguments import class_list
from dgn.errors import DgnError, one_of
from dgn.guest import guest
from dgn.network import derived
from dgn.network.dictionaries.reading import DictionaryFile, told_file
from dgn.network.facts import Targets
from dgn.network.fast.fused import going_in
from dgn.network.frozen import Fit, kept
from dgn.network.layered import Layered
from dgn.network.layers import read_layers
from dgn.network.layout.survey import OUTPUT, Seen
from dgn.network.scores import SCORES, find_scores


class Network(Layered):
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
        self._begin()

    def __repr__(self) -> str:
        return f"Network({self.name!r}, input_size={self.input_size}, {len(self.class_names)} classes)"

    @guest
    def to(self, device: torch.device | str) -> Network:
        """Move the weights, in the channels-last layout that convolutions like; returns itself."""
        with self.turn:
            self.module.to(device)
            derived.to(self.derived, device)
            self._manner.lay_out(self.module)
            self._copies.clear()  # whose buffers are where they were, and so are those of the next ones
            for name in ("layouts", "_inside", "_open_view"):
                vars(self).pop(name, None)
        return self

    @guest
    def with_dictionary(self, name: str, layer: str, file: str | Path, **told: Any) -> Network:
        """The same network with the latents of a dictionary, a sparse autoencoder say, as a further layer of that name.
        ``told`` and errors: see :class:`dgn.network.dictionaries.reading.DictionaryFile`."""
        asked = DictionaryFile(**told_file(name, {"layer": layer, "file": file, **told}))
        derived.check_base(layer, self.derived)
        return self.derive(name, asked.over(name, self.layout(layer).count))

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

    def _sources(self, layers: Sequence[str]) -> dict[str, Seen]:
        """The tensors of the module that have to be read for these layers, by the layers' names."""
        made = {layer: made for layer in layers if (made := self._made(layer)) is not None}
        read = [made[layer].layer if layer in made else layer for layer in layers]
        return {layer: self.seen(layer) for layer in dict.fromkeys(read)}

    @guest
    def fast(self, layers: Sequence[str]) -> Network:
        """The same network for a loop that reads these layers alone: equal within float error, and faster.

        BatchNorm and activation functions become part of the convolutions before them (:mod:`dgn.network.fast.fused`),
        so that layers other than those asked for may show something else. Itself where that can't be done.
        """
        sources = self._sources(layers)
        network = self._open_for(sources)
        if network is not self:
            return network.fast(layers)
        if not self._manner.last:
            return self  # convolutions that are done here give channels-last outputs
        parts = [going_in(seen.module) if seen.call.input else seen.module for seen in sources.values()]
        with self.turn:
            module = self._fused.get(self.module, self.normalised(self._grey(1)), parts)
        return self if module is self.module else self._view(module=module, _fast=True)

    def features(
        self, images: Tensor, layers: Sequence[str], fit: Fit = "resize", linked: bool = False
    ) -> dict[str, Tensor]:
        """The named layers' outputs for ``images``; nothing deeper than the deepest of them is computed.

        Args:
            images: ``[N, C, H, W]`` in [0, 1], any size (not checked: transformed images may leave [0, 1]).
            layers: module names as ``network.layers`` lists them; ``"output"`` is the final output, ``NAME.input``
                what goes into a module, ``NAME.head2`` a head of an attention.
            fit: see :meth:`prepare`.
            linked: gradients flow from deeper ones to earlier ones; what follows may then have changed them in place.

        Returns:
            One tensor a layer in its own shape, ``[N, ...]``, before any in-place change by what follows it.

        Raises:
            DgnError: unknown layer, or one that gave no tensor.
        """
        sources = self._sources(layers)
        network = self._open_for(sources)
        with self.turn:
            tensors = read_layers(network._modules, sources, lambda again: network._run(images, fit, again), linked)
        made = {layer: made for layer in layers if (made := self._made(layer)) is not None}
        tensors |= derived.computed(made, tensors, self.layout)
        missing = [layer for layer in layers if layer not in tensors]
        if missing:
            raise DgnError(f"layer {missing[0]!r} of network {self.name!r} gave no tensor in its forward pass")
        return {layer: tensors[layer] for layer in layers}

    def maps(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """:meth:`features` in one order for all layers: ``[N, C, *places]``."""
        read = self.features(images, list(dict.fromkeys(layers)))
        return {layer: self.layout(layer).canonical(output, len(images)) for layer, output in read.items()}

    def __call__(self, images: Tensor, fit: Fit = "resize") -> Tensor:
        """The final output (logits, for a classifier) for images ``[N, C, H, W]`` in [0, 1], see :meth:`prepare`."""
        return self.features(self._checked(images), [OUTPUT], fit)[OUTPUT]

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
