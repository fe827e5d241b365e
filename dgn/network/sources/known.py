"""What a library or a file gives of a network, and what the loaders of all libraries share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from dgn.errors import DgnError, first_line
from dgn.files.weights import Weights
from dgn.network.fitting import Build, fill


@dataclass(frozen=True)
class TextTower:
    """The part of an image-text model that reads texts.

    Attributes:
        embed: texts -> ``[N, D]``, in the space of the image tower's output.
        cut: whether a text is longer than the tower reads.
        kind: of the model's own scores, ``softmax`` or ``sigmoid``.
        scale, shift: of the cosines in them.
    """

    embed: Callable[[Sequence[str]], Tensor]
    cut: Callable[[str], bool]
    kind: str
    scale: float
    shift: float


@dataclass(frozen=True)
class Known:
    """A network as its library or file gives it.

    Attributes:
        module: takes images ``[N, C, H, W]``.
        facts: ``input_size`` as ``(C, H, W)``, ``classes``, and where they are known ``mean``, ``std``, ``fit``,
            ``scores`` and ``name``.
        classifier: whether its outputs are scores of classes: its embedding is what its last linear layer reads.
        text: how it embeds texts; None where it can't.
    """

    module: nn.Module
    facts: dict[str, Any]
    classifier: bool = False
    text: TextTower | None = None


def package(name: str, group: str) -> Any:
    """An optional package.

    Raises:
        DgnError: it is not installed; the line has the command that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DgnError(f"{name} can't be imported ({first_line(error)}); run: pip install 'dgn[{group}]'") from error


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The 1,000 short English names of ImageNet's classes, in order of their index."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def no_download(name: str, error: Exception, instead: str = "weights=PATH or weights=none") -> DgnError:
    """The line about weights that the library could not get, and what can be given instead."""
    return DgnError(f"the weights of {name!r} could not be had ({first_line(error)}); give {instead}")


def filled(build: Build, read: Weights, name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A module with the weights of a file, and the names of its classes: ImageNet's for a thousand without any."""
    module, classes = fill(build, read, name)
    classes = classes or int(getattr(module, "num_classes", 1000))
    if classes == len(read.labels):
        return module, read.labels
    return module, imagenet_class_names() if classes == 1000 else ()


def class_count(count: int | None) -> dict[str, int]:
    """The keyword with which torchvision and timm build so many classes; none for their own number."""
    return {} if count is None else {"num_classes": count}
