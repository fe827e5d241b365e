"""Which real images excite a unit? A data set is seen once, for any number of units of any number of layers."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dgn.analysis.receptive import Box, ReceptiveFields
from dgn.arguments import check_workers
from dgn.errors import DgnError
from dgn.files.channel import ahead
from dgn.files.listing import counted
from dgn.files.storage import digest
from dgn.files.tensors import load_tensors, save_tensors
from dgn.guest import guest
from dgn.images.fit import Sight
from dgn.images.items import seen_item
from dgn.images.reading import Entry, decode, list_images, reason
from dgn.network.facts import told
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.runs.run import to_bytes
from dgn.units.units import BatchReader, Unit, layers_of

FORMAT = "dgn-examples-1"
KINDS = ("top", "bottom", "random")
"""Best, least, and random positive examples."""


@dataclass(frozen=True)
class Example:
    """One image of the data set.

    Attributes:
        index, name: in the data set.
        activation: the unit's.
        position: ``(y, x)`` in the layer's map where the unit's feature is highest; None for layers without a map.
        box: the receptive field of that position, in pixels of the network's input; None where there is none.
    """

    index: int
    name: str
    activation: float
    position: tuple[int, int] | None = None
    box: Box | None = None


@dataclass
class UnitExamples:
    """What the data set says of one unit.

    Attributes:
        unit: the unit.
        top, bottom, random: its best and its least examples, best and least first; random ones above 0.
        mean, std, positive: of its activation over the data set; share of the images where it is above 0.
    """

    unit: Unit
    top: list[Example] = field(default_factory=list)
    bottom: list[Example] = field(default_factory=list)
    random: list[Example] = field(default_factory=list)
    mean: float = 0.0
    std: float = 0.0
    positive: float = 0.0

    @property
    def warning(self) -> str | None:
        """One line for a unit that nothing excites."""
        if not self.top:
            return f"{self.unit.name} is not finite on any of these images: look at it without half precision"
        if self.positive > 0:
            return None
        what = "never changes" if self.std == 0 else "is never above 0"
        return (
            f"{self.unit.name} {what} on these images: it may be dead; try more or other images, or the layer before "
            "its activation function"
        )

    def check(self) -> None:
        """Raise :class:`DgnError` where not one image gives the unit a number."""
        if not self.top:
            raise DgnError(str(self.warning))


def search_warnings(found: Sequence[UnitExamples], data: Squares, broken: Sequence[str], network: Network) -> list[str]:
    """Lines for what could not be read, for each unit that nothing excites, and for a network that isn't steady."""
    lines = counted(data.unread, "folders or tar files could not be looked into")
    lines += counted(list(broken), "images could not be read")
    lines += steadiness(network, layers_of(one.unit for one in found)).notes(network)
    return lines + [one.warning for one in found if one.warning]


PROBES = 64
"""Images that tell one data set without file names from another."""


class Squares(Dataset[tuple[Tensor, int]]):
    """A data set's images as a network sees them, with their index (-1: can't be read).

    Photographs are uint8 ``[C, H, W]``; items of a data set, which may be arrays or tensors, floats in [0, 1].

    Args:
        source: a folder, a folder of tar files, a tar file, or anything with ``len`` whose items are images or hold one
            (torchvision's and Hugging Face's data sets, lists, arrays; see :func:`dgn.images.items.find_image`).
        sight: of the network, :attr:`dgn.Network.sight`; a number: central squares of so many pixels.
    """

    def __init__(self, source: str | Path | Sequence[Any] | Dataset[Any], sight: int | Sight) -> None:
        source = Path(source) if isinstance(source, str) else source
        self.sight = Sight((sight, sight)) if isinstance(sight, int) else sight
        self._entries: list[Entry] | None = None
        self._items: Any = None
        self.unread: list[str] = []
        """Folders and tar files that could not be looked into."""
        if isinstance(source, Path):
            self.sight.check()
            self._entries = listing = list_images(source)
            self.unread = listing.unread
        elif not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
            raise DgnError(
                f"a {type(source).__name__} is no data set: expected a folder, or items with len() and [index]"
            )
        else:
            self._items = source
        if not len(self):
            raise DgnError("the data set holds no image")

    def __len__(self) -> int:
        return len(self._items) if self._entries is None else len(self._entries)

    def only(self, wanted: Callable[[Entry], bool]) -> Squares:
        """Those images of a folder or of tar files that are wanted."""
        if self._entries is None:
            raise DgnError("images can be chosen in folders and tar files, not in a data set of torchvision")
        kept = copy.copy(self)
        kept._entries = [entry for entry in self._entries if wanted(entry)]
        return kept

    def name(self, index: int) -> str:
        """Of an image: its path, or its number in the data set."""
        return str(index) if self._entries is None else self._entries[index].name

    def _pixels(self, index: int) -> Tensor:
        if self._entries is None:
            return seen_item(self._items[index], self.sight)
        pixels = self.sight.pixels(decode(self._entries[index].read()))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            return self._pixels(index), index
        except Exception:
            kind = torch.uint8 if self._entries is not None else torch.float32
            return torch.zeros(self.sight.channels, *self.sight.size, dtype=kind), -1

    def reason(self, index: int) -> str:
        """Why an image can't be read; empty where it can."""
        try:
            self._pixels(index)
        except Exception as error:
            return reason(error)
        return ""

    def tensors(self, indices: Sequence[int]) -> Tensor:
        """Images ``[N, C, H, W]`` in [0, 1]."""
        return as_floats(torch.stack([self[index][0] for index in indices]))

    def fingerprint(self) -> str:
        """Of the images' names and sizes; of a data set without names, of its kind, number and some of its pixels."""
        if self._entries is not None:
            names = [f"{entry.name}|{entry.size}" for entry in self._entries]
            return hashlib.sha256("\n".join(names).encode()).hexdigest()
        found = hashlib.sha256(f"{type(self._items).__qualname__} {len(self)}".encode())
        for index in sorted({round(i * (len(self) - 1) / (PROBES - 1)) for i in range(PROBES)}):
            found.update(to_bytes(self[index][0]).numpy().tobytes())
        return found.hexdigest()


def as_floats(pixels: Tensor) -> Tensor:
    """uint8 pixels in [0, 1]; floats as they are."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


class _Lists:
    """The best of each unit under several orders, kept while the data set goes by."""

    def __init__(self, units: int, k: int) -> None:
        self.k = k
        self.tensors: dict[str, Tensor] = {}
        for kind in KINDS:
            self.tensors[f"{kind}_key"] = torch.full((units, k), -torch.inf)
            self.tensors[f"{kind}_value"] = torch.zeros(units, k)
            for name in ("index", "peak"):
                self.tensors[f"{kind}_{name}"] = torch.full((units, k), -1, dtype=torch.long)
        for name in ("sum", "square", "positive", "count"):
            self.tensors[name] = torch.zeros(units, dtype=torch.float64)

    def add(self, values: Tensor, peaks: Tensor, indices: Tensor) -> None:
        """A batch: activations and peaks ``[U, N]`` of the images ``indices`` ``[N]``."""
        sound = values.isfinite()
        low = torch.full_like(values, -torch.inf)
        keys = {
            "top": torch.where(sound, values, low),
            "bottom": torch.where(sound, -values, low),
            "random": torch.where(sound & (values > 0), _draws(indices).expand_as(values), low),
        }
        for kind, key in keys.items():
            # Only units that this batch changes are sorted: soon few are.
            rows = (key.amax(1) > self.tensors[f"{kind}_key"][:, -1]).nonzero()[:, 0]
            if not len(rows):
                continue
            new = {"key": key, "value": values, "index": indices.expand_as(peaks), "peak": peaks}
            both = {
                name: torch.cat([self.tensors[f"{kind}_{name}"][rows], part[rows]], 1) for name, part in new.items()
            }
            order = both["key"].sort(dim=1, descending=True, stable=True).indices[:, : self.k]
            for name, part in both.items():
                self.tensors[f"{kind}_{name}"][rows] = part.gather(1, order)
        kept = values.double().where(sound, torch.zeros(1, dtype=torch.float64))
        self.tensors["sum"] += kept.sum(1)
        self.tensors["square"] += kept.square().sum(1)
        self.tensors["positive"] += (kept > 0).sum(1)
        self.tensors["count"] += sound.sum(1)


def _draws(indices: Tensor) -> Tensor:
    """A random number from 0 to 1 for each image that depends on its index alone (splitmix64 of Steele et al. 2014)."""
    z = (indices.numpy().astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) / 2**24)


@guest
def find_examples(
    network: Network,
    units: Sequence[Unit],
    data: str | Path | Sequence[Any] | Dataset[Any] | Squares,
    *,
    k: int = 9,
    batch: int = 32,
    workers: int = 0,
    state: Path | None = None,
    save_seconds: float = 60.0,
    boxes: bool = True,
    note: Callable[[int, int], object] | None = None,
) -> tuple[list[UnitExamples], Squares, list[str]]:
    """The images that excite each unit most, least, and random ones that excite it at all.

    The data set is read once; of each unit only ``3 k`` numbers are kept, whatever its size.

    Args:
        network, units: see :func:`dgn.parse_units`.
        data: see :class:`Squares`.
        k: examples of each kind.
        batch, workers: images a forward pass; processes that decode them (0: a thread of this one).
        state, save_seconds: a file in which to keep what was found so far, every so many seconds; the same call with
            the same file goes on from there.
        boxes: find receptive fields of units of one convolutional feature.
        note: called with (images seen, images in all).

    Returns:
        The examples of each unit; the data set; the names of images that could not be read.

    Raises:
        DgnError: no image at all, none that can be read, or a state of another search.
    """
    squares = data if isinstance(data, Squares) else Squares(data, network.sight)
    check_workers(workers)
    if k < 1 or batch < 1:
        raise DgnError("k and batch are whole numbers above 0")
    lists = _Lists(len(units), k)
    identity = json.dumps([
        repr([(unit.name, unit.terms) for unit in units]), digest(network.module.state_dict()), network.input_size,
        squares.fingerprint(), k, *([more] if (more := told(network)) else []),
    ])  # fmt: skip
    key = hashlib.sha256(identity.encode()).hexdigest()
    seen, broken, whole = 0, list[str](), True
    if state is not None and state.exists():
        tensors, meta = load_tensors(state, FORMAT)
        if meta["key"] != key:
            raise DgnError(f"{str(state)!r} is of another search (other units, images or weights); give another out=")
        lists.tensors, seen, broken = tensors, int(meta["seen"]), list(meta["broken"])

    def save() -> None:
        if state is not None:
            save_tensors(state, lists.tensors, {"key": key, "seen": seen, "broken": broken}, FORMAT)

    layers = layers_of(units)
    batch = steadiness(network, layers).batch(batch)
    read = BatchReader(network.fast(layers), units)
    total, saved = len(squares), time.monotonic()
    loader: DataLoader[Any] = DataLoader(
        squares, batch_size=batch, sampler=range(seen, total), num_workers=workers,
        pin_memory=network.device.type == "cuda", prefetch_factor=4 if workers else None,
    )  # fmt: skip
    if note and seen:
        note(seen, total)
    taken_up = seen
    try:
        for pixels, indices in ahead(loader):
            kept = (indices >= 0).nonzero()[:, 0]
            if len(kept):
                images = as_floats(pixels[kept].to(network.device, non_blocking=True))
                values, peaks = read(images)
            whole = False  # from here to the count an interruption leaves lists that can't be gone on with
            if len(kept):
                lists.add(values.T.cpu(), peaks.T.cpu(), indices[kept])
            broken += [squares.name(seen + at) for at in (indices < 0).nonzero()[:, 0].tolist()]
            seen += len(indices)
            whole = True
            if note:
                note(seen, total)
            if time.monotonic() - saved > save_seconds:
                save()
                saved = time.monotonic()
    except BaseException:
        if whole and seen > taken_up:
            save()
        raise
    if len(broken) == total:
        raise DgnError(f"none of the {total} images can be read; the first, {broken[0]!r}: {squares.reason(0)}")
    save()
    fields = ReceptiveFields(network) if boxes else None
    return [_collect(unit, row, lists, squares, network, fields) for row, unit in enumerate(units)], squares, broken


def _collect(
    unit: Unit, row: int, lists: _Lists, squares: Squares, network: Network, fields: ReceptiveFields | None
) -> UnitExamples:
    tensors = lists.tensors
    count = max(1.0, float(tensors["count"][row]))
    mean = float(tensors["sum"][row]) / count
    variance = max(0.0, float(tensors["square"][row]) / count - mean**2)
    found = UnitExamples(unit, mean=mean, std=variance**0.5, positive=float(tensors["positive"][row]) / count)
    if found.std < 1e-7 * max(1.0, abs(mean)):
        found.std = 0.0
    layer = unit.terms[0].layer
    grid = network.layout(layer).grid
    for kind in KINDS:
        rows = (tensors[f"{kind}_{name}"][row].tolist() for name in ("key", "index", "value", "peak"))
        for key, index, value, peak in zip(*rows, strict=True):
            if key == -torch.inf:
                continue
            position = divmod(int(peak), grid.width) if peak >= 0 and grid is not None else None
            box = fields.box(layer, position) if fields is not None and position is not None else None
            getattr(found, kind).append(Example(int(index), squares.name(int(index)), float(value), position, box))
    return found


def crop_box(square: Tensor, box: Box, input_size: tuple[int, int]) -> Tensor:
    """The part of an image ``[C, H, W]`` that a receptive field covers; fields are in pixels of the network's input."""
    height, width = (side / full for side, full in zip(square.shape[1:], input_size, strict=True))
    top, left, bottom, right = box
    return square[:, round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
