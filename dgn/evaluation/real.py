"""Real images with their classes, to measure synthesised ones against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dgn.errors import DgnError
from dgn.guest import guest
from dgn.images.fit import Sight
from dgn.images.reading import Entry, decode, list_images
from dgn.network.network import Network
from dgn.units.unit import Unit

SHORT = 224
"""Pixels of the short side of the photographs that judges see."""


@dataclass
class RealImages:
    """Photographs ``[N, C, H, W]`` in [0, 1], their class indices (-1: unknown) and their names.

    Attributes:
        broken: names of images, folders and tar files that could not be read.
        seen: the same at exactly the size at which the network sees them; None where ``images`` are.
    """

    images: Tensor
    classes: list[int]
    names: list[str]
    broken: list[str]
    seen: Tensor | None = None

    @property
    def as_seen(self) -> Tensor:
        """What the network sees of the photographs."""
        return self.images if self.seen is None else self.seen

    def joined(self, other: RealImages) -> RealImages:
        """These, and those of the other that are not among them."""
        known = set(self.names)
        new = [place for place, name in enumerate(other.names) if name not in known]
        return RealImages(
            torch.cat([self.images, other.images[new]]),
            self.classes + [other.classes[place] for place in new],
            self.names + [other.names[place] for place in new],
            [*dict.fromkeys(self.broken + other.broken)],
            None if self.seen is None or other.seen is None else torch.cat([self.seen, other.seen[new]]),
        )


def classes_of(entries: Sequence[Entry], class_names: Sequence[str]) -> list[int]:
    """The class of each image by the folder it is in: a WordNet id of ImageNet, a class name, or an index; else -1."""
    known = _wordnet() if len(class_names) == 1000 else {}
    names = [name.lower() for name in class_names]

    @cache
    def class_of(folder: str) -> int:
        plain = folder.replace("_", " ").lower()
        if folder in known:
            return known[folder]
        if names.count(plain) == 1:
            return names.index(plain)
        return int(folder) if folder.isdecimal() and int(folder) < len(names) else -1

    return [class_of(Path(entry.name).parent.name) for entry in entries]


@guest
def load_real(
    root: Path,
    class_names: Sequence[str],
    *,
    sight: int | Sight = SHORT,
    classes: Sequence[int] | None = None,
    per_class: int | None = None,
    most: int | None = None,
    seed: int = 0,
) -> RealImages:
    """Labelled images below a folder or in tar files, in an order that follows from the seed.

    Args:
        root: see :func:`dgn.images.reading.list_images`.
        class_names: of the network; see :func:`classes_of`.
        sight: of the network: judges see the photographs as it does, with a short side of :data:`SHORT` pixels or more.
            A number: central squares of so many pixels.
        classes, per_class: only these classes, and at most so many images of each.
        most: at most so many images in all.
        seed: of the choice among more.

    Raises:
        DgnError: no image of these classes, or none that can be decoded.
    """
    own = Sight((sight, sight)) if isinstance(sight, int) else sight
    shown = own if isinstance(sight, int) else own.at_least(SHORT)
    own.check()
    entries = list_images(root)
    labels = classes_of(entries, class_names)
    taken: Counter[int] = Counter()
    images: list[Tensor] = []
    seen: list[Tensor] = []
    found = RealImages(torch.zeros(0), [], [], list(entries.unread))
    for index in torch.randperm(len(entries), generator=torch.Generator().manual_seed(seed)).tolist():
        entry, label = entries[index], labels[index]
        if (classes is not None and label not in classes) or (per_class and taken[label] >= per_class):
            continue
        if most is not None and len(images) >= most:
            break
        try:
            image = decode(entry.read())
            images.append(shown.tensor(image))
        except Exception:
            found.broken.append(entry.name)
            continue
        if shown != own:
            seen.append(own.tensor(image))
        found.classes.append(label)
        found.names.append(entry.name)
        taken[label] += 1
    if not images:
        what = "readable image" if classes is None else "readable image of the classes that are evaluated"
        names = "" if class_names else "; the network names no classes: give network.classes=FILE"
        raise DgnError(
            f"no {what} in {str(root)!r}; images lie in folders named by WordNet id, class name or index{names}"
        )
    found.images, found.seen = torch.stack(images), torch.stack(seen) if seen else None
    return found


def real_images_of(
    units: Sequence[Unit], network: Network, root: Path, *, per_class: int, most: int, seed: int = 0
) -> RealImages:
    """Real images of the units' classes, ``per_class`` of each; and ``most`` of all classes where some unit is none."""
    classes = [unit.class_index for unit in units if unit.class_index is not None]
    names, sight = network.class_names, network.sight
    real = None
    if classes:
        real = load_real(root, names, sight=sight, classes=classes, per_class=per_class, seed=seed)
    if real is None or len(classes) < len(units):
        every = load_real(root, names, sight=sight, most=most, seed=seed)
        real = every if real is None else real.joined(every)
    return real


def most_frequent(root: Path, network: Network, count: int) -> list[int]:
    """The classes with the most images."""
    counts = Counter(label for label in classes_of(list_images(root), network.class_names) if label >= 0)
    classes = [label for label, _ in counts.most_common(count)]
    if not classes:
        raise DgnError(f"no image in {str(root)!r} lies in a folder named by WordNet id, class name or index")
    return sorted(classes)


@cache
def _wordnet() -> dict[str, int]:
    """Class indices of ImageNet by WordNet id; timm reads its lists anew each time."""
    from timm.data import ImageNetInfo

    return {wnid: index for index, wnid in enumerate(ImageNetInfo().label_names())}
