"""A network made fast for reading on the CPU: what follows a convolution element by element is done by it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dgn.errors import DgnError
from dgn.network import Network

TOLERANCE = 2e-5
"""Largest difference, as a share of the largest number of a layer, that a change of the order of sums may make."""


def fuse(network: Network, layers: Sequence[str]) -> Network:
    """The same network with fewer passes over memory: batch norms folded, activation functions computed in place.

    Which norm and which activation function belong to a convolution is seen in a forward pass: they take its output
    and nobody else does. The result is compared with the network on noise before it is handed out.

    Args:
        network: stays as it is.
        layers: that will be read (``"output"`` too); they and no others keep their meaning.

    Returns:
        A network of the same names; the given one itself where nothing can be gained, or where the results differ.
    """
    images = torch.rand(2, network.channels, *network.input_size, generator=torch.Generator().manual_seed(0))
    if network.device.type != "cpu" or any(p.dtype != torch.float32 for p in network.module.parameters()):
        return network
    view = copy.copy(network)
    for name in ("layers", "_modules"):
        view.__dict__.pop(name, None)
    with torch.inference_mode():
        pairs = _pairs(network, layers, images[:1])
        if not pairs:
            return network
        try:
            view.module = copy.deepcopy(network.module)
            for conv, norm, act in pairs:
                _join(view.module, conv, norm, act)
            expected, found = network.features(images, layers), view.features(images, layers)
        except (RuntimeError, NotImplementedError, DgnError):
            return network
    same = all(close(found[layer], expected[layer]) for layer in layers)
    return view if same else network


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether two computations of a layer agree within :data:`TOLERANCE`."""
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())  # false for not-a-number


class _Packed:
    """A weight as oneDNN orders it, shared by copies of a module."""

    weight: Any = None

    def __deepcopy__(self, _memo: Any) -> _Packed:
        return self


class FusedConv(nn.Module):
    """A convolution with the norm and the activation function that followed it, in one pass of oneDNN."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor, act: nn.Module | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.act: tuple[Any, ...] = _NAMES[type(act)](act)
        self.same = isinstance(conv, Conv2dSame)
        self.kernel, self.stride, self.dilation = conv.kernel_size, list(conv.stride), list(conv.dilation)
        self.padding = [0, 0] if self.same else [int(side) for side in conv.padding]
        self.groups = conv.groups
        self.packed = _Packed()

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            x = pad_same(x, list(self.kernel), self.stride, self.dilation)
        how = (self.padding, self.stride, self.dilation, self.groups)
        if self.packed.weight is None:  # in oneDNN's own order for the shape that comes first; others may come later
            weight = self.weight.detach()
            self.packed.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *how, list(x.shape))
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, *self.act
        )


_NAMES: dict[Any, Any] = {
    type(None): lambda act: ("none", [], ""),
    nn.ReLU: lambda act: ("relu", [], ""),
    nn.ReLU6: lambda act: ("hardtanh", [0.0, 6.0], ""),
    nn.Hardtanh: lambda act: ("hardtanh", [float(act.min_val), float(act.max_val)], ""),
    nn.SiLU: lambda act: ("swish", [], ""),
}
"""How oneDNN calls activation functions."""


def _pairs(network: Network, layers: Sequence[str], images: Tensor) -> list[tuple[str, str, str | None]]:
    """Names of convolutions, their norms and (where there is one) activation functions."""
    modules = {name: part for name, part in network.module.named_modules() if name}
    users: dict[int, list[str]] = {}
    made: dict[str, list[int]] = {}
    kept: list[Any] = []  # an id stands for a tensor only as long as it lives

    def watch(name: str) -> Any:
        leaf = not list(modules[name].children()) or isinstance(modules[name], nn.BatchNorm2d)

        def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
            kept.extend([inputs, output])
            made.setdefault(name, []).append(id(output))
            if leaf:
                for tensor in inputs:
                    users.setdefault(id(tensor), []).append(name)

        return hook

    handles = []
    try:
        handles = [part.register_forward_hook(watch(name)) for name, part in modules.items()]
        network.module(network.prepare(images))
    except Exception:  # a module without hooks, or one that can't run here: nothing is gained, nothing lost
        return []
    finally:
        for handle in handles:
            handle.remove()
    read = {identity for layer in layers for identity in made.get(layer, ())}
    found: list[tuple[str, str, str | None]] = []
    for name, part in modules.items():
        if not isinstance(part, nn.Conv2d) or len(made.get(name, ())) != 1 or made[name][0] in read:
            continue
        norm = users.get(made[name][0], [])
        if len(norm) != 1 or len(made[norm[0]]) != 1:
            continue
        module = modules[norm[0]]
        if any(layer.startswith(f"{norm[0]}.") for layer in layers):
            continue
        if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None:
            continue
        inner = getattr(module, "act", None)  # timm's norms carry their activation function
        if isinstance(inner, nn.Module):
            found.append((name, norm[0], f"{norm[0]}.act" if type(inner) in _NAMES and _plain(part) else None))
        elif type(module) is nn.BatchNorm2d:
            after = users.get(made[norm[0]][0], [])
            joins = len(after) == 1 and type(modules[after[0]]) in _NAMES and len(made[after[0]]) == 1
            free = joins and _plain(part) and made[norm[0]][0] not in read
            found.append((name, norm[0], after[0] if free else None))
    return found


def _plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution is what its attributes say."""
    usual = type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return (usual or isinstance(conv, Conv2dSame)) and torch.backends.mkldnn.is_available()


def _join(root: nn.Module, conv_name: str, norm_name: str, act_name: str | None) -> None:
    conv, norm = root.get_submodule(conv_name), root.get_submodule(norm_name)
    act = None if act_name is None else root.get_submodule(act_name)
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    inner = getattr(norm, "act", None)
    if act_name is not None and inner is None:
        _put(root, act_name, nn.Identity())
    _put(root, norm_name, nn.Identity() if inner is None or act is not None else inner)
    layout = torch.channels_last
    if _plain(conv):
        _put(root, conv_name, FusedConv(conv, weight.detach().contiguous(memory_format=layout), bias.detach(), act))
    else:
        conv.weight, conv.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)
