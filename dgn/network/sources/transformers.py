"""Image models of transformers, and the image towers of its image-text models."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgn.errors import DgnError, first_line
from dgn.files.weights import Weights, read_weights
from dgn.guest import quiet
from dgn.network.adapt import Then
from dgn.network.fitting import fill
from dgn.network.sources.known import Known, TextTower, no_download, package

_EMBEDDINGS = ("logits", "image_embeds", "pooler_output")
"""What a model's answer is read from, the first that is there."""


def from_transformers(name: str, *, weights: str | None) -> Known:
    """An image model of transformers: a classifier's output are its logits; that of others their pooled embedding, of
    image-text models the one that they compare with texts.

    Args:
        name: a folder of ``save_pretrained``, or a name on Hugging Face, which the package may download.
        weights: None for those that are there; ``"none"`` for random ones; or a file of a state dict.

    Raises:
        DgnError: the package is not there, no such model, one that takes no images, weights that don't fit.
    """
    library, called = package("transformers", "transformers"), f"transformers/{Path(name).name}"
    with quiet(*["transformers"] * Path(name).is_dir()):  # a download keeps its bar
        try:
            config = library.AutoConfig.from_pretrained(name)
        except Exception as error:
            raise no_download(f"transformers/{name}", error, "transformers/FOLDER of save_pretrained") from error
        try:
            model, pooled = _model(library, name, config, weights)
        except DgnError:
            raise
        except Exception as error:
            raise no_download(f"transformers/{name}", error) from error
        sight = _processor(library, name)
    images = getattr(config, "vision_config", config)
    facts = {**_facts(sight, images), "name": called, "classes": ()}
    text, classifier = None, "ForImageClassification" in type(model).__name__
    tower: Any = model.eval()
    if hasattr(model, "get_image_features"):
        text = _text_tower(library, model, name, called)
        tower = copy.copy(model)
        tower._modules = {part: child for part, child in model._modules.items() if not part.startswith("text")}
        tower.forward = tower.get_image_features
    elif model.main_input_name != "pixel_values":
        raise DgnError(f"{type(model).__name__} of {name!r} takes no images")
    if classifier:
        labels = [model.config.id2label[index] for index in sorted(model.config.id2label)]
        facts["classes"] = () if labels == [f"LABEL_{index}" for index in range(len(labels))] else tuple(labels)
    else:
        facts["scores"] = "none"
    tower.forward = Then(tower.forward, _pooled if pooled else _class_token)
    return Known(tower, facts, classifier, text)


def _model(library: Any, name: str, config: Any, weights: str | None) -> tuple[Any, bool]:
    """The model, and whether its pooling layer has weights: some were published without."""
    named = str((config.architectures or [""])[0])
    fits = "ForImageClassification" in named or named.endswith(("Model", "WithProjection"))
    kind = getattr(library, named, library.AutoModel) if fits else library.AutoModel

    if weights is None:
        return _loaded(kind, name)
    if weights == "none":
        return _new(library, kind, config, None), True
    read = read_weights(Path(weights))
    try:
        model: Any = fill(lambda classes: _new(library, kind, config, classes), read, name)[0]
    except DgnError as misfit:  # files have the names of the package's older releases, which it knows how to change
        rows = [len(row) for key, row in read.tensors.items() if "classifier" in key and key.endswith("weight")]
        own = _with_classes(config, rows[0] if len(rows) == 1 else None)
        try:
            model, pooled = _loaded(kind, None, config=own, state_dict=dict(read.tensors))
        except Exception:
            raise misfit from None
        return _labelled(model, read), pooled
    return _labelled(model, read), True


def _with_classes(config: Any, classes: int | None) -> Any:
    own = copy.deepcopy(config)
    if classes is not None:
        own.num_labels = classes
    return own


def _new(library: Any, kind: Any, config: Any, classes: int | None) -> nn.Module:
    """A random model."""
    own = _with_classes(config, classes)
    return kind.from_config(own) if kind is library.AutoModel else kind(own)  # type: ignore[no-any-return]


def _loaded(kind: Any, name: str | None, **more: Any) -> tuple[Any, bool]:
    """A model with weights as the package reads them, in float32, and whether its pooling layer has some.

    Raises:
        DgnError: others are missing.
    """
    model, told = kind.from_pretrained(name, output_loading_info=True, **more)
    missing = sorted(told["missing_keys"])
    lost = [key for key in missing if not key.startswith("pooler.")]
    if lost:
        raise DgnError(f"the weights of {name!r} lack {lost[0]!r} ({len(lost)} such)")
    return model.float(), not missing


def _labelled(model: Any, read: Weights) -> Any:
    """A model with the names of classes that stand beside its weights."""
    if read.labels and len(read.labels) == model.config.num_labels:
        model.config.id2label = dict(enumerate(read.labels))
    return model


def _pooled(output: Any) -> Tensor:
    """One vector an image of a model's answer."""
    if isinstance(output, Tensor):
        return output
    found = (getattr(output, name, None) for name in _EMBEDDINGS)
    vector = next((tensor for tensor in found if isinstance(tensor, Tensor)), None)
    return _class_token(output) if vector is None else vector.flatten(1)


def _class_token(output: Any) -> Tensor:
    """The first of the last layer's tokens ``[N, L, C]``; of a map ``[N, C, H, W]`` the mean over its places."""
    last: Tensor = output.last_hidden_state
    return last[:, 0] if last.dim() == 3 else last.mean((2, 3))


def _processor(library: Any, name: str) -> dict[str, Any]:
    """What its image processor is set to; empty where there is none."""
    try:
        return library.AutoImageProcessor.from_pretrained(name).to_dict()  # type: ignore[no-any-return]
    except Exception:  # whatever the package raises about files that are not there
        return {}


def _facts(processor: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """How the model sees images, of its processor's settings; the size alone, of its configuration, without one."""
    crop = processor.get("crop_size") if processor.get("do_center_crop") else None
    size = processor.get("size")
    sides = _sides(crop) or _sides(size) or _sides(getattr(config, "image_size", None)) or (224, 224)
    facts: dict[str, Any] = {"input_size": (int(getattr(config, "num_channels", 3)), *sides)}
    if not processor:
        return facts
    high = 255 * float(processor.get("rescale_factor") or 1 / 255) if processor.get("do_rescale", True) else 255.0
    mean, std = ([0.0], [1.0])
    if processor.get("do_normalize", True):
        mean, std = processor["image_mean"], processor["image_std"]
    whole = isinstance(size, Mapping) and size.get("height") and not crop
    return {
        **facts, "fit": "stretch" if whole else "crop",
        "mean": [value / high for value in mean] if len(mean) > 1 else mean[0] / high,
        "std": [value / high for value in std] if len(std) > 1 else std[0] / high,
    }  # fmt: skip


def _sides(value: Any) -> tuple[int, int] | None:
    """Height and width of a size in any of the package's forms."""
    if isinstance(value, Mapping):
        short = value.get("shortest_edge")
        value = [value.get("height") or short, value.get("width") or short]
    elif isinstance(value, int):
        value = [value, value]
    return (int(value[0]), int(value[1])) if value and len(value) == 2 and all(value) else None


def _text_tower(library: Any, model: Any, name: str, called: str) -> TextTower:
    config, tokenizers = model.config.text_config, list[Any]()
    padding = "max_length" if config.model_type.startswith("siglip") else True  # as it was trained

    def tokenizer() -> Any:
        try:
            if not tokenizers:
                with quiet():
                    tokenizers.append(library.AutoTokenizer.from_pretrained(name))
            return tokenizers[0]
        except Exception as error:
            raise DgnError(f"the tokenizer of {called!r} could not be had ({first_line(error)})") from error

    def length() -> int:
        return min(tokenizer().model_max_length, getattr(config, "max_position_embeddings", 10**9))

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer()(list(texts), padding=padding, truncation=True, max_length=length(), return_tensors="pt")
        special = set(tokenizer().all_special_ids)
        for text, row in zip(texts, tokens["input_ids"].tolist(), strict=True):
            if special.issuperset(row):  # the package makes one without words where its files are missing
                raise DgnError(f"the tokenizer of {called!r} knows no part of {text!r}: are its files there?")
        return _pooled(model.get_text_features(**tokens))

    def cut(text: str) -> bool:
        with quiet():
            return len(tokenizer()(text)["input_ids"]) > length()

    shift = getattr(model, "logit_bias", None)
    kind, shift = ("softmax", 0.0) if shift is None else ("sigmoid", float(shift.detach()))
    return TextTower(embed, cut, kind, float(model.logit_scale.detach().exp()), shift)
