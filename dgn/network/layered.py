"""A frozen module's layers by name: what it gives and takes, and what is computed from these."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

from torch import Tensor, nn

from dgn.errors import DgnError, first_line
from dgn.guest import guest
from dgn.network import adapt, attention, derived
from dgn.network.attention import Heads
from dgn.network.derived import Derived
from dgn.network.fast.fused import FusedCopies
from dgn.network.frozen import FrozenModule, kept
from dgn.network.layers import unread
from dgn.network.layout.layout import Layout
from dgn.network.layout.layouts import Layouts
from dgn.network.layout.prefix import prefix
from dgn.network.layout.survey import Seen, Survey, survey

_FOUND_OUT = ("layers", "survey", "layouts", "_inside")
"""What is found out of a module at an input size, and kept."""

MOST_OPENED = 4
"""Copies with opened attention that are kept. They share the parameters."""


class Layered(FrozenModule):
    """The layers of a frozen module. What goes into a module, ``NAME.input``, single heads of attention,
    ``NAME.head2``, and the insides of fused attention can be read, and are not listed.
    """

    class_names: tuple[str, ...]
    axes: dict[str, str]

    def _begin(self) -> None:
        """Set what belongs to the layers."""
        self.derived: dict[str, Derived] = {}  # layers that are computed from the module's
        self._fused = FusedCopies()
        self._original: Any = None
        self._parts: frozenset[str] = frozenset()  # attentions that are opened
        self._copies: dict[frozenset[str], tuple[nn.Module, FusedCopies]] = {}

    @property
    def _root(self) -> Self:
        return self._original or self

    def at(self, input_size: int | tuple[int, int]) -> Self:
        """The same frozen module seen at another input size; the weights are shared.

        Args:
            input_size: height and width in pixels, or the short side, with the proportions of the network's own input.
        """
        if isinstance(input_size, int):
            short = min(self._root.input_size)
            height, width = (round(side * input_size / short) for side in self._root.input_size)
            input_size = (height, width)
        return self if self.input_size == input_size else self._view(_FOUND_OUT, input_size=input_size)

    def _view(self, forget: Iterable[str] = (), **changes: Any) -> Self:
        """The same network with these attributes changed."""
        view = copy.copy(self)
        vars(view).update(_original=self._root, **changes)
        for name in (*forget, "_open_view", *(["_modules"] if "module" in changes else [])):
            vars(view).pop(name, None)
        return view

    def derive(self, name: str, layer: Derived) -> Self:
        """The same network with a further layer of that name, which is computed from one that it has."""
        derived.check_base(layer.layer, self.derived)
        self.layout(layer.layer)
        known = name in self._modules or name in self._root.survey.several or self._root._home(name) is not None
        derived.check_name(name, taken=known or self._made(name) is not None)
        head = self._made(layer.layer)
        if head is not None:
            layer = replace(layer, layer=head.layer, compute=derived.Both(head.compute, layer.compute))
        derived.to({name: layer}, self.device)
        view = self._view(["layers"], derived={**self.derived, name: layer})
        view._original = self._original
        return view

    def apart(self) -> Self:
        """The same network for a question that must leave no trace: its module is a copy that shares the parameters, so
        that what it keeps between calls stays its own. Itself where the module can't be copied.
        """
        shared = {id(parameter): parameter for parameter in self.module.parameters()}
        try:
            return self._view(module=adapt.copied(self.module, shared))
        except Exception:
            return self

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
            size = " x ".join(map(str, self.input_size))
            raise DgnError(f"network {self.name!r} failed on an image of {size} px: {first_line(error)}") from error

    @kept
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that a layer gives, in order of the forward pass, with its shape without the samples' axis.

        Of a module that is called several times, ``NAME.call2`` is what it gives when it is called again; of a call
        that gives several tensors, each is ``NAME.output.PART``. ``output`` is the final output. What goes into modules
        (``NAME.input``) and heads of attention (``NAME.head0``) have names too, and are not listed.
        """
        listed = {layer: seen.shape for layer, seen in self._sized.survey.layers.items()}
        every = derived.placed(self.derived, listed, self.layout)
        for name, made in self.derived.items():
            home = None if name in every else self._sized._home(made.layer)  # over what is not listed itself
            if home is not None:
                every[name] = made.shape(home.survey.every[made.layer].shape, self.layout(made.layer))
        return every

    @property
    def _sized(self) -> Self:
        """The network whose survey is of this input size."""
        return self._root if self.input_size == self._root.input_size else self

    @kept
    def _inside(self) -> Self | None:
        """The same with all of its fused attention opened; None where there is none, or it can't be copied."""
        names = attention.fused(self._modules)
        with suppress(Exception):  # it can't be copied
            return self._opened(frozenset(names)) if names else None
        return None

    def _opened(self, names: frozenset[str]) -> Self:
        """The same with these attentions opened."""
        if names not in self._copies:
            while len(self._copies) >= MOST_OPENED:
                self._copies.pop(next(iter(self._copies)))
            self._copies[names] = attention.opened(self._root.module, names), FusedCopies()
        module, fused = self._copies[names]
        return self._view(_FOUND_OUT, module=module, _fused=fused, _parts=names)

    def _open_for(self, sources: Mapping[str, Seen]) -> Self:
        """The network whose module gives all of these layers: itself, or one with some attention opened."""
        own = self._root
        inside = [seen.module for layer, seen in sources.items() if layer not in own.survey.every]
        names = attention.fused(own._modules) if inside else ()
        wanted = frozenset(name for name in names for module in inside if f"{module}.".startswith(f"{name}."))
        if wanted <= self._parts:
            return self
        kept_view: Self | None = vars(self).get("_open_view")
        if kept_view is None or kept_view._parts != wanted:
            kept_view = vars(self)["_open_view"] = self._opened(wanted)
        return kept_view

    def _home(self, layer: str) -> Self | None:
        """The network of this input size in whose survey a layer is: itself, or with attention opened; else None."""
        if layer in self.survey.every:
            return self
        inside = self._inside if "." in layer else None
        return inside if inside is not None and layer in inside.survey.every else None

    @property
    def heads(self) -> list[Heads]:
        """Those of each attention whose heads can be read."""
        modules = self._root._modules
        found = (attention.heads_of(modules, name) for name in modules)
        return [heads for heads in found if heads is not None and self._root._home(heads.layer) is not None]

    def _made(self, layer: str) -> Derived | None:
        """How a layer is computed from another; None where it is the module's own, or there is none."""
        if layer in self.derived or ".head" not in layer or layer in self._root.survey.every:
            return self.derived.get(layer)
        return attention.find_head(self._root._modules, layer)

    def seen(self, layer: str) -> Seen:
        """Which module gives a layer's tensor and when, and the shape that it has at the network's own input size.

        Raises:
            DgnError: no such layer, with the nearest names; or it is several tensors, with theirs.
        """
        made = self._made(layer)
        if made is not None:
            return made.seen(self.layout(made.layer))
        home = self._root._home(layer)
        if home is None:
            raise DgnError(unread(layer, self._root.survey, self.module, self.name, self.derived))
        return home.survey.every[layer]

    def layout(self, layer: str) -> Layout:
        """Which axes of a layer are its features and its places, at the network's own input size.

        Raises:
            DgnError: unknown layer, or one whose axes can't be found out.
        """
        made = self._made(layer)
        if made is not None:
            return made.layout(self.layout(made.layer))
        self.seen(layer)
        home = self._root._home(layer)
        assert home is not None
        return home.layouts(layer)

    @kept
    def layouts(self) -> Layouts:
        """The layouts of its layers, found when they are asked for."""
        copied = self.apart()
        axes = {**self.axes, **attention.probabilities(self.survey, self._modules)}
        size = (self.channels, *self.input_size)
        return Layouts(copied._modules, self.survey.every, axes, copied._show, size, prefix(self.module))

    def _show(self, images: Tensor) -> Any:
        with self.turn:
            return self.module(self.normalised(images.to(self.device)))

    def layer_shape(self, layer: str) -> tuple[int, ...]:
        """Shape of a layer's output without the batch axis; an error with the nearest names for an unknown layer."""
        self.seen(layer)
        if layer in self.layers:
            return self.layers[layer]
        made = self._made(layer)
        if made is not None:
            return made.shape(self.layer_shape(made.layer), self.layout(made.layer))
        home = self._sized._home(layer)
        assert home is not None
        return home.survey.every[layer].shape

    def map_shape(self, layer: str) -> tuple[int, ...]:
        """Shape of a layer in :meth:`dgn.Network.maps` at this input size, without the samples."""
        shape, axis = self.layer_shape(layer), self.layout(layer).features
        return (shape[axis], *shape[:axis], *shape[axis + 1 :]) if shape else (1,)

    def depth(self, layer: str) -> int:
        """When the forward pass gives a layer: a number that is higher for what comes later."""
        made = self._made(layer)
        if made is not None:
            return self.depth(made.layer)
        order = list(self._root.survey.every)
        if layer in order:
            return order.index(layer)
        name = self.seen(layer).module  # inside of an attention: before this has its result
        while name not in order:
            name = name.rpartition(".")[0]
        return order.index(name) if name else len(order)
