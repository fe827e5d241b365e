"""Batches for training: random crops that depend on their step number alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dgn.errors import DgnError
from dgn.images.reading import Entry, crop, decode, reason


def split(entries: Sequence[Entry], held: int, seed: int) -> tuple[list[Entry], list[Entry]]:
    """The images to learn from, and ``held`` others, in an order that follows from the seed."""
    order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(seed)).tolist()
    return [entries[index] for index in order[held:]], [entries[index] for index in order[:held]]


@lru_cache(maxsize=4)
def order(seed: tuple[int, ...], count: int) -> np.ndarray:
    """The numbers below ``count``, shuffled."""
    return np.random.default_rng(seed).permutation(count)


class StepBatches(Dataset[tuple[Tensor, list[str]]]):
    """Item ``step`` is that training step's batch: uint8 ``[batch, 3, size, size]`` and the names of broken files.

    Order and crops follow from (seed, step) alone, so a run that resumes at a step sees what it would have seen.
    A file that can't be decoded is replaced by the next one and named.
    """

    def __init__(self, entries: list[Entry], size: int, batch: int, seed: int, *, random: bool = True) -> None:
        self.entries, self.size, self.batch, self.seed, self.random = entries, size, batch, seed, random

    def __getitem__(self, step: int) -> tuple[Tensor, list[str]]:
        rng = np.random.default_rng((self.seed, 2, step)) if self.random else None
        out = np.empty((self.batch, self.size, self.size, 3), np.uint8)
        broken: list[str] = []
        why = ""
        for row in range(self.batch):
            epoch, place = divmod(step * self.batch + row, len(self.entries))
            index = int(order((self.seed, 1, epoch), len(self.entries))[place])
            for _ in range(len(self.entries)):
                entry = self.entries[index]
                try:
                    out[row] = crop(decode(entry.read()), self.size, rng)
                    break
                except Exception as error:
                    why = why or reason(error)
                    broken.append(entry.name)
                    index = (index + 1) % len(self.entries)
            else:
                raise DgnError(
                    f"none of the {len(self.entries)} images can be decoded; the first, {broken[0]!r}: {why}"
                )
        return torch.from_numpy(out).permute(0, 3, 1, 2), broken


def stream(batches: StepBatches, first: int, last: int, workers: int) -> Iterator[tuple[Tensor, list[str]]]:
    """The batches of steps ``first`` to ``last - 1``, decoded by ``workers`` processes (0: in this one)."""
    loader: DataLoader[tuple[Tensor, list[str]]] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
    yield from loader
