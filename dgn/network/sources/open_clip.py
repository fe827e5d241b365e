"""Image towers of open_clip, with their text towers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgn.errors import DgnError, first_line, nearest
from dgn.files.weights import read_weights
from dgn.guest import quiet
from dgn.network.fitting import fill
from dgn.network.sources.known import Known, TextTower, no_download, package

CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_FITS = {"shortest": "crop", "longest": "fit", "squash": "stretch"}
"""``resize_mode`` of the package, as dgn calls it."""


def from_open_clip(name: str, *, weights: str | None) -> Known:
    """The image tower of a model of open_clip: its output is the embedding.

    Args:
        name: ``MODEL``, whose weights are the first in the package's list for it; ``MODEL/TAG``; or a folder, or
            ``hf-hub:OWNER/NAME``, in the layout of its repositories: ``open_clip_config.json`` beside the weights.
        weights: None for those, which the package may download; ``"none"``; or a file of a state dict, whose images are
            normalised as those of the tag, else of the first.

    Raises:
        DgnError: the package is not there, an unknown model or tag (with the nearest), weights that don't fit.
    """
    library = package("open_clip", "clip")
    chosen: dict[str, Any]
    if name.startswith("hf-hub:") or (Path(name) / CONFIG).is_file():
        source = name if name.startswith("hf-hub:") else f"local-dir:{name}"
        called, chosen = f"open_clip/{Path(name).name}", {"load_weights": weights is None}
    else:
        source, tag, chosen = _published(library, name, weights)
        called = f"open_clip/{source}" + (f"/{tag}" if tag else "")
    try:
        with quiet():
            model = library.create_model(
                source, pretrained_text=False, require_pretrained=weights is None, **chosen
            )  # in float32
    except Exception as error:
        raise no_download(called, error) from error
    if weights not in (None, "none"):
        path = Path(weights)
        path = next((path / file for file in _WEIGHTS if (path / file).is_file()), path)
        fill(lambda _: model, read_weights(path), called)
    sight = library.get_model_preprocess_cfg(model)
    size = sight["size"] if isinstance(sight["size"], (tuple, list)) else [sight["size"]] * 2
    facts = {"input_size": (3, *size), "mean": sight["mean"], "std": sight["std"], "classes": (), "scores": "none",
             "fit": _FITS[sight.get("resize_mode", "shortest")], "name": called}  # fmt: skip
    return Known(_tower(model), facts, text=_text_tower(library, model.eval(), source, called))


def _published(library: Any, name: str, weights: str | None) -> tuple[str, str | None, dict[str, Any]]:
    """A model of the package's list, of which weights (None: of none in particular), and how it is then made."""
    model, _, tag = name.partition("/")
    if model not in library.list_models():
        hint = nearest(model, library.list_models())
        raise DgnError(f"open_clip has no model {model!r}{hint or f', and there is no folder with {CONFIG}'}")
    tags = library.list_pretrained_tags_by_model(model)
    if tag and tag not in tags:
        raise DgnError(f"open_clip has no weights {tag!r} of {model!r}{nearest(tag, tags) or f'; it has {tags}'}")
    if weights is None and not tags:
        raise DgnError(f"open_clip has no weights of {model!r}: give network.weights=FILE or none")
    first = tag or (tags[0] if tags else "")
    own = library.get_pretrained_cfg(model, first) if first else {}
    tag = first if weights is None else tag
    return model, tag or None, {
        "pretrained": tag if weights is None else None, "force_quick_gelu": bool(tag and own.get("quick_gelu")),
        "force_preprocess_cfg": {key: own[key] for key in ("mean", "std", "resize_mode") if key in own},
    }  # fmt: skip


def _tower(model: Any) -> nn.Module:
    """The image tower; of CoCa's, which also gives tokens, the embedding alone."""
    tower: nn.Module = model.visual
    if getattr(tower, "output_tokens", False):
        tower.output_tokens = False  # type: ignore[assignment]
    return tower


def _text_tower(library: Any, model: Any, source: str, name: str) -> TextTower:
    tokenizers: list[Any] = []

    def tokens(texts: Sequence[str], length: int | None = None) -> Tensor:
        try:
            if not tokenizers:
                with quiet():
                    tokenizers.append(library.get_tokenizer(source))
            return tokenizers[0](list(texts), context_length=length)  # type: ignore[no-any-return]
        except Exception as error:
            raise DgnError(f"the tokenizer of {name!r} could not be had ({first_line(error)})") from error

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        return model.encode_text(tokens(texts))  # type: ignore[no-any-return]

    def cut(text: str) -> bool:
        """Whether more tokens than the tower reads would say more than padding, or end otherwise."""
        (short,) = tokens([text])
        (long,) = tokens([text], 4 * len(short))
        return not torch.equal(short, long[: len(short)]) or bool((long[len(short) :] != long[-1]).any())

    kind = "softmax" if model.logit_bias is None else "sigmoid"
    shift = 0.0 if model.logit_bias is None else float(model.logit_bias.detach())
    return TextTower(embed, cut, kind, float(model.logit_scale.detach().exp()), shift)
