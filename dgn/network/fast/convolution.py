"""A frozen convolution with its activation function: one kernel forward, the fastest known one for its gradient."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LAST = torch.channels_last

NATIVE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_convolution_pointwise", "_reorder_convolution_weight")
)
"""Whether this PyTorch has these functions of oneDNN, which are private; without them it convolves in its own way."""


def asked() -> bool:
    """Whether oneDNN convolves: it is there, and nobody has switched it off (``torch.backends.mkldnn.flags``)."""
    return NATIVE and bool(torch.backends.mkldnn.enabled)


class Activation(NamedTuple):
    """An activation function that a convolution's kernel can do: its name in oneDNN and its numbers."""

    name: str
    numbers: tuple[float, ...] = ()


def activation_of(module: nn.Module) -> Activation | None:
    """How a kernel is told to do it; None for those that it can't, or whose gradient needs more than the output."""
    if type(module) is nn.ReLU:
        return Activation("relu")
    if type(module) in (nn.ReLU6, nn.Hardtanh):
        return Activation("hardtanh", (float(module.min_val), float(module.max_val)))  # type: ignore[arg-type]
    return None


def can_be_fast(module: nn.Module) -> bool:
    """Whether :class:`Convolution` can do the same: zero padding on a plain or timm's "same" convolution."""
    if type(module) is nn.Conv2d:
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module).__name__ == "Conv2dSame" and getattr(module, "dilation", None) == (1, 1)


MOST_PLANS = 32
"""Sizes of input whose kernels a convolution keeps: an ascent has seven, an ablation a dozen."""


class _Plan(NamedTuple):
    """Of one size of input: the kernel's weights and geometry; ``kernel`` and ``back`` in the layout oneDNN wants."""

    weight: Tensor
    kernel: Tensor
    bias: Tensor | None
    back: Tensor | None
    bounds: tuple[float, ...]
    padding: list[int]
    back_padding: list[int]


class Convolution(nn.Module):
    """A convolution whose weights hold a BatchNorm, with the activation function behind it.

    Args:
        like: the convolution it stands for: stride, padding, dilation and groups are taken from it.
        weight, bias: frozen; ``[O, I / groups, h, w]`` and ``[O]``.
        act: done to the output; None for none.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, like: nn.Module, weight: Tensor, bias: Tensor | None, act: Activation | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=_LAST), persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.act, self.same = act, type(like).__name__ == "Conv2dSame"
        self.kernel = tuple(weight.shape[2:])
        self.stride, self.padding, self.dilation = (
            tuple(getattr(like, key)) for key in ("stride", "padding", "dilation")
        )
        self.groups = int(like.groups)  # type: ignore[arg-type]
        self.plans: dict[tuple[Any, ...], _Plan] = {}
        self._casts: dict[tuple[Any, ...], tuple[Tensor, Tensor | None]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Convolution:
        """Kernels' weights can't be copied and needn't be: nothing changes them."""
        twin = Convolution.__new__(Convolution)
        memo[id(self)], own = twin, ("plans", "_casts")
        twin.__dict__.update(copy.deepcopy({key: value for key, value in vars(self).items() if key not in own}, memo))
        twin.plans, twin._casts = dict(self.plans), dict(self._casts)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        dtype = self._native(x)
        if dtype is not None:
            x = x.to(dtype).contiguous(memory_format=_LAST)
            y: Tensor = _Native.apply(x, self._plan(x), self)
        else:
            if self.same:
                (top, bottom), (left, right) = self._edges(x)
                x = F.pad(x, [left, right, top, bottom])
            y = F.conv2d(x, *self._cast(x.device), self.stride, self.padding, self.dilation, self.groups)
            if self.act is not None:  # ReLU's gradient needs its output alone; Hardtanh's would copy its input
                y = F.relu_(y) if self.act.name == "relu" else F.hardtanh(y, self.act.numbers[0], self.act.numbers[1])
        if self.act is not None and not y.is_inference():  # changes in place leave no trace there: it is done twice
            y.activated = (self.act, y._version)  # type: ignore[attr-defined]  # until it is changed in place
        return y

    def _cast(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as autocast wants them, which would cast them anew at each step."""
        whole = self.weight.dtype
        cast = whole == torch.float32 and torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if cast else whole
        key = (self.weight.device, dtype, self.weight.data_ptr())
        if key not in self._casts:
            with torch.inference_mode(False):
                bias = None if self.bias is None else self.bias.to(dtype)
                self._casts[key] = self.weight.to(dtype), bias
        return self._casts[key]

    def _native(self, x: Tensor) -> torch.dtype | None:
        """The numbers that oneDNN computes with; None where PyTorch's own convolution is asked."""
        if not asked() or x.device.type != "cpu" or self.weight.dtype != torch.float32:
            return None
        if not torch.is_autocast_enabled("cpu"):
            return torch.float32 if x.dtype == torch.float32 else None
        known = x.dtype in (torch.float32, torch.bfloat16) and torch.cpu._is_avx512_supported()
        return torch.bfloat16 if known and torch.get_autocast_dtype("cpu") == torch.bfloat16 else None

    def _edges(self, x: Tensor) -> list[tuple[int, int]]:
        """Padding in front and behind, of height and width."""
        if not self.same:
            return [(side, side) for side in self.padding]
        edges = []
        for side, kernel, stride in zip(x.shape[2:], self.kernel, self.stride, strict=True):
            whole = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            edges.append((whole // 2, whole - whole // 2))
        return edges

    def _plan(self, x: Tensor) -> _Plan:
        edges = self._edges(x)
        key = (x.dtype, *x.shape[2:], *(side for pair in edges for side in pair))
        if key not in self.plans:
            # Kernels pad both sides alike: rows and columns of zeros in front of the weights do the rest.
            more = [behind - front for front, behind in edges]
            weight = F.pad(self.weight, [more[1], 0, more[0], 0]) if any(more) else self.weight
            weight = weight.to(x.dtype).contiguous(memory_format=_LAST)
            padding = [behind for _, behind in edges]
            reach = [(side - 1) * step for side, step in zip(weight.shape[2:], self.dilation, strict=True)]
            back_padding = [far - side for far, side in zip(reach, padding, strict=True)]
            back = None
            if self.groups == 1 and self.stride == (1, 1) and min(back_padding) >= 0:
                flipped = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=_LAST)
                out = [side + 2 * pad - far for side, pad, far in zip(x.shape[2:], padding, reach, strict=True)]
                back = torch.ops.mkldnn._reorder_convolution_weight(
                    flipped, back_padding, [1, 1], self.dilation, 1, [len(x), len(weight), *out]
                )
            kernel = torch.ops.mkldnn._reorder_convolution_weight(
                weight, padding, self.stride, self.dilation, self.groups, list(x.shape)
            )
            if self.stride != (1, 1) and weight.shape[1] == 1 < self.groups:
                # In bf16 oneDNN's gradient of a strided depthwise convolution takes 12 to 100 times as long.
                weight = weight.float()
            bias = None if self.bias is None else self.bias.to(x.dtype)
            # As the output has them: what was clipped to a rounded bound gets no gradient.
            bounds = tuple(float(torch.tensor(bound).to(x.dtype)) for bound in (self.act.numbers if self.act else ()))
            self.plans[key] = _Plan(weight, kernel, bias, back, bounds, padding, back_padding)
            while len(self.plans) > MOST_PLANS:
                del self.plans[next(iter(self.plans))]  # the oldest
        return self.plans[key]


class _Native(torch.autograd.Function):
    """The convolution by oneDNN in float32 or bf16; its gradient with respect to the input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: _Plan, own: Convolution) -> Tensor:
        name, numbers = own.act or ("none", ())
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, plan.kernel, plan.bias, plan.padding, own.stride, own.dilation, own.groups, name, list(numbers), ""
        )
        ctx.plan, ctx.own, ctx.shape = plan, own, x.shape
        ctx.save_for_backward(*[y] * (own.act is not None))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        plan, own = ctx.plan, ctx.own
        if own.act is not None:
            (y,) = ctx.saved_tensors
            if own.act.name == "relu":
                g = torch.ops.aten.threshold_backward(g, y, 0)
            else:
                g = torch.ops.aten.hardtanh_backward(g, y, *plan.bounds)
        g = g.contiguous(memory_format=_LAST)
        if plan.back is not None:
            back: Tensor = torch.ops.mkldnn._convolution_pointwise(
                g, plan.back, None, plan.back_padding, [1, 1], own.dilation, 1, "none", [], ""
            )
            return back, None, None
        like = torch.empty(ctx.shape, dtype=plan.weight.dtype, memory_format=_LAST)  # its shape alone is asked for
        whole = g.to(plan.weight.dtype)
        back = torch.ops.aten.convolution_backward(
            whole, like, plan.weight, None, own.stride, plan.padding, own.dilation, False, [0, 0], own.groups,
            [True, False, False],
        )[0]  # fmt: skip
        return back.to(g.dtype), None, None


class Once(nn.Module):
    """An activation function that lets pass what a convolution's kernel has already activated."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act, self.kind = [act], activation_of(act)  # in a list: no submodule, for it has this one's name

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_inference() and getattr(x, "activated", None) == (self.kind, x._version):
            return x
        y: Tensor = self.act[0](x)
        return y
