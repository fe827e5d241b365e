"""Which tensors of a forward pass are looked at by what, and how often."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dgn.network import adapt

_READS_VALUES = {"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__contains__"}
"""Calls that give no tensor and yet look at one's values."""


@dataclass(frozen=True)
class Uses:
    """The tensors of a forward pass, by their ids.

    Attributes:
        calls: of each module's calls the tensor that went in and that came out.
        counts: how often each tensor was looked at.
        taken: modules with each tensor that they took, in whatever arguments.
    """

    calls: dict[str, list[tuple[int, int]]]
    counts: dict[int, int]
    taken: list[tuple[str, int]]


class _Watch(TorchFunctionMode):
    """Counts, for every tensor of a forward pass, the operations that look at its values."""

    def __init__(self) -> None:
        super().__init__()
        self.uses: dict[int, int] = defaultdict(int)
        self.held: list[Any] = []  # while they live, no two tensors have the same id

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _READS_VALUES or any(isinstance(leaf, Tensor) for leaf in tree_leaves(output)):
            self.use((args, kwargs))
        self.held.append(output)
        return output

    def use(self, tree: Any) -> None:
        """Count a use of each tensor in it."""
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                self.uses[id(leaf)] += 1
                self.held.append(leaf)


def uses(module: nn.Module, image: Tensor) -> Uses:
    """Watch one forward pass."""
    calls: dict[str, list[tuple[int, int]]] = defaultdict(list)
    taken: list[tuple[str, int]] = []

    def began(name: str, _module: nn.Module, arguments: Any, keywords: Any) -> None:
        leaves = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)]
        watch.held.append(leaves)
        taken.extend((name, id(leaf)) for leaf in leaves)

    def note(name: str, _module: nn.Module, inputs: Any, output: Any) -> None:
        one = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Tensor) else None
        watch.held.append((inputs, output))
        calls[name].append((id(one), id(output) if isinstance(output, Tensor) else 0))

    parts = {name: part for name, part in adapt.parts(module).items() if name}
    handles = [adapt.hook(part, partial(note, name)) for name, part in parts.items()]
    handles += [adapt.before(part, partial(began, name)) for name, part in parts.items()]
    watch = _Watch()
    try:
        with watch:
            output = module(image)
    finally:
        for handle in handles:
            handle.remove()
    watch.use(output)
    return Uses(dict(calls), watch.uses, taken)
