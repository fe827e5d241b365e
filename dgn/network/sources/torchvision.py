"""Classifiers of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgn.errors import DgnError, nearest
from dgn.files.weights import read_weights
from dgn.network.sources.known import Known, class_count, filled, imagenet_class_names, no_download


def from_torchvision(name: str, *, weights: str | None) -> Known:
    """A torchvision classifier; by default with the library's own ImageNet weights, which it may download.

    Of a file, the weights of GoogLeNet and Inception v3 are taken to be fine-tuned from the library's: these change
    the normalisation of their images, and may lack the auxiliary heads.
    """
    import torchvision.models as models

    known = models.list_models(module=models)
    if name not in known:
        raise DgnError(f"torchvision has no classifier {name!r}{nearest(name, known)}")
    entry = models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    names = tuple(entry.meta.get("categories", ())) if weights is None else imagenet_class_names()
    if weights in (None, "none"):
        try:
            module = models.get_model(name, weights=entry if weights is None else None)
        except OSError as error:
            raise no_download(f"torchvision/{name}", error) from error
    else:
        read = read_weights(Path(weights))
        more: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            aux = any(part in ("aux1", "AuxLogits") for key in read.tensors for part in key.split("."))
            more = {"aux_logits": aux, "init_weights": False, "transform_input": True}
        module, names = filled(
            lambda classes: models.get_model(name, weights=None, **more, **class_count(classes)), read, name
        )
    transforms = entry.transforms()
    size = int(transforms.crop_size[0])
    facts = {"input_size": (3, size, size), "mean": transforms.mean, "std": transforms.std, "classes": names}
    return Known(module, facts, classifier=True)
