"""Encoders of dictionaries as the packages that trained them write them down, in one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dgn.errors import DgnError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Encoder:
    """``activation(weight @ (normalised(x) - center) + bias)``; what its file doesn't say is None.

    Attributes:
        weight, bias: ``[F, C]`` and ``[F]``.
        center: ``[C]``, taken off the input.
        activation, k, threshold, normalize: see :class:`dgn.network.dictionaries.dictionary.Dictionary`.
        package: whose format it is.
    """

    weight: Tensor
    bias: Tensor | None = None
    center: Tensor | None = None
    activation: str | None = None
    k: int | None = None
    threshold: Tensor | float | None = None
    normalize: str = "none"
    package: str = "plain"

    def scaled(self, by: Tensor) -> Encoder:
        """With all pre-activations times ``[F]``."""
        return replace(self, weight=self.weight * by[:, None], bias=None if self.bias is None else self.bias * by)

    def gated(self, gate: Tensor, scale: Tensor, bias: Tensor) -> Encoder:
        """Gated latents (Rajamanoharan et al. 2024, section 3): ``exp(scale) z + bias`` where ``z + gate`` is above 0.
        That is a JumpReLU with a threshold of its own for each latent."""
        width = scale.exp()
        return replace(self.scaled(width), bias=bias, activation="jumprelu", threshold=bias - width * gate)


def read_encoder(tensors: Tensors, config: Mapping[str, Any]) -> Encoder:
    """The encoder in a file's tensors, with the configuration that lay beside it.

    Raises:
        DgnError: no format that is known, or an architecture that can't be read.
    """
    if isinstance(config.get("trainer"), Mapping) and "dict_class" in config["trainer"]:
        return _dictionary_learning(tensors, config["trainer"])
    if "d_sae" in config:
        return _sae_lens(tensors, config)
    if any(name.startswith("dictionary.") for name in tensors) or set(tensors) == {"D"}:
        return _overcomplete(tensors)
    if "W_enc" in tensors:
        jumps = tensors.get("threshold")
        return Encoder(
            _of(tensors, "W_enc").t(), tensors.get("b_enc"), tensors.get("b_dec"),
            threshold=jumps, activation=None if jumps is None else "jumprelu",
        )  # fmt: skip
    if "encoder.weight" in tensors:
        raise DgnError("dictionary-learning's config.json has to lie beside its weights: it says what they are")
    raise DgnError(
        f"its tensors ({_names(tensors)}) are of no known dictionary: expected W_enc, b_enc, b_dec and W_dec"
    )


def _sae_lens(tensors: Tensors, config: Mapping[str, Any]) -> Encoder:
    """SAELens from version 1 to 6, and ViT-Prisma, which grew out of it."""
    kind = str(config.get("architecture") or "standard")
    function = str(config.get("activation_fn") or config.get("activation_fn_str") or "relu")
    k = config.get("k") or (config.get("activation_fn_kwargs") or {}).get("k")
    if kind == "standard" and function == "topk":
        kind = "topk"
    normalize = config.get("normalize_activations") or "none"
    package = (
        "ViT-Prisma" if "vit_model_cfg" in config or "HookedViT" in str(config.get("model_class_name")) else "SAELens"
    )
    encoder = Encoder(
        _of(tensors, "W_enc").t(), tensors.get("b_enc"),
        _of(tensors, "b_dec") if config.get("apply_b_dec_to_input", True) else None,
        normalize="expected_average_only_in" if normalize is True else str(normalize), package=package,
    )  # fmt: skip
    if kind == "gated" and function == "relu":
        return encoder.gated(*(_of(tensors, name) for name in ("b_gate", "r_mag", "b_mag")))
    known = {"standard": "relu", "topk": "topk", "abstopk": "abs_topk", "jumprelu": "jumprelu"}
    functions = {"relu": known.get(kind), "topk": "topk", "tanh-relu": "tanh_relu"}
    if kind not in known or functions.get(function) is None:
        raise DgnError(f"{package}'s {kind} architecture with {function} can't be read: {', '.join(known)}, gated can")
    if config.get("rescale_acts_by_decoder_norm"):
        encoder = encoder.scaled(_of(tensors, "W_dec").norm(dim=1))
    jumps = _of(tensors, "threshold") if kind == "jumprelu" else None
    return replace(encoder, activation=functions[function], k=k, threshold=jumps)


def _dictionary_learning(tensors: Tensors, trainer: Mapping[str, Any]) -> Encoder:
    kind = str(trainer["dict_class"])
    makers: dict[str, Callable[[Encoder], Encoder]] = {
        # Its own loader makes the decoder's columns unit vectors.
        "AutoEncoder": lambda e: replace(e, center=_of(tensors, "bias"), activation="relu").scaled(
            _of(tensors, "decoder.weight").norm(dim=0)
        ),
        "AutoEncoderNew": lambda e: replace(e, center=None, activation="relu"),
        "GatedAutoEncoder": lambda e: replace(e, center=_of(tensors, "decoder_bias")).gated(
            *(_of(tensors, name) for name in ("gate_bias", "r_mag", "mag_bias"))
        ),
        "AutoEncoderTopK": lambda e: replace(e, activation="topk", k=int(trainer.get("k") or _of(tensors, "k"))),
        "BatchTopKSAE": lambda e: replace(e, activation="jumprelu", threshold=_of(tensors, "threshold")),
        "MatryoshkaBatchTopKSAE": lambda e: replace(e, activation="jumprelu", threshold=_of(tensors, "threshold")),
        "JumpReluAutoEncoder": lambda e: replace(
            e, center=None, activation="jumprelu", threshold=_of(tensors, "threshold")
        ),
    }
    if kind not in makers:
        raise DgnError(f"dictionary-learning's {kind} can't be read: {', '.join(makers)} can")
    stacked = "W_enc" in tensors
    weight = _of(tensors, "W_enc").t() if stacked else _of(tensors, "encoder.weight")
    bias = tensors.get("b_enc" if stacked else "encoder.bias")
    return makers[kind](Encoder(weight, bias, tensors.get("b_dec"), package="dictionary-learning"))


def _overcomplete(tensors: Tensors) -> Encoder:
    """A state dict of overcomplete, which does not say its class: TopK and BatchTopK look alike there."""
    if "D" in tensors:
        return Encoder(tensors["D"], activation="nnls", package="overcomplete")
    linear, norm, hidden = "encoder.final_block.0", "encoder.final_block.1", "encoder.mlp_blocks"
    if any(name.startswith((hidden, "encoder.attention", "encoder.resnet")) for name in tensors) or "Q" in tensors:
        raise DgnError("overcomplete's encoders of several layers, and quantised ones, can't be read: linear ones can")
    if f"{linear}.weight" in tensors:
        encoder = Encoder(tensors[f"{linear}.weight"], tensors.get(f"{linear}.bias"), package="overcomplete")
    elif "encoder.tied_to._weights" in tensors or "encoder.weight" in tensors:  # TieableEncoder
        weight = tensors.get("encoder.weight")
        if weight is None:
            weight = tensors["encoder.tied_to._weights"] * _of(tensors, "encoder.tied_to.multiplier").exp()
        encoder = Encoder(weight, tensors.get("encoder.bias"), package="overcomplete")
    else:
        raise DgnError(f"its tensors ({_names(tensors)}) hold no linear encoder of overcomplete")
    if f"{norm}.running_mean" in tensors:
        mean, variance = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
        by = tensors[f"{norm}.weight"] / (variance + 1e-5).sqrt()
        scaled, bias = encoder.scaled(by), tensors[f"{norm}.bias"] - mean * by
        encoder = replace(scaled, bias=bias if scaled.bias is None else scaled.bias + bias)
    elif f"{norm}.weight" in tensors:
        raise DgnError("overcomplete's encoders with LayerNorm can't be read: linear ones and BatchNorm can")
    if "thresholds" in tensors:
        return replace(encoder, activation="jumprelu", threshold=tensors["thresholds"].exp())
    return encoder


def _of(tensors: Tensors, name: str) -> Tensor:
    if name not in tensors:
        raise DgnError(f"it holds no {name!r}, only {_names(tensors)}")
    return torch.as_tensor(tensors[name])


def _names(tensors: Tensors) -> str:
    names = sorted(tensors)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
