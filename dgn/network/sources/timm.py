"""Networks of timm."""

from __future__ import annotations

from pathlib import Path

from dgn.errors import DgnError, nearest
from dgn.files.weights import read_weights
from dgn.network.sources.known import Known, class_count, filled, imagenet_class_names, no_download

_EMBEDDED = (512, 640, 768, 1024, 1152, 1280)
"""Outputs of image towers (CLIP's and the like); no classifier whose weights timm 1.0 publishes has so many."""


def from_timm(name: str, *, weights: str | None) -> Known:
    """A network of timm; by default with the library's own weights, which it may download.

    A folder of timm's layout on Hugging Face says input size and normalisation, too.
    """
    import timm

    if not timm.is_model(name):
        raise DgnError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    read = None if weights in (None, "none") else read_weights(Path(weights))
    if read is None:
        try:
            module = timm.create_model(name, pretrained=weights is None)
        except (OSError, RuntimeError) as error:
            raise no_download(f"timm/{name}", error) from error
        names = imagenet_class_names() if getattr(module, "num_classes", 0) == 1000 else ()
    else:
        module, names = filled(
            lambda classes: timm.create_model(name, pretrained=False, **class_count(classes)), read, name
        )
    setting = {**module.pretrained_cfg, **(read.config.get("pretrained_cfg", {}) if read else {})}
    mean, std = (tuple(setting[key])[: setting["input_size"][0]] for key in ("mean", "std"))
    facts = {"input_size": setting["input_size"], "mean": mean, "std": std, "classes": names}
    outputs = getattr(module, "num_classes", None)
    if not names and (outputs == 0 or (outputs in _EMBEDDED and outputs == module.pretrained_cfg.get("num_classes"))):
        facts["scores"] = "none"
    return Known(module, facts, classifier=bool(names))
