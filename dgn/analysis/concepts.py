"""Concepts: a direction in a layer's feature space, found from images that show the concept and images that don't.

Kim et al. 2018, "Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors"
(arXiv 1711.11279). Images are what a layer makes of them, averaged over places. With few images almost any two groups
can be told apart somewhere in so many features, so a direction is judged on images that it wasn't found from, beside
directions for shuffled labels.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from dgn.analysis.squares import Squares, as_floats
from dgn.arguments import check_counts, check_workers
from dgn.errors import DgnError, one_of
from dgn.files.listing import counted
from dgn.files.storage import write_atomic
from dgn.guest import guest
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.units.unit import Unit
from dgn.units.units import direction

METHODS = {"mean": "difference of the groups' means", "probe": "weights of a logistic regression"}
"""How a direction is found."""

FOLDS = 5
"""Parts of the images, each of which is held out once; of fewer images as many as the smaller group has."""


FEW_SHUFFLES = 19
"""With fewer, no result is as rare as one in twenty."""


@dataclass(frozen=True)
class Group:
    """Images of one kind, as a layer sees them.

    Attributes:
        data: the images.
        indices: of those that could be read, each picture once.
        vectors: what the layer makes of these, ``[N, features]``, float32.
        prints: of their pixels, which tell one picture from another.
        broken: names of images that can't be read.
    """

    data: Squares
    indices: list[int]
    vectors: Tensor
    prints: list[str]
    broken: list[str]


@dataclass(frozen=True)
class Concept:
    """A direction, and how well it tells images that it wasn't found from.

    Attributes:
        direction: ``[features]`` of the layer, float32, of length 1, towards the positives.
        layer, method: where, and how it was found; see :data:`METHODS`.
        accuracy: of images that were held out, the share that lies on its side, as the mean of both groups: 0.5 is
            chance.
        chance: the same for shuffled labels, a number a shuffle; empty where none was asked for.
        unit: the direction as a unit of the network.
        positives, negatives: the images.
    """

    direction: Tensor
    layer: str
    method: str
    accuracy: float
    chance: list[float]
    unit: Unit
    positives: Group = field(repr=False)
    negatives: Group = field(repr=False)

    @property
    def p_value(self) -> float:
        """The share of shuffles that do as well, the true labels counted as one of them (Ojala and Garriga 2010)."""
        return (1 + sum(score >= self.accuracy for score in self.chance)) / (1 + len(self.chance))

    @property
    def notes(self) -> list[str]:
        """Lines for whoever uses it: images that could not be read, and a concept that may not be there."""
        lines: list[str] = []
        for group in (self.positives, self.negatives):
            lines += counted(group.data.unread, "folders or tar files could not be looked into")
            lines += counted(group.broken, "images could not be read")
        if 0 < len(self.chance) < FEW_SHUFFLES:
            lines.append(
                f"{len(self.chance)} shuffles are too few to tell chance from 5 %: give {FEW_SHUFFLES} or more"
            )
        elif self.chance and self.p_value > 0.05:
            lines.append(
                f"the concept may not be in {self.layer}: {self.accuracy:.0%} of held-out images are told apart, and "
                f"{self.p_value:.0%} of shuffled labels do as well; more images, or another layer?"
            )
        return lines

    def save(self, path: str | Path) -> Path:
        """Write ``NAME.safetensors``, which ``LAYER:NAME.safetensors`` reads as a unit; returns its path."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise DgnError(f"the file of a direction is called NAME.safetensors, got {path.name!r}")
        write_atomic(path, self.to_bytes())
        return path

    def to_bytes(self) -> bytes:
        """What :meth:`save` writes."""
        notes = {"layer": self.layer, "method": self.method, "accuracy": f"{self.accuracy:.4f}"}
        return save({"direction": self.direction.contiguous()}, notes)


@guest
def concept(
    network: Network,
    layer: str,
    positives: Any,
    negatives: Any,
    *,
    method: str = "mean",
    shuffles: int = 100,
    seed: int = 0,
    name: str | None = None,
    batch: int = 32,
    workers: int = 0,
    note: Callable[[int, int], object] | None = None,
) -> Concept:
    """The direction in a layer in which images of a concept differ from others.

    Args:
        network, layer: where; any layer that units can be read from.
        positives, negatives: images with the concept and without, at least two each: a folder, tar files, or anything
            else that :func:`dgn.find_examples` takes; also a tensor ``[N, C, H, W]`` or a list of files.
        method: ``"mean"``, the difference of the groups' means; ``"probe"``, the weights of a logistic regression (a
            concept activation vector).
        shuffles: how often the labels are shuffled to see what chance gives; 0: never.
        seed: of folds and shuffles.
        name: of the unit; None: ``LAYER:concept``.
        batch, workers: images a forward pass; processes that decode them (0: a thread of this one).
        note: called with (images seen, images in all).

    Raises:
        DgnError: too few images that can be read, one that is in both groups, or groups that the layer can't tell.
    """
    one_of("method", method, METHODS)
    check_workers(workers)
    check_counts(batch=batch)
    if shuffles < 0:
        raise DgnError(f"shuffles is {shuffles}, expected 0 or more")
    network.layout(layer)
    data = [group if isinstance(group, Squares) else Squares(group, network.sight) for group in (positives, negatives)]
    total, before = sum(map(len, data)), 0
    groups = []
    for squares in data:
        groups.append(_look(network, layer, squares, batch, workers, _moved(note, before, total)))
        before += len(squares)
    _check(groups)
    vectors = torch.cat([group.vectors for group in groups]).double().numpy()
    labels = np.repeat([1, 0], [len(group.vectors) for group in groups])
    weights, accuracy, chance = _told_apart(vectors, labels, method, shuffles, seed)
    found = torch.from_numpy(weights).float()
    if not bool(found.isfinite().all()) or not bool(found.any()):
        raise DgnError(f"layer {layer!r} makes the same of positives and negatives: no direction tells them apart")
    found = found / found.norm()
    unit = direction(network, layer, found, name=name or f"{layer}:concept")
    return Concept(found, layer, method, accuracy, chance, unit, *groups)


def _moved(note: Callable[[int, int], object] | None, before: int, total: int) -> Callable[[int], object]:
    return lambda seen: None if note is None else note(before + seen, total)


@torch.no_grad()
def _look(
    network: Network, layer: str, data: Squares, batch: int, workers: int, note: Callable[[int], object]
) -> Group:
    """What the layer makes of each image."""
    fast = network.fast([layer])
    vectors: dict[str, Tensor] = {}
    indices: list[int] = []
    broken: list[str] = []
    seen = 0
    for pixels, at, unread in data.batches(steadiness(network, [layer]).batch(batch), workers=workers):
        broken += unread
        if len(at):
            maps = fast.maps(as_floats(pixels.to(network.device)), [layer])[layer].float()
            for picture, index, vector in zip(pixels, at.tolist(), maps.flatten(2).mean(2) if maps.dim() > 2 else maps,
                                              strict=True):  # fmt: skip
                key = hashlib.sha256(picture.numpy().tobytes()).hexdigest()
                if key not in vectors:
                    vectors[key] = vector.cpu()
                    indices.append(index)
        seen += len(at) + len(unread)
        note(seen)
    features = network.layout(layer).count
    stacked = torch.stack(list(vectors.values())) if vectors else torch.zeros(0, features)
    return Group(data, indices, stacked, list(vectors), broken)


def _check(groups: Sequence[Group]) -> None:
    for kind, group in zip(("positives", "negatives"), groups, strict=True):
        if len(group.indices) < 2:
            why = f"; {group.broken[0]!r} can't be read" if group.broken else ""
            raise DgnError(
                f"{kind} are {len(group.indices)} different images that can be read, expected at least 2{why}"
            )
        if not bool(group.vectors.isfinite().all()):
            raise DgnError(f"the layer gives numbers that are not finite for some of the {kind}")
    known = dict(zip(groups[0].prints, groups[0].indices, strict=True))
    for key, index in zip(groups[1].prints, groups[1].indices, strict=True):
        if key in known:
            names = groups[0].data.name(known[key]), groups[1].data.name(index)
            raise DgnError(f"image {names[0]!r} of the positives is also among the negatives, as {names[1]!r}")


def _told_apart(
    vectors: np.ndarray, labels: np.ndarray, method: str, shuffles: int, seed: int
) -> tuple[np.ndarray, float, list[float]]:
    """The direction, its held-out accuracy, and the same of each shuffle.

    Both methods turn with the space they work in, so that they are asked in the one, of at most as many dimensions as
    there are images, in which the images lie.
    """
    centred = vectors - vectors.mean(0)
    scale = centred.std()
    if not scale > 0:
        return np.zeros(vectors.shape[1]), 0.5, []
    u, s, axes = np.linalg.svd(centred / scale, full_matrices=False)
    inside = u * s
    fit = _mean if method == "mean" else _probe
    rng = np.random.default_rng(seed)
    accuracy = _held_out(inside, labels, fit, seed)
    chance = [_held_out(inside, rng.permutation(labels), fit, seed) for _ in range(shuffles)]
    return fit(inside, labels)[0] @ axes, accuracy, chance


def _mean(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """The difference of the groups' means, and the offset with which it is 0 in the middle between them."""
    high, low = vectors[labels == 1].mean(0), vectors[labels == 0].mean(0)
    return high - low, float(-(high - low) @ (high + low) / 2)


def _probe(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and offset of a logistic regression in which both groups weigh the same."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shuffled labels may not converge
        model = LogisticRegression(max_iter=1000, class_weight="balanced").fit(vectors, labels)
    return model.coef_[0], float(model.intercept_[0])


def _held_out(
    vectors: np.ndarray, labels: np.ndarray, fit: Callable[..., tuple[np.ndarray, float]], seed: int
) -> float:
    """The share of images on their side of directions that were found without them, as the mean of both groups."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(min(FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed)
    right = np.zeros(len(labels), bool)
    for known, held in folds.split(vectors, labels):
        weights, offset = fit(vectors[known], labels[known])
        right[held] = (vectors[held] @ weights + offset > 0) == labels[held]
    return float(right[labels == 1].mean() + right[labels == 0].mean()) / 2
