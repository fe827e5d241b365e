"""Which real images excite a unit? A data set is seen once, for any number of units of any number of layers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dgn.analysis.receptive import ReceptiveFields
from dgn.analysis.results import KINDS, Example, Examples, UnitExamples
from dgn.analysis.squares import Squares, as_floats
from dgn.arguments import check_counts, check_workers
from dgn.errors import DgnError
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


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        best: of each unit the ``k`` best of each kind, ``[U, k]``: ``KIND_key`` (by which they are sorted; -inf: none),
            ``KIND_value``, ``KIND_index`` (of the image) and ``KIND_peak``; and sums over its images, ``[U]``.
        seen: images that have gone by.
        broken: names of those that could not be read.
    """

    best: dict[str, Tensor]
    seen: int = 0
    broken: tuple[str, ...] = ()

    @classmethod
    def of(cls, file: Path | None, key: str, units: int, k: int) -> Progress:
        """What a file says of the search of this key; the beginning where there is none."""
        if file is not None and file.exists():
            best, meta = load_tensors(file, FORMAT)
            if meta["key"] != key:
                raise DgnError(
                    f"{str(file)!r} is of another search (of other units, images, weights); give another out="
                )
            return cls(best, int(meta["seen"]), tuple(meta["broken"]))
        best = {name: torch.zeros(units, dtype=torch.float64) for name in ("sum", "square", "positive", "count")}
        for kind in KINDS:
            best[f"{kind}_key"] = torch.full((units, k), -torch.inf)
            best[f"{kind}_value"] = torch.zeros(units, k)
            best |= {f"{kind}_{name}": torch.full((units, k), -1, dtype=torch.long) for name in ("index", "peak")}
        return cls(best)

    def save(self, file: Path | None, key: str) -> None:
        if file is not None:
            save_tensors(file, self.best, {"key": key, "seen": self.seen, "broken": self.broken}, FORMAT)


def _better(best: dict[str, Tensor], values: Tensor, peaks: Tensor, indices: Tensor) -> dict[str, Tensor]:
    """What is best with a further batch: activations and peaks ``[U, N]`` of the images ``indices`` ``[N]``."""
    best = dict(best)
    sound = values.isfinite()
    low = torch.full_like(values, -torch.inf)
    keys = {
        "top": torch.where(sound, values, low),
        "bottom": torch.where(sound, -values, low),
        "random": torch.where(sound & (values > 0), _draws(indices).expand_as(values), low),
    }
    for kind, key in keys.items():
        # Only units that this batch changes are sorted: soon few are.
        rows = (key.amax(1) > best[f"{kind}_key"][:, -1]).nonzero()[:, 0]
        new = {"key": key, "value": values, "index": indices.expand_as(peaks), "peak": peaks}
        both = {name: torch.cat([best[f"{kind}_{name}"][rows], part[rows]], 1) for name, part in new.items()}
        order = both["key"].sort(dim=1, descending=True, stable=True).indices[:, : best[f"{kind}_key"].shape[1]]
        for name, part in both.items():
            best[f"{kind}_{name}"] = best[f"{kind}_{name}"].index_copy(0, rows, part.gather(1, order))
    kept = values.double().where(sound, torch.zeros(1, dtype=torch.float64))
    sums = {"sum": kept, "square": kept.square(), "positive": kept > 0, "count": sound}
    return best | {name: best[name] + part.sum(1) for name, part in sums.items()}


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
    check_counts(k=k, batch=batch)
    key = _key(network, chosen, squares, k)
    progress = Progress.of(state, key, len(chosen), k)
    saved, when = progress.seen, time.monotonic()
    if note and saved:
        note(saved, len(squares))
    try:
        for step in _search(network, chosen, squares, progress, batch, workers):
            progress = step
            if note:
                note(progress.seen, len(squares))
            if time.monotonic() - when > save_seconds:
                progress.save(state, key)
                saved, when = progress.seen, time.monotonic()
    finally:
        if progress.seen > saved:
            progress.save(state, key)
    if len(progress.broken) == len(squares):
        raise DgnError(
            f"none of the {len(squares)} images can be read; the first, {progress.broken[0]!r}: {squares.reason(0)}"
        )
    fields = ReceptiveFields(network) if boxes else None
    found = [_collect(unit, row, progress.best, squares, network, fields) for row, unit in enumerate(chosen)]
    return Examples(found, squares, list(progress.broken))


def _key(network: Network, units: Sequence[Unit], squares: Squares, k: int) -> str:
    """What tells one search from another."""
    identity = json.dumps([
        repr([(unit.name, unit.terms) for unit in units]), digest(network.module.state_dict()), network.input_size,
        squares.fingerprint(), k, *([more] if (more := told(network)) else []),
    ])  # fmt: skip
    return hashlib.sha256(identity.encode()).hexdigest()


def _search(
    network: Network, units: Sequence[Unit], squares: Squares, progress: Progress, batch: int, workers: int
) -> Iterator[Progress]:
    """See the images that are left; how far it is after each batch."""
    layers = layers_of(units)
    read = BatchReader(network.fast(layers), units)
    batches = squares.batches(
        steadiness(network, layers).batch(batch), first=progress.seen, workers=workers,
        pinned=network.device.type == "cuda",
    )  # fmt: skip
    for pixels, indices, broken in batches:
        best = progress.best
        if len(indices):
            values, peaks = read(as_floats(pixels.to(network.device, non_blocking=True)))
            best = _better(best, values.T.cpu(), peaks.T.cpu(), indices)
        seen = progress.seen + len(indices) + len(broken)
        progress = Progress(best, seen, (*progress.broken, *broken))
        yield progress


def _collect(
    unit: Unit, row: int, best: dict[str, Tensor], squares: Squares, network: Network, fields: ReceptiveFields | None
) -> UnitExamples:
    count = max(1.0, float(best["count"][row]))
    mean = float(best["sum"][row]) / count
    variance = max(0.0, float(best["square"][row]) / count - mean**2)
    found = UnitExamples(unit, mean=mean, std=variance**0.5, positive=float(best["positive"][row]) / count)
    if found.std < 1e-7 * max(1.0, abs(mean)):
        found.std = 0.0
    layer = unit.terms[0].layer
    peaked = any(bool((best[f"{kind}_peak"][row] >= 0).any()) for kind in KINDS)
    grid = network.layout(layer).grid if peaked else None  # others' layers may have no order that is known
    for kind in KINDS:
        rows = (best[f"{kind}_{name}"][row].tolist() for name in ("key", "index", "value", "peak"))
        for key, index, value, peak in zip(*rows, strict=True):
            if key == -torch.inf:
                continue
            position = divmod(int(peak), grid.width) if peak >= 0 and grid is not None else None
            box = fields.box(layer, position) if fields is not None and position is not None else None
            getattr(found, kind).append(Example(int(index), squares.name(int(index)), float(value), position, box))
    return found
