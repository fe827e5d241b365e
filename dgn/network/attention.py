"""Inside attention: the heads as layers of their own, and fused attention opened so that its parts can be read.

Attention mixes the tokens once a head and joins the results, head after head, as the features of one tensor, which a
linear layer projects (Vaswani et al. 2017). A head is therefore a slice of the features that go into this projection.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgn.errors import DgnError
from dgn.network import adapt
from dgn.network.derived import Derived
from dgn.network.layout.survey import INPUT, Survey

_COUNTS = ("num_heads", "num_attention_heads", "heads")
"""Attributes in which timm, PyTorch, torchvision and transformers, and others, keep the number of heads."""

_PROJECTIONS = ("proj", "out_proj", "o_proj", "output.dense", "to_out.0", "to_out", "c_proj")
"""Names of the projection below an attention, likewise."""

_PROBABILITIES = "attn_drop"
"""The module that sees attention's probabilities, as timm calls it; an opened ``nn.MultiheadAttention`` gets one."""


@dataclass(frozen=True)
class Part:
    """Features ``first`` up to ``end`` of ``[N, C, *places]``."""

    first: int
    end: int

    def __call__(self, maps: Tensor) -> Tensor:
        return maps[:, self.first : self.end]


@dataclass(frozen=True)
class Heads:
    """The heads of one attention.

    Attributes:
        attention: its module's name; its heads are ``ATTENTION.head0``, ``ATTENTION.head1``, ...
        layer: what goes into its projection.
        count, size: of the heads, and of the features of each.
    """

    attention: str
    layer: str
    count: int
    size: int

    @property
    def words(self) -> str:
        """As ``dgn units`` shows them."""
        return f"heads 0 to {self.count - 1}: {self.attention}.head0 ... [{self.size}]"

    def head(self, index: int) -> Derived:
        """One of them."""
        return Derived(self.layer, Part(index * self.size, (index + 1) * self.size), self.size)


def heads_of(modules: Mapping[str, nn.Module], name: str) -> Heads | None:
    """The heads of a module; None where it is no attention with a linear projection of its heads."""
    inner = [modules[key] for key in (name, f"{name}.attention", f"{name}.self") if key in modules]
    counts = [count for part in inner for key in _COUNTS if isinstance(count := getattr(part, key, None), int)]
    for below in _PROJECTIONS if counts else ():
        projection = modules.get(f"{name}.{below}")
        if isinstance(projection, nn.Linear) and counts[0] > 0 and projection.in_features % counts[0] == 0:
            return Heads(name, f"{name}.{below}.{INPUT}", counts[0], projection.in_features // counts[0])
    return None


def find_head(modules: Mapping[str, nn.Module], layer: str) -> Derived | None:
    """The head that is called ``ATTENTION.headINDEX``; None where the name is not of that kind.

    Raises:
        DgnError: the attention has fewer heads.
    """
    match = re.fullmatch(r"(.+)\.head(\d+)", layer)
    heads = heads_of(modules, match[1]) if match and layer not in modules else None
    if match is None or heads is None:
        return None
    if int(match[2]) >= heads.count:
        raise DgnError(f"attention {match[1]!r} has {heads.count} heads, head0 to head{heads.count - 1}, got {layer!r}")
    return heads.head(int(match[2]))


def fused(modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """The attentions that PyTorch computes in one function: their parts can be read in an opened copy alone."""
    return tuple(name for name, part in modules.items() if _opener(part) is not None)


def opened(module: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy that shares the parameters and computes these attentions step by step: equal within float error."""
    own = adapt.copied(module, {id(parameter): parameter for parameter in module.parameters()})
    for name in names:
        part = own.get_submodule(name)
        open_ = _opener(part)
        if open_ is not None:
            open_(part)
    return own


def probabilities(known: Survey, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """The axes of the layers that are attention's probabilities, ``[N, heads, queries, keys]``, by name: what goes
    through :data:`_PROBABILITIES`, or what an attention gives beside its result.
    """
    axes: dict[str, str] = {}
    for layer, seen in known.every.items():
        above, _, last = seen.module.rpartition(".")
        part = modules.get(above if last == _PROBABILITIES else seen.module if seen.path == ("1",) else "")
        own = len(seen.shape) - (seen.windows > 1)
        if own == 3 and seen.batch == 0 and seen.shape[-3] in {getattr(part, key, None) for key in _COUNTS}:
            axes[layer] = "NCLL"
    return axes


def _opener(part: nn.Module) -> Callable[[Any], None] | None:
    """What opens an attention; None for any other module, and for one that is open."""
    if getattr(part, "fused_attn", None) is True:  # timm
        return _open_timm
    if type(part) is nn.MultiheadAttention and not hasattr(part, _PROBABILITIES):
        return _open_pytorch
    chosen = getattr(getattr(part, "config", None), "_attn_implementation", None)
    if type(part).__name__.endswith("Attention") and chosen not in (None, "eager"):
        return _open_transformers
    return None


def _open_timm(part: Any) -> None:
    part.fused_attn = False


def _open_transformers(part: Any) -> None:
    part.config = copy.copy(part.config)  # the other modules share it
    part.config._attn_implementation = "eager"


def _open_pytorch(part: Any) -> None:
    part.add_module(_PROBABILITIES, nn.Identity())
    part.forward = MethodType(_attend, part)


def _attend(
    self: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``nn.MultiheadAttention.forward`` whose projection is a call of ``out_proj``: PyTorch's own function is given the
    identity instead.
    """
    swapped = self.batch_first and query.dim() == 3
    if swapped:
        query, key, value = (tokens.transpose(0, 1) for tokens in (query, key, value))
    identity = torch.eye(self.embed_dim, dtype=query.dtype, device=query.device)
    mixed, weights = F.multi_head_attention_forward(
        query, key, value, self.embed_dim, self.num_heads, self.in_proj_weight, self.in_proj_bias, self.bias_k,
        self.bias_v, self.add_zero_attn, self.dropout, identity, None,  # type: ignore[arg-type]
        training=self.training, key_padding_mask=key_padding_mask, need_weights=True, attn_mask=attn_mask,
        use_separate_proj_weight=not self._qkv_same_embed_dim, q_proj_weight=self.q_proj_weight,
        k_proj_weight=self.k_proj_weight, v_proj_weight=self.v_proj_weight, average_attn_weights=False,
        is_causal=is_causal,
    )  # fmt: skip
    assert weights is not None
    weights = self.attn_drop(weights)
    output = self.out_proj(mixed.transpose(0, 1) if swapped else mixed)
    return output, (weights.mean(-3) if average_attn_weights else weights) if need_weights else None
