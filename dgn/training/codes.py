"""Codes of real images, computed once and kept on disk, for what is trained on codes alone."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dgn.files.storage import digest, write_chunks
from dgn.images.reading import Entry
from dgn.network.fast.precision import autocast
from dgn.priors.deep import GeneratorPrior
from dgn.training.data import StepBatches, stream
from dgn.training.state import Machine

BATCH = 64


class Codes:
    """Normalised codes ``[N, C, h, w]`` of images, float16: read where they lie on disk, or kept on a GPU.

    Args:
        folder: of ``codes-KEY.npy``; a file that fits is taken, else it is made, whole or not at all.
        prior: whose encoder and normalisation write the codes.
        entries: images.
        passes: codes of each image, of random crops that are mirrored half of the time.
        seed: of the crops.
        machine: by whose processes images are decoded, and whether a bar is drawn.

    Attributes:
        broken: names of images that could not be read and were replaced, if the file was made now.
    """

    def __init__(
        self,
        folder: Path,
        prior: GeneratorPrior,
        entries: Sequence[Entry],
        passes: int = 1,
        seed: int = 0,
        machine: Machine | None = None,
    ) -> None:
        names = "\n".join(f"{entry.name}|{entry.size}" for entry in entries)
        facts = (names, digest(prior.weights()), passes, seed)
        self.path = folder / f"codes-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.npy"
        self.broken: list[str] = []
        if not self.path.is_file():
            source = StepBatches(list(entries), prior.size[0], BATCH, seed)
            write_chunks(self.path, self._made(prior, source, len(entries) * passes, machine or Machine()))
        device = prior.generator.code_mean.device
        self._rows = torch.from_numpy(np.load(self.path, mmap_mode="c"))
        if device.type == "cuda":
            self._rows = self._rows.to(device)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: np.ndarray | range) -> Tensor:
        """The codes of these rows."""
        return self._rows[torch.as_tensor(np.asarray(rows), device=self._rows.device)]

    @torch.no_grad()
    def _made(self, prior: GeneratorPrior, source: StepBatches, count: int, machine: Machine) -> Iterator[bytes]:
        """A NumPy file, piece by piece."""
        head = io.BytesIO()
        shape = (count, *prior.code_shape)
        np.lib.format.write_array_header_1_0(head, {"descr": "<f2", "fortran_order": False, "shape": shape})
        yield head.getvalue()
        device, done = prior.generator.code_mean.device, 0
        with tqdm(total=count, desc="codes", unit="code", disable=not machine.progress) as bar:
            for images, broken in stream(source, 0, -(-count // BATCH), machine.workers):
                self.broken += broken
                with autocast(device, trains=True):
                    codes = prior.encode(images.to(device).float() / 255)[: count - done]
                yield codes.half().cpu().numpy().tobytes()
                done += len(codes)
                bar.update(len(codes))
