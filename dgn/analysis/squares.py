"""A data set as a network sees it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dgn.errors import DgnError
from dgn.files.channel import ahead
from dgn.images.fit import Sight
from dgn.images.items import seen_item
from dgn.images.pictures import to_bytes
from dgn.images.reading import Entry, decode, list_images, reason

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

    def only(self, wanted: Callable[[Sequence[Entry]], Iterable[bool]]) -> Squares:
        """Those images of a folder or of tar files of which the function says so."""
        if self._entries is None:
            raise DgnError("images can be chosen in folders and tar files, not in a data set of torchvision")
        kept = copy.copy(self)
        kept._entries = list(compress(self._entries, wanted(self._entries)))
        return kept

    def name(self, index: int) -> str:
        """Of an image: its path, or its number in the data set."""
        if self._entries is not None:
            return self._entries[index].name
        listed = self._items[index] if isinstance(self._items, (list, tuple)) else None
        return str(listed) if isinstance(listed, (str, Path)) else str(index)

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

    def batches(
        self, batch: int, *, first: int = 0, workers: int = 0, pinned: bool = False
    ) -> Iterator[tuple[Tensor, Tensor, tuple[str, ...]]]:
        """From an image on, decoded ahead: what can be read of a batch, its indices, and the names of the rest.

        Args:
            batch, first: images of a batch; where to begin.
            workers: processes that decode; 0: a thread of this one.
            pinned: in memory that a GPU reads.
        """
        loader: DataLoader[Any] = DataLoader(
            self, batch_size=batch, sampler=range(first, len(self)), num_workers=workers, pin_memory=pinned,
            prefetch_factor=4 if workers else None,
        )  # fmt: skip
        for pixels, indices in ahead(loader):
            read = indices >= 0
            yield pixels[read], indices[read], tuple(self.name(first + int(at)) for at in (~read).nonzero())
            first += len(indices)

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
