"""A faster copy of a frozen module for the ascent: the same layers under the same names, fewer passes over memory.

Frozen BatchNorm is folded into the convolution before it, and a ReLU or ReLU6 behind becomes a part of the
convolution's kernel. On a CPU the gradient of a convolution with stride 1 is taken by the forward kernel with the
flipped weights (in oneDNN the faster one), everything stays channels-last, and only the activations' outputs are kept.

Which convolutions can be changed is found by watching one forward pass, so that any ``nn.Module`` will do: a
convolution's output has to go to one BatchNorm or activation function and nowhere else. What is computed in between is
lost; layers that would show it are the *inner* ones of their group, which is left alone where one of them is read.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_leaves

from dgn.guest import without_tf32
from dgn.network import adapt
from dgn.network.fast.convolution import Activation, Convolution, Once, activation_of, can_be_fast
from dgn.network.fast.uses import uses


@dataclass(frozen=True)
class Group:
    """A convolution with what can be computed by it.

    Attributes:
        conv, norm, act: names of the modules; None where there is none of the kind.
        inner: layers whose values are lost when the group is fused, outputs and, see :func:`going_in`, inputs.
    """

    conv: str
    norm: str | None
    act: str | None
    inner: frozenset[str]


MOST_COPIES = 8
"""Fused copies of a module that are kept. They share their convolutions, in which the memory is."""


@dataclass
class FusedCopies:
    """Fused copies of one module, made where they are first needed.

    Attributes:
        groups: by the image that they were found with.
        copies: the last ones by image and the groups that are fused; None where fusing was tried in vain.
        convolutions: of each group: all copies have the same.
        signature: of the weights they were made from: when these change, everything is made anew.
    """

    groups: dict[Any, list[Group]] = field(default_factory=dict)
    copies: OrderedDict[Any, nn.Module | None] = field(default_factory=OrderedDict)
    convolutions: dict[Group, Convolution] = field(default_factory=dict)
    signature: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[type[FusedCopies], tuple[()]]:
        """A copied or pickled network makes its own: kernels' weights can't be copied."""
        return FusedCopies, ()

    @torch.inference_mode(False)  # the check needs gradients, and what is kept is read outside of the mode, too
    def get(self, module: nn.Module, image: Tensor, layers: Collection[str]) -> nn.Module:
        """The module to climb for the sake of ``layers``: a fused copy, or the module itself where nothing is gained.

        Args:
            module: frozen, in evaluation mode.
            image: ``[1, C, H, W]``, as the module wants it.
            layers: modules that will be read, or :func:`going_in` of them.
        """
        parts = list(module.modules())
        if any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in parts):
            return module  # hooks are part of what it computes, and may look at anything
        if any(part.training for part in parts):
            return module
        signature = _signature(module)
        if signature != self.signature:
            self.groups, self.copies, self.convolutions, self.signature = {}, OrderedDict(), {}, signature
        size = (tuple(image.shape), image.dtype)
        if size not in self.groups:
            self.groups[size] = find_groups(module, image)
        groups = [group for group in self.groups[size] if not group.inner.intersection(layers)]
        key = (size, tuple(groups))
        if key not in self.copies:
            self.copies[key] = _checked(module, groups, image, self.convolutions)
        self.copies.move_to_end(key)
        while len(self.copies) > MOST_COPIES:
            self.copies.popitem(last=False)
        return self.copies[key] or module


def _signature(module: nn.Module) -> tuple[Any, ...]:
    """What changes whenever a weight or buffer does; no value is read."""
    tensors = [*module.parameters(), *module.buffers()]
    return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)


@torch.no_grad()
def find_groups(module: nn.Module, image: Tensor) -> list[Group]:
    """The module's convolutions with the BatchNorms and activation functions that can be made part of them. A copy is
    run, so that a module with a memory keeps it.
    """
    try:
        module = _sharing(module)
        found = uses(module, image)
    except Exception:  # it can't be copied or watched: nothing is known of it
        return []
    parts = dict(module.named_modules())
    into: dict[int, list[str]] = defaultdict(list)
    gives: dict[int, set[str]] = defaultdict(set)
    calls = found.calls
    for name, pairs in calls.items():
        for before, after in pairs:
            into[before].append(name)
            gives[after].add(name)
    for name, tensor in found.taken:
        gives[tensor].add(going_in(name))
    groups = []
    for name, pairs in calls.items():
        if len(pairs) != 1 or not can_be_fast(parts[name]):
            continue
        at, lost = pairs[0][1], set()
        norm = act = None
        if found.counts[at] == 1:
            norm = next((other for other in into[at] if _folds(parts[other]) and len(calls[other]) == 1), None)
            if norm is not None:
                lost.add(at)
                inside = [child for child in calls if child == f"{norm}.act"]  # BatchNorm and activation in one (timm)
                at = calls[inside[0]][0][0] if inside else calls[norm][0][1]
        if found.counts[at] == 1:
            act = next((other for other in into[at] if activation_of(parts[other]) is not None), None)
            if act is not None:
                lost.add(at)
        inner = {layer for tensor in lost for layer in gives[tensor]}
        groups.append(Group(name, norm, act, frozenset(inner)))
    return groups


def going_in(module: str) -> str:
    """How what goes into a module is called among a group's inner layers: as no module is."""
    return f"{module} input"


def _folds(module: nn.Module) -> bool:
    """Whether it is a BatchNorm with frozen statistics that this module knows how to fold."""
    names = {"BatchNorm2d", "BatchNormAct2d", "FrozenBatchNorm2d"}
    if type(module).__name__ not in names or getattr(module, "running_mean", None) is None:
        return False
    children = dict(module.named_children())
    if type(module).__name__ == "BatchNormAct2d":
        return set(children) == {"drop", "act"} and type(module.drop) is nn.Identity
    return not children


class _Passed(nn.Module):
    """In the place of a folded BatchNorm; what was inside it is called one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


def fuse(module: nn.Module, groups: Iterable[Group], made: dict[Group, Convolution] | None = None) -> nn.Module:
    """A copy with these groups fused; weights that don't change are shared, and so are convolutions ``made`` before."""
    made = {} if made is None else made
    fused = _sharing(module)
    parts = dict(fused.named_modules())
    for group in groups:
        norm = parts[group.norm] if group.norm else None
        if group not in made:
            act = activation_of(parts[group.act]) if group.act else None
            made[group] = _folded(parts[group.conv], norm, act)
        _replace(fused, parts[group.conv], made[group])
        if group.act:
            last = parts[group.act]
            if not isinstance(last, Once):
                parts[group.act] = Once(last)
                _replace(fused, last, parts[group.act])
        if norm is not None:
            passed = _Passed()
            for name, child in norm.named_children():
                passed.add_module(name, child)
            _replace(fused, norm, passed)
    return fused


def _folded(conv: nn.Module, norm: nn.Module | None, act: Activation | None) -> Convolution:
    """``conv`` with the scale and shift of ``norm`` in its weights (computed in float64)."""
    tensors: tuple[Any, Any] = (conv.weight, conv.bias)
    weight, bias = (None if part is None else part.detach() for part in tensors)
    assert isinstance(weight, Tensor)
    if norm is not None:
        parts: tuple[Any, ...] = (weight, bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        double: list[Any] = [None if part is None else part.detach().double() for part in parts]
        conv_weight, conv_bias, mean, variance, scale, shift = double
        epsilon: Any = norm.eps
        folded = fuse_conv_bn_weights(conv_weight, conv_bias, mean, variance, epsilon, scale, shift)
        weight, bias = (part.detach().to(weight.dtype) for part in folded)
    return Convolution(conv, weight, bias, act)


def _sharing(module: nn.Module) -> nn.Module:
    """A copy of the modules that shares all tensors."""
    return adapt.copied(module, {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]})


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Under every name that ``old`` has in ``root``."""
    for part in root.modules():
        for name, child in part._modules.items():
            if child is old:
                part._modules[name] = new


def _checked(module: nn.Module, groups: list[Group], image: Tensor, made: dict[Group, Convolution]) -> nn.Module | None:
    """The fused copy, if its output and gradient are the module's own on noise; else None."""
    if not groups:
        return None
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)

    def look(one: nn.Module) -> tuple[Tensor, Tensor]:
        x = noise.clone().requires_grad_()
        leaves = [leaf for leaf in tree_leaves(one(x)) if isinstance(leaf, Tensor)]
        output = torch.cat([leaf.flatten().float() for leaf in leaves])
        weights = torch.linspace(0.5, 1.5, len(output), device=output.device)
        return output.detach(), torch.autograd.grad((output * weights).sum(), x)[0]

    try:
        fused = fuse(module, groups, made)
        # TF32's rounding alone makes gradients a tenth different.
        with torch.enable_grad(), without_tf32() if image.is_cuda else nullcontext():
            pairs = zip(look(_sharing(module)), look(fused), strict=True)
            same = all(float((a - b).norm()) <= 1e-2 * float(a.norm()) for a, b in pairs)
    except Exception:  # a forward pass that needs what fusing takes away
        return None
    return fused if same else None
