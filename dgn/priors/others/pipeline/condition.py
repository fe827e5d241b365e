"""What a pipeline's network is told beside the noisy image: a prompt, a class, or nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgn.errors import DgnError

GUIDANCE = 8.5
"""What a network that is told its guidance gets by default: as diffusers' pipeline of latent consistency models."""


KINDS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "Transformer2DModel")
TOLD_MORE = (
    "the pipeline's network is a {} that is told more than dgn knows; expected UNet2DModel, UNet2DConditionModel or "
    "DiTTransformer2DModel, with a prompt, a class index or nothing"
)


@dataclass(frozen=True)
class PipelineOptions:
    """What may be asked of a pipeline, on the command line as ``prior.NAME.options.KEY=``.

    Attributes:
        steps: of the way from noise to image. None: 1 for consistency models and ``turbo`` ones, 4 for latent
            consistency models, 8 for others.
        prompt: of a text-to-image pipeline; by default the empty one.
        class_label: of a class-conditional one, its index. None: the class that stands for none, where it has one.
        guidance: scale of classifier-free guidance (Ho & Salimans 2022), above 1; two passes a step. None: none.
        precision: of the network on a GPU: ``auto`` (bf16 where the GPU has it, else fp16), ``fp32``, ``bf16`` or
            ``fp16``; on a CPU it is always fp32.
        offload: keep on the GPU only the part that computes; the other waits in the CPU's memory.
    """

    steps: int | None = None
    prompt: str | None = None
    class_label: int | None = None
    guidance: float | None = None
    precision: str = "auto"
    offload: bool = False

    def check(self) -> None:
        """Raise :class:`DgnError` where a value can't be meant."""
        whole = [("steps", self.steps, 1), ("class_label", self.class_label, 0)]
        for name, value, least in whole:
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise DgnError(f"options.{name} is {value!r}, expected a whole number from {least} up")
        scale = 1 if self.guidance is None else self.guidance
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1 <= scale < math.inf:
            raise DgnError(f"options.guidance is {self.guidance!r}, expected a scale above 1, or 1 for none")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise DgnError(f"options.prompt is {self.prompt!r}, expected a text")
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise DgnError(f"options.precision is {self.precision!r}, expected auto, fp32, bf16 or fp16")


@dataclass(frozen=True)
class Condition:
    """Keywords of the network, tensors of one row, with guidance of two: the first without prompt or class.

    Attributes:
        told: the keywords.
        guidance: scale; 1: none, and one row.
    """

    told: dict[str, Any]
    guidance: float = 1.0

    @property
    def rows(self) -> int:
        return 1 if self.guidance == 1 else 2

    def of(self, n: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """For ``n`` images: each row ``n`` times."""

        def spread(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: spread(inner) for key, inner in value.items()}
            row = value.repeat_interleave(n, 0).to(device)
            return row.to(dtype) if row.is_floating_point() else row

        return {key: spread(value) for key, value in self.told.items()}


@torch.no_grad()
def condition(pipe: Any, net: Any, options: PipelineOptions, pixels: tuple[int, int]) -> Condition:
    """From a loaded pipeline.

    Args:
        pipe: of diffusers, its text encoders on the CPU.
        net: its network.
        options: what was asked.
        pixels: height and width of its images.

    Raises:
        DgnError: a prompt, class or guidance that the pipeline does not take, or a network that dgn does not know.
    """
    kind, config = type(net).__name__, net.config
    if kind == "UNet2DConditionModel":
        if options.class_label is not None:
            raise DgnError("options.class_label is for class-conditional pipelines; this one takes a prompt")
        return _text(pipe, config, options, pixels)
    if options.prompt is not None:
        raise DgnError("options.prompt is for text-to-image pipelines; this one has no text encoder")
    if kind == "UNet2DModel" and (config.class_embed_type is None or config.num_class_embeds):
        return _labels(config.num_class_embeds, False, options)
    if kind in ("DiTTransformer2DModel", "Transformer2DModel") and config.get("norm_type") == "ada_norm_zero":
        return _labels(config.num_embeds_ada_norm, True, options)
    raise DgnError(TOLD_MORE.format(kind))


def check_kind(kind: str) -> None:
    """Raise :class:`DgnError` for a network whose class dgn does not know, such as a flow transformer."""
    if kind not in KINDS:
        raise DgnError(TOLD_MORE.format(kind))


def _labels(classes: int | None, nameless: bool, options: PipelineOptions) -> Condition:
    """Of a class-conditional network; ``nameless``: one class more stands for none."""
    label, guided = options.class_label, _guided(options)
    if not classes:
        if label is not None or guided:
            raise DgnError("options.class_label and options.guidance need classes, and this pipeline has none")
        return Condition({})
    if label is None and not nameless:
        raise DgnError(f"the pipeline wants a class: give options.class_label=INDEX, from 0 to {classes - 1}")
    if label is not None and label >= classes:
        raise DgnError(f"options.class_label is {label}, expected 0 to {classes - 1}: the pipeline has so many classes")
    if guided and (label is None or not nameless):
        raise DgnError("options.guidance needs options.class_label, and a network that knows images of no class")
    rows = [classes, label] if guided else [classes if label is None else label]
    return Condition({"class_labels": torch.tensor(rows)}, guided or 1.0)


def _guided(options: PipelineOptions) -> float | None:
    return float(options.guidance) if options.guidance is not None and options.guidance > 1 else None


def _text(pipe: Any, config: Any, options: PipelineOptions, pixels: tuple[int, int]) -> Condition:
    """Of a network that attends to a prompt, by the pipeline's own encoders."""
    more = config.class_embed_type or config.num_class_embeds or config.encoder_hid_dim_type
    if more or not hasattr(pipe, "encode_prompt") or config.addition_embed_type not in (None, "text_time"):
        raise DgnError(f"a {type(pipe).__name__} is told more than a prompt: expected one of Stable Diffusion's kind")
    prompt = options.prompt or ""
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = getattr(pipe, name, None)
        count = 0 if tokenizer is None else len(tokenizer(prompt).input_ids)
        if tokenizer is not None and count > tokenizer.model_max_length:
            raise DgnError(f"options.prompt has {count} tokens, the pipeline reads {tokenizer.model_max_length}")
    told_scale = config.time_cond_proj_dim is not None
    guided = None if told_scale else _guided(options)
    texts = pipe.encode_prompt(
        prompt=prompt, device=torch.device("cpu"), num_images_per_prompt=1,
        do_classifier_free_guidance=guided is not None,
    )  # fmt: skip
    told: dict[str, Any] = {"encoder_hidden_states": _rows(texts[0], texts[1], guided)}
    if config.addition_embed_type == "text_time":
        pooled = _rows(texts[2], texts[3], guided)
        times = pipe._get_add_time_ids(
            pixels, (0, 0), pixels, dtype=pooled.dtype, text_encoder_projection_dim=pooled.shape[-1]
        )
        told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": times.repeat(len(pooled), 1)}
    if told_scale:
        scale = torch.tensor([(GUIDANCE if options.guidance is None else float(options.guidance)) - 1])
        told["timestep_cond"] = pipe.get_guidance_scale_embedding(scale, embedding_dim=config.time_cond_proj_dim)
    return Condition(told, guided or 1.0)


def _rows(with_prompt: Tensor, without: Tensor | None, guided: float | None) -> Tensor:
    return with_prompt if guided is None or without is None else torch.cat([without, with_prompt])
