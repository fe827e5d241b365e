"""Tiny random image-text models, written as open_clip and transformers write theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

TEXTS = ["a photo of a dog", "a photo of a cat", "a red square on a blue table, at night"]

OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def write_open_clip(folder: Path, **changes: Any) -> Any:
    """A model of open_clip in the layout of its repositories, by its own functions; returns the model."""
    import open_clip
    from open_clip.push_to_hf_hub import save_config_for_hf
    from safetensors.torch import save_file

    config: dict[str, Any] = {**OPEN_CLIP, **changes}
    folder.mkdir()
    (folder / f"{folder.name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{folder.name}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(folder.name).eval()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", config)
    return model


def tokenizer(length: int) -> Any:
    """A tokenizer of transformers that knows the words of the texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word.strip(",") for text in TEXTS for word in text.split()})
    known = {word: index for index, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", ",", *words])}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=length, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64,
    "max_position_embeddings": 12, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
}  # fmt: skip


def write_transformers(folder: Path, kind: str, *, tokens: bool = True, **settings: Any) -> Any:
    """A model of transformers of a class, with its image processor and tokenizer; returns the model."""
    import transformers as library

    torch.manual_seed(0)
    config = getattr(library, kind).config_class(**settings)
    model = getattr(library, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if tokens:
        tokenizer(12).save_pretrained(folder)
    return model
