"""Which real images excite a unit? A data set is seen once, for any number of units of any number of layers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dgn.analysis.receptive import ReceptiveFields
from dgn.analysis.results import KINDS, Example, Examples, UnitExamples
from dgn.analysis.squares import Squares, as_floats
from dgn.arguments import check_workers
from dgn.errors import DgnError
from dgn.files.channel import ahead
from dgn.files.listing import counted
from dgn.files.storage import digest
from dgn.files.tensors import load_tensors, save_tensors
from dgn.guest import guest
from dgn.network.facts import told
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.units.read import BatchReader
from dgn.units.selection import select_units
from dgn.units.unit import Unit, layers_of

FORMAT = "dgn-examples-1"


def search_warnings(found: Sequence[UnitExamples], data: Squares, broken: Sequence[str], network: Network) -> list[str]:
    """Lines for what could not be read, for each unit that nothing excites, and for a network that isn't steady."""
    lines = counted(data.unread, "folders or tar files could not be looked into")
    lines += counted(list(broken), "images could not be read")
    lines += steadiness(network, layers_of(one.unit for one in found)).notes(network)
    return lines + [one.warning for one in found if one.warning]


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
    units: str | int | Unit | Iterable[str | int | Unit],
    data: str | Path | Sequence[Any] | Dataset[Any] | Squares,
    *,
    k: int = 9,
    batch: int = 32,
    workers: int = 0,
    state: Path | None = None,
    save_seconds: float = 60.0,
    boxes: bool = True,
    note: Callable[[int, int], object] | None = None,
) -> Examples:
    """The images that excite each unit most, least, and random ones that excite it at all.

    The data set is read once; of each unit only ``3 k`` numbers are kept, whatever its size.

    Args:
        network, units: see :func:`dgn.select_units`.
        data: see :class:`Squares`.
        k: examples of each kind.
        batch, workers: images a forward pass; processes that decode them (0: a thread of this one).
        state, save_seconds: a file in which to keep what was found so far, every so many seconds; the same call with
            the same file goes on from there.
        boxes: find receptive fields of units of one convolutional feature.
        note: called with (images seen, images in all).

    Raises:
        DgnError: no image at all, none that can be read, or a state of another search.
    """
    asked = [units] if isinstance(units, (str, int, Unit)) else list(units)
    chosen = [unit for unit in asked if isinstance(unit, Unit)]  # as they are, also one that comes twice
    if not chosen or len(chosen) < len(asked):
        chosen = select_units(asked, network)
    squares = data if isinstance(data, Squares) else Squares(data, network.sight)
    check_workers(workers)
    if k < 1 or batch < 1:
        raise DgnError("k and batch are whole numbers above 0")
    lists = _Lists(len(chosen), k)
    identity = json.dumps([
        repr([(unit.name, unit.terms) for unit in chosen]), digest(network.module.state_dict()), network.input_size,
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

    layers = layers_of(chosen)
    batch = steadiness(network, layers).batch(batch)
    read = BatchReader(network.fast(layers), chosen)
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
    found = [_collect(unit, row, lists, squares, network, fields) for row, unit in enumerate(chosen)]
    return Examples(found, squares, broken)


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
    peaked = any(bool((tensors[f"{kind}_peak"][row] >= 0).any()) for kind in KINDS)
    grid = network.layout(layer).grid if peaked else None  # others' layers may have no order that is known
    for kind in KINDS:
        rows = (tensors[f"{kind}_{name}"][row].tolist() for name in ("key", "index", "value", "peak"))
        for key, index, value, peak in zip(*rows, strict=True):
            if key == -torch.inf:
                continue
            position = divmod(int(peak), grid.width) if peak >= 0 and grid is not None else None
            box = fields.box(layer, position) if fields is not None and position is not None else None
            getattr(found, kind).append(Example(int(index), squares.name(int(index)), float(value), position, box))
    return found
