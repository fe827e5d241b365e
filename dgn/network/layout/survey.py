"""What a module's layers give: every tensor of every call, found by showing the module two batches.

A layer is named as its module is. Where a module is called several times, ``NAME`` is its first call and
``NAME.call2`` its second; where a call gives several tensors, each has a name of its own, ``NAME.output.0`` or
``NAME.output.logits``. The network's final output is ``output``, and what a container holds ``output.logits`` or
``output.0``. Where a module has such a name already, an underscore is added.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dgn.network import adapt

OUTPUT = "output"
"""The name under which a network's final output is read."""

EACH = "*"
"""In a path: a list with one entry a sample, whose tensors are stacked."""

BATCHES = (2, 3)
"""Images of the two passes: what follows their number is the axis of the samples."""

_DEEP = 6
"""Containers in containers that are looked into."""


@dataclass(frozen=True)
class Source:
    """Where a layer's tensor comes from: a module's name (empty: the whole), which of its calls, and a path in it."""

    module: str
    call: int = 1
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """A tensor of the two passes: where it comes from, its shape without the samples, and their axis.

    Attributes:
        source: see :class:`Source`.
        shape: without the axis of the samples; where each sample takes several places on it, they come first.
        batch: the axis of the samples.
        windows: places that each sample takes on that axis, one after the other (windows of a map); 1: none.
    """

    source: Source
    shape: tuple[int, ...]
    batch: int = 0
    windows: int = 1

    def samples_first(self, output: Tensor, samples: int) -> Tensor:
        """The tensor as ``[N, *shape]`` with N ``samples``; of another input size, with that one's shape. A view."""
        if self.windows > 1:
            output = output.unflatten(self.batch, (samples, -1))
        return output.movedim(self.batch, 0)


@dataclass
class Survey:
    """Every layer of a module.

    Attributes:
        layers: in the order in which they are done, the final output last.
        several: of names that stand for more than one tensor, the names of these.
        calls: how often each module was called.
    """

    layers: dict[str, Seen] = field(default_factory=dict)
    several: dict[str, list[str]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)


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
            return torch.stack([pick(one, path[depth + 1 :]) for one in output])
        output = parts_of(output)[key]
    if not isinstance(output, Tensor):
        raise KeyError(".".join(path))
    return output


def _tensors(output: Any, samples: int, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Paths and shapes of all floating-point tensors; those in a list with an entry a sample also stacked."""
    if isinstance(output, Tensor):
        return {path: tuple(output.shape)} if output.is_floating_point() else {}
    found: dict[tuple[str, ...], tuple[int, ...]] = {}
    if len(path) >= _DEEP:
        return found
    parts = parts_of(output)
    for key, value in parts.items():
        found |= _tensors(value, samples, (*path, key))
    if isinstance(output, (list, tuple)) and len(output) == samples:
        each = [_tensors(value, samples) for value in output]
        found |= {
            (*path, EACH, *inner): (samples, *shape)
            for inner, shape in each[0].items()
            if all(other.get(inner) == shape for other in each)
        }
    return found


Run = Callable[[int, Callable[[], object]], Any]

Record = dict[tuple[str, int], dict[tuple[str, ...], tuple[int, ...]]]
"""Of each module's calls, in the order in which they end, the paths and shapes of the tensors."""


def survey(modules: Mapping[str, nn.Module], run: Run, names: Sequence[str] = ()) -> Survey:
    """Every layer of a module.

    Args:
        modules: its parts by name.
        run: shows it so many images, and returns what it gives; where it tries again, it calls its second argument.
        names: of its classes, by which the final output is told from others beside it.
    """
    try:
        passes = [_record(modules, run, count) for count in BATCHES]
    except Exception:
        passes = [_record(modules, run, 1)]  # it takes one image at a time, or says what is wrong
    found = Survey()
    for (name, call), shapes in passes[0].items():
        found.calls[name] = max(call, found.calls.get(name, 0))
        seen = _seen(name, call, shapes, [other.get((name, call), {}) for other in passes[1:]])
        if seen and name:
            _name(found, name, call, seen, modules)
        elif seen:
            _name_output(found, seen, len(names), modules)
    return found


@torch.no_grad()
def _record(modules: Mapping[str, nn.Module], run: Run, samples: int) -> Record:
    record: Record = {}
    calls: dict[str, int] = defaultdict(int)

    def tap(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            calls[name] += 1
            record[name, calls[name]] = _tensors(output, samples)

        return hook

    def again() -> None:
        record.clear()
        calls.clear()

    handles = [adapt.hook(part, tap(name)) for name, part in modules.items()]
    try:
        record["", 1] = _tensors(run(samples, again), samples)
    finally:
        for handle in handles:
            handle.remove()
    return record


def _seen(name: str, call: int, shapes: Any, others: list[Any]) -> list[Seen]:
    """The tensors of one call that follow the number of images on exactly one axis."""
    found = []
    for path, shape in shapes.items():
        source = Source(name, call, path)
        if not others:
            if EACH not in path:
                found.append(Seen(source, shape[1:]))
            continue
        other = others[0].get(path, ())
        if len(other) != len(shape):
            continue
        few, many = BATCHES
        axes = [axis for axis, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b]
        if len(axes) != 1 or shape[axes[0]] * many != other[axes[0]] * few or shape[axes[0]] % few:
            continue
        axis, windows = axes[0], shape[axes[0]] // few
        rest = (*shape[:axis], *([windows] if windows > 1 else []), *shape[axis + 1 :])
        found.append(Seen(source, rest, axis, windows))
    each = {one.source.path for one in found if EACH in one.source.path}
    # An entry of a list with one a sample is no tensor of all samples, whatever follows their number in it.
    lists = {path[: path.index(EACH)] for path in each}
    return [one for one in found if one.source.path in each or not any(_inside(one.source.path, top) for top in lists)]


def _inside(path: tuple[str, ...], top: tuple[str, ...]) -> bool:
    return len(path) > len(top) and path[: len(top)] == top


def _name(found: Survey, module: str, call: int, seen: list[Seen], modules: Mapping[str, nn.Module]) -> None:
    """A layer's names: its module's for a single tensor of the first call, others for what there is besides.

    ``output`` is the whole's, so that the first call of a module that is called so has its number, too.
    """
    name = module if call == 1 and module != OUTPUT else _free(f"{module}.call{call}", modules)
    if len(seen) == 1:
        found.layers[name] = seen[0]
        return
    several = {_free(f"{name}.{OUTPUT}.{_written(one.source.path)}", modules): one for one in seen}
    found.layers |= several
    found.several[name] = list(several)


def _free(name: str, modules: Mapping[str, nn.Module]) -> str:
    """A name that no module has: a module is always read by its own."""
    while name in modules:
        name += "_"
    return name


def _name_output(found: Survey, seen: list[Seen], classes: int, modules: Mapping[str, nn.Module]) -> None:
    """The final output: what fits the class names, or the only ``[N, K]``, or the only tensor."""
    several = {_free(f"{OUTPUT}.{_written(one.source.path)}", modules): one for one in seen if one.source.path}
    rows = [one for one in seen if len(one.shape) == 1]
    fitting = [one for one in rows if one.shape[0] == classes] if classes else []
    chosen = next((some for some in (seen, fitting, rows) if len(some) == 1), None)
    found.layers |= several
    if chosen:
        found.layers[OUTPUT] = chosen[0]
    else:
        found.several[OUTPUT] = list(several)


def _written(path: Sequence[str]) -> str:
    return ".".join(key for key in path if key != EACH)
