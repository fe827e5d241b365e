"""Modules as people hand them over, of any kind and in any numbers, made into frozen copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from dgn.errors import DgnError, first_line

_COMPILED = "_torchdynamo_orig_callable"
"""Where a function that ``torch.compile`` has made keeps what it was made from."""


class _CutOff(TorchFunctionMode):
    """Has ``deepcopy`` also copy tensors that were computed: a kept activation, the weight of an old weight norm."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if not tensor.is_leaf and id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            if id(tensor) in memo:
                return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def copied(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, with a ``memo`` as of :func:`copy.deepcopy`. What Python can't copy (locks, open files, generators)
    is shared.
    """
    shared = dict(memo or {})
    with _CutOff():
        try:
            memo = dict(shared)
            own = copy.deepcopy(module, memo)
        except Exception:
            memo = dict(shared)
            for part in module.modules():
                for key, value in vars(part).items():
                    if key not in ("_parameters", "_buffers", "_modules") and not _copies(value, memo):
                        memo[id(value)] = value
            own = copy.deepcopy(module, memo)
        for part in own.modules():
            forward = vars(part).get("forward")
            compiled = getattr(part.forward, _COMPILED, None)
            if compiled is not None:
                part.forward = MethodType(getattr(compiled, "__func__", compiled), part)  # type: ignore[method-assign]
            elif isinstance(forward, FunctionType):
                part.forward = _rebound(forward, memo)  # type: ignore[method-assign]
    return own


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """A function that somebody put in the place of ``forward``, referring to the copies of what it refers to."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(CellType(copy.deepcopy(cell.cell_contents, memo)))
        except Exception:  # empty, or something that is shared
            cells.append(cell)
    code, names = function.__code__, function.__globals__
    used = {key: names[key] for key in code.co_names if key in names}
    own = {key: value for key, value in used.items() if id(getattr(value, "__self__", value)) in memo}
    names = {**names, **copy.deepcopy(own, memo)} if own else names
    rebound = FunctionType(code, names, function.__name__, function.__defaults__, tuple(cells))
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


def _copies(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        return False
    return True


def unwrapped(module: nn.Module) -> nn.Module:
    """A compiled module as it was before, without DataParallel; itself for any other."""
    if type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module):
        return unwrapped(module._orig_mod)  # type: ignore[arg-type]
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(module.module)
    return module


def frozen(module: nn.Module, name: str) -> nn.Module:
    """A copy in evaluation mode without gradients and without changes in place; the caller's module stays as it is.

    Raises:
        DgnError: no module, one without numbers (lazy, or on the ``meta`` device), or one that can't be copied.
    """
    if not isinstance(module, nn.Module):
        raise DgnError(f"the module of network {name!r} is {type(module).__name__!r}, expected a torch.nn.Module")
    if any(is_lazy(tensor) or tensor.is_meta for tensor in [*module.parameters(), *module.buffers()]):
        raise DgnError(f"the module of network {name!r} is lazy or on the 'meta' device: load its weights first")
    try:
        own = copied(unwrapped(module))
    except Exception as error:
        raise DgnError(f"the module of network {name!r} can't be copied: {first_line(error)}") from error
    for part in list(own.modules()):
        for key, child in list(part._modules.items()) if not isinstance(part, torch.jit.ScriptModule) else ():
            if child is not None and unwrapped(child) is not child:
                part._modules[key] = unwrapped(child)
    with suppress(NotImplementedError):  # an exported program has no modes
        own.eval()
    for parameter in own.parameters():  # a ScriptModule refuses requires_grad_ for all at once
        parameter.requires_grad_(False)
        parameter.grad = None
    for part in parts(own).values():
        if getattr(part, "inplace", False) is True and not isinstance(part, torch.jit.ScriptModule):
            part.inplace = False  # type: ignore[assignment]  # a layer is read before its activation function
    return own


def parts(module: nn.Module) -> dict[str, nn.Module]:
    """The modules that can be watched, by name, the root as ``""``; a TorchScript program's insides can't."""
    watched: dict[str, nn.Module] = {}
    hidden: tuple[str, ...] = ()
    for name, part in module.named_modules():
        if (hidden and name.startswith(hidden)) or "parametrizations" in name.split("."):
            continue  # the latter see weights, not images
        watched[name] = part
        if isinstance(part, torch.jit.ScriptModule):
            hidden = (*hidden, f"{name}." if name else "")
    return watched


def hook(part: nn.Module, function: Any) -> Any:
    """A forward hook; also on a TorchScript program, whose own method refuses."""
    return nn.Module.register_forward_hook(part, function)


def before(part: nn.Module, function: Any) -> Any:
    """A hook that is called before the module, with its arguments and keywords; see :func:`hook`."""
    return nn.Module.register_forward_pre_hook(part, function, with_kwargs=True)


def input_channels(module: nn.Module) -> int:
    """Channels that its first convolution takes; 3 where there is none."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            return int(part.weight.shape[1]) * part.groups
    return 3


@dataclass
class Then:
    """A forward pass, and what is made of its output. No hook, for a module with hooks gets no fused copy."""

    first: Callable[..., Any]
    then: Callable[[Any], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        return self.then(self.first(images))
