"""What a module's layers give: every tensor of every call, found by showing the module two batches.

A layer is named as its module is. Where a module is called several times, ``NAME`` is its first call and
``NAME.call2`` its second; where a call gives several tensors, each has a name of its own, ``NAME.output.0`` or
``NAME.output.logits``. The network's final output is ``output``, and what a container holds ``output.logits`` or
``output.0``. Where a module has such a name already, an underscore is added.

What goes into a module is named likewise, ``NAME.input``, ``NAME.input.call2``; of several tensors ``NAME.input.0`` by
their number among the arguments, or by their keyword.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dgn.network.calling import Call, watching

OUTPUT = "output"
"""The name under which a network's final output is read."""

INPUT = "input"
"""What is behind a module's name for what goes into it."""

EACH = "*"
"""In a path: a list with one entry a sample, whose tensors are stacked."""

BATCHES = (2, 3)
"""Images of the two passes: what follows their number is the axis of the samples."""

_DEEP = 6
"""Containers in containers that are looked into."""

Show = Callable[[int, Callable[[], object]], Any]
Shapes = dict[tuple[str, ...], tuple[int, ...]]
"""Of the tensors in what a module gives, by their paths in it."""


@dataclass(frozen=True)
class Seen:
    """A tensor that a module gives or takes: where it comes from, its shape without the samples, and their axis.

    Attributes:
        call: of which module (the whole network's name is empty), which of its calls, and on which side of it.
        path: where in what it gave, or took.
        shape: without the axis of the samples; where each sample takes several places on it, they come first.
        batch: the axis of the samples.
        windows: places that each sample takes on that axis, one after the other (windows of a map); 1: none.
    """

    call: Call
    path: tuple[str, ...]
    shape: tuple[int, ...]
    batch: int = 0
    windows: int = 1

    @property
    def module(self) -> str:
        """The name of the module that gives or takes it."""
        return self.call.module

    def samples_first(self, output: Tensor, samples: int) -> Tensor:
        """The tensor as ``[N, *shape]`` with N ``samples``; of another input size, with that one's shape. A view."""
        if self.windows > 1:
            output = output.unflatten(self.batch, (samples, -1))
        return output.movedim(self.batch, 0)


@dataclass
class Survey:
    """Every layer of a module.

    Attributes:
        every: inputs and outputs, in the order of the forward pass, the final output last.
        several: of names that stand for more than one tensor, the names of these.
        calls: how often each module was called.
    """

    every: dict[str, Seen] = field(default_factory=dict)
    several: dict[str, list[str]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    @property
    def layers(self) -> dict[str, Seen]:
        """The outputs."""
        return {name: seen for name, seen in self.every.items() if not seen.call.input}


def parts_of(output: Any) -> dict[str, Any]:
    """What a container holds, by name; empty for anything else."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return dict(output._asdict())
    if isinstance(output, (tuple, list)):
        return {str(index): value for index, value in enumerate(output)}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {each.name: getattr(output, each.name) for each in dataclasses.fields(output)}
    if isinstance(output, (nn.Module, Tensor, str, bytes)) or output is None:
        return {}
    return dict(getattr(output, "__dict__", {}))


def pick(output: Any, path: Sequence[str]) -> Tensor:
    """The tensor at a path.

    Raises:
        KeyError: there is none.
    """
    for depth, key in enumerate(path):
        if key == EACH:
            return torch.stack([pick(entry, path[depth + 1 :]) for entry in output])
        output = parts_of(output)[key]
    if not isinstance(output, Tensor):
        raise KeyError(".".join(path))
    return output


def watched(
    modules: Mapping[str, nn.Module], sources: Iterable[Seen]
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The modules whose outputs, and those whose inputs, have to be looked at to read these tensors."""
    calls = {source.call for source in sources if source.module}
    outputs, inputs = ({call.module: modules[call.module] for call in calls if call.input is side}
                       for side in (False, True))  # fmt: skip
    return outputs, inputs


def _tensors(output: Any, samples: int, path: tuple[str, ...] = ()) -> Shapes:
    """Paths and shapes of all floating-point tensors; those in a list with an entry a sample also stacked."""
    if isinstance(output, Tensor):
        return {path: tuple(output.shape)} if output.is_floating_point() else {}
    shapes: Shapes = {}
    if len(path) >= _DEEP:
        return shapes
    for key, value in parts_of(output).items():
        shapes |= _tensors(value, samples, (*path, key))
    if isinstance(output, (list, tuple)) and len(output) == samples:
        each = [_tensors(value, samples) for value in output]
        shapes |= {
            (*path, EACH, *inner): (samples, *shape)
            for inner, shape in each[0].items()
            if all(other.get(inner) == shape for other in each)
        }
    return shapes


def survey(modules: Mapping[str, nn.Module], show: Show, names: Sequence[str] = ()) -> Survey:
    """Every layer of a module.

    Args:
        modules: its parts by name.
        show: shows it so many images and returns what it gives; where it tries again, it calls its second argument.
        names: of its classes: of several outputs the one with so many entries is the final one.
    """
    try:
        passes = [_record(modules, show, count) for count in BATCHES]
    except Exception:
        passes = [_record(modules, show, 1)]  # it takes one image at a time, or says what is wrong
    known = Survey()
    for call, shapes in passes[0].items():
        known.calls[call.module] = max(call.number, known.calls.get(call.module, 0))
        tensors = _of_samples(call, shapes, [other.get(call, {}) for other in passes[1:]])
        if tensors and call.module:
            _name(known, call, tensors, modules)
        elif tensors:
            _name_output(known, tensors, len(names), modules)
    return known


@torch.no_grad()
def _record(modules: Mapping[str, nn.Module], show: Show, samples: int) -> dict[Call, Shapes]:
    """The tensors that go into each call and come out of it, in the order in which it begins or ends."""
    record: dict[Call, Shapes] = {}

    def note(call: Call, value: Any) -> None:
        record[call] = _tensors(value, samples)

    with watching(modules, note, record, inputs=modules) as again:
        note(Call(), show(samples, again))
    return record


def _of_samples(call: Call, shapes: Shapes, others: Sequence[Shapes]) -> list[Seen]:
    """The tensors of one call that follow the number of images on exactly one axis; ``shapes`` are those of the first
    pass, ``others`` of the second, empty where there was one pass with one image.
    """
    tensors = []
    for path, shape in shapes.items():
        if others and (known := _compared(shape, others[0].get(path, ()))):
            tensors.append(Seen(call, path, *known))
        elif not others and EACH not in path:
            tensors.append(Seen(call, path, shape[1:]))
    # An entry of a list with one a sample is no tensor of all samples, whatever follows their number in it.
    paths = [tensor.path for tensor in tensors]
    lists = {path[: path.index(EACH)] for path in paths if EACH in path}
    entries = {path for path in paths if EACH not in path and any(path[:depth] in lists for depth in range(len(path)))}
    return [tensor for tensor in tensors if tensor.path not in entries]


def _compared(shape: tuple[int, ...], other: tuple[int, ...]) -> tuple[tuple[int, ...], int, int] | None:
    """A tensor's shape, batch axis and windows (see :class:`Seen`) from its shapes in the two passes; None where not
    exactly one axis follows the number of images.
    """
    few, many = BATCHES
    axes = [axis for axis, sizes in enumerate(zip(shape, other, strict=False)) if sizes[0] != sizes[1]]
    if len(shape) != len(other) or len(axes) != 1:
        return None
    axis = axes[0]
    if shape[axis] * many != other[axis] * few or shape[axis] % few:
        return None
    windows = shape[axis] // few
    return (*shape[:axis], *([windows] if windows > 1 else []), *shape[axis + 1 :]), axis, windows


def _name(known: Survey, call: Call, tensors: list[Seen], modules: Mapping[str, nn.Module]) -> None:
    """A layer's names: its module's for a single tensor of the first call, others for what there is besides.

    ``output`` is the network's own; a module named ``output`` is therefore listed as ``output.call1``.
    """
    if call.input:
        name = _free(f"{call.module}.{INPUT}" + (f".call{call.number}" if call.number > 1 else ""), modules)
    elif call.number == 1 and call.module != OUTPUT:
        name = call.module
    else:
        name = _free(f"{call.module}.call{call.number}", modules)
    if len(tensors) == 1:
        known.every[name] = tensors[0]
    else:
        _name_parts(known, name, tensors, name if call.input else f"{name}.{OUTPUT}", modules)


def _free(name: str, modules: Mapping[str, nn.Module]) -> str:
    """A name that no module has: a module is always read by its own."""
    while name in modules:
        name += "_"
    return name


def _name_output(known: Survey, tensors: list[Seen], classes: int, modules: Mapping[str, nn.Module]) -> None:
    """The final output: what fits the class names, or the only ``[N, K]``, or the only tensor."""
    _name_parts(known, OUTPUT, [tensor for tensor in tensors if tensor.path], OUTPUT, modules)
    rows = [tensor for tensor in tensors if len(tensor.shape) == 1]
    fitting = [tensor for tensor in rows if tensor.shape[0] == classes] if classes else []
    chosen = next((choice for choice in (tensors, fitting, rows) if len(choice) == 1), None)
    if chosen:
        known.every[OUTPUT] = chosen[0]
        del known.several[OUTPUT]


def _name_parts(known: Survey, name: str, tensors: list[Seen], stem: str, modules: Mapping[str, nn.Module]) -> None:
    """Names for several tensors, from their paths."""
    paths = [".".join(key for key in tensor.path if key != EACH) for tensor in tensors]
    parts = {_free(f"{stem}.{path}", modules): tensor for path, tensor in zip(paths, tensors, strict=True)}
    known.every |= parts
    known.several[name] = list(parts)
