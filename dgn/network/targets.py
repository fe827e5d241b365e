"""Texts and images as outputs: the cosine of an image's embedding with that of each text or image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgn.errors import DgnError, first_line
from dgn.images.items import seen_item
from dgn.images.reading import read_image
from dgn.network import adapt
from dgn.network.facts import Targets
from dgn.network.network import Network
from dgn.network.sources.known import Known, TextTower

AT_ONCE = 32
"""Images that are embedded together."""


def read_texts(given: Any) -> tuple[str, ...]:
    """Texts of one text or a list of them; ``@FILE`` stands for the lines of a file.

    Raises:
        DgnError: none, an empty one, or a file that can't be read.
    """
    texts: list[str] = []
    for text in [given] if isinstance(given, (str, int, float)) else list(given):
        text = "" if text is None else str(text).strip()
        texts += _lines(Path(text[1:])) if text.startswith("@") else [text]
    if not texts or not all(texts):
        where = f"text {texts.index('') + 1} of {len(texts)} is empty" if texts else "there is no text"
        raise DgnError(f"{where}: give network.texts=[a photo of a dog,...] or @FILE with one a line")
    return tuple(texts)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DgnError(f"no readable file of texts {str(path)!r}: {first_line(error)}") from error
    return [line.strip() for line in lines if line.strip()]


def read_images(given: Any, network: Network) -> tuple[tuple[str, ...], Tensor]:
    """Names, and ``[N, C, H, W]`` in [0, 1] as the network sees them, of one image or a list of them.

    Args:
        given: paths, pictures of Pillow, tensors or arrays ``[C, H, W]``; see :func:`dgn.images.items.find_image`.
        network: by whose input size, channels and ``fit`` they are seen.

    Raises:
        DgnError: none, or one that can't be read.
    """
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    if not items:
        raise DgnError("there is no image: give network.images=[FILE,...]")
    names, images = [], []
    for number, item in enumerate(items):
        path = Path(item).expanduser() if isinstance(item, (str, Path)) else None
        names.append(f"image {number}" if path is None else str(path))
        images.append(seen_item(item, network.sight) if path is None else read_image(path, network.sight))
    return tuple(names), torch.stack(images)


class Cosines(nn.Module):
    """The cosine of embeddings with some directions.

    Args:
        directions: ``[K, D]``, of any length but zero.
    """

    directions: Tensor

    def __init__(self, directions: Tensor) -> None:
        super().__init__()
        self.register_buffer("directions", F.normalize(directions.detach().float(), dim=-1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """``[N, D] -> [N, K]``, float32 in any precision of the loop: texts differ in the third decimal."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.normalize(embeddings.float(), dim=-1) @ self.directions.T


def answering(module: nn.Module, cosines: Cosines) -> nn.Module:
    """A module, changed so that it gives the cosines of its output; its layers are called as they were."""
    if isinstance(module, torch.fx.GraphModule):  # a copy of one forgets what is put on it
        return nn.Sequential(module, cosines)
    module.add_module("cosines", cosines)
    module.forward = adapt.Then(module.forward, cosines)  # type: ignore[method-assign]
    return module


@torch.no_grad()
def embed(network: Network, *, classifier: bool) -> None:
    """Have a network give its embedding ``[N, D]``: of a classifier, what its last linear layer reads, if that layer's
    output is the network's; else its output.

    Raises:
        DgnError: its output is no single vector an image.
    """
    module, ends = network.module, dict[str, tuple[Tensor, Tensor]]()

    def note(name: str, _module: nn.Module, inputs: Any, output: Any) -> None:
        ends[name] = inputs[0], output

    linear = {name: part for name, part in module.named_modules() if name and type(part) is nn.Linear}
    handles = [adapt.hook(part, partial(note, name)) for name, part in linear.items()]
    try:
        output = _shown(network, torch.full((1, network.channels, *network.input_size), 0.5))
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(output, Tensor) or output.dim() != 2:
        gives = list(output.shape[1:]) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise DgnError(
            f"network.texts and network.images need one vector an image, network {network.name!r} gives {gives}"
        )
    for name, (read, gave) in ends.items() if classifier else ():
        if gave is output and read.dim() == 2:
            module.set_submodule(name, nn.Identity())


def _shown(network: Network, images: Tensor) -> Any:
    """The module's own answer to images ``[N, C, H, W]`` in [0, 1]."""
    try:
        return network._run(images.to(network.device), "resize", lambda: None)
    except DgnError:
        raise
    except Exception as error:
        raise DgnError(f"network {network.name!r} failed on its images: {first_line(error)}") from error


@torch.no_grad()
def compare(network: Network, text: TextTower | None, texts: Sequence[str], images: Any) -> tuple[Targets, Tensor]:
    """What is compared with a network's embedding, and its directions ``[K, D]`` there.

    Raises:
        DgnError: texts without a text tower, or what can't be read or embedded.
    """
    names: tuple[str, ...] = ()
    directions, cut = [], []
    if texts:
        if text is None:
            raise DgnError(
                f"network {network.name!r} has no text tower: network.texts needs an image-text model of open_clip or "
                "transformers (CLIP, SigLIP); network.images takes images"
            )
        directions.append(text.embed(texts).float().cpu())
        cut = [shown for shown in texts if text.cut(shown)]
    if images is not None:
        names, pixels = read_images(images, network)
        directions += [_shown(network, part).float().cpu() for part in pixels.split(AT_ONCE)]
    targets = Targets(tuple(texts), names, tuple(cut))
    for name, direction in zip(targets.names, torch.cat(directions), strict=True):
        if not 0 < float(direction.norm()) < float("inf"):
            raise DgnError(f"the embedding of {name!r} in network {network.name!r} is zero or not finite")
    return targets, torch.cat(directions)


def scores_of(text: TextTower | None, targets: Targets, told: str | None, name: str) -> str:
    """What cosines say of classes, see :mod:`dgn.network.scores`: the model's own scores among two texts or more (of a
    sigmoid: one); nothing for one text, and for images, which it was not trained on.

    Args:
        text: the network's text tower.
        targets: what its outputs are compared with.
        told: by the user; None for the model's own.
        name: of the network, for errors.

    Raises:
        DgnError: scores of a network whose cosines have no scale.
    """
    if told == "none" or (told is None and (text is None or targets.images)):
        return "none"
    if text is None or told == "probabilities":
        raise DgnError(f"network.scores={told}: cosines with images are no scores of {name!r}; leave it out")
    kind = told or text.kind
    lone = kind == "softmax" and len(targets.names) < 2
    return "none" if lone else f"{kind} {text.scale:.6g} {text.shift:.6g}"


def towards(network: Network, known: Known, texts: Sequence[str], images: Any, *, scores: str | None) -> Network:
    """The network whose outputs are cosines with texts and images; the one that is given is used up.

    Args:
        network: as its library gives it.
        known: what that says of it.
        texts, images: see :func:`dgn.load_network`; texts may be empty, images None.
        scores: as the user told them.

    Raises:
        DgnError: see :func:`embed`, :func:`compare` and :func:`scores_of`.
    """
    embed(network, classifier=known.classifier)
    targets, directions = compare(network, known.text, texts, images)
    near = Network(
        answering(network.module, Cosines(directions)), (network.channels, *network.input_size), network.mean,
        network.std, targets.names, axes=network.axes, name=network.name, fit=network.fit,
    )  # fmt: skip
    near.range, near.targets = network.range, targets
    near.told_scores = scores_of(known.text, targets, scores, network.name)
    said = {"classes": "given", "texts": "given", "images": "given", "scores": "known" if scores is None else "given"}
    near.origins = {**network.origins, **said}
    return near
