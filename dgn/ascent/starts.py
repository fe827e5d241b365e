"""Where an ascent begins: random codes, codes between real ones, given codes, or the codes of given images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dgn.ascent.settings import AscentSettings
from dgn.errors import DgnError
from dgn.images.fit import resized
from dgn.images.given import as_images
from dgn.network.network import Network
from dgn.priors.base import Prior
from dgn.units.read import BatchReader
from dgn.units.unit import Unit, layers_of

START_STRIDE = 1_000_000_007
"""Between the seeds of a sample's start codes: far more than anyone's seeds."""
SCREENED_TOGETHER = 32
"""Centres that are read in one forward pass: always the same ones together, so that float error chooses nothing."""


def random_starts(prior: Prior, seeds: Sequence[int], settings: AscentSettings) -> list[Tensor]:
    """``settings.starts`` times the prior's own start codes ``[N, ...]``, each from seeds of its own."""
    laps = range(settings.starts)
    return [
        _scaled(prior, prior.start(len(seeds), [seed + lap * START_STRIDE for seed in seeds]), settings) for lap in laps
    ]


class Screening:
    """Starts chosen among the prior's centres: where each unit fires most.

    Multifaceted starts (Nguyen et al. 2016b, arXiv 1602.03616) begin at the mean code of a unit's top examples; the
    centres stand in for the data set that they are found in. A seed reads ``settings.screen`` of the centres, drawn at
    random. What was read is kept for later batches.

    Args:
        network, prior, settings: what climbs, how; the network sees images as large as the (largest) in the loop.
        units: all that will ask.
    """

    def __init__(self, network: Network, prior: Prior, units: Sequence[Unit], settings: AscentSettings) -> None:
        assert prior.centres is not None
        self.prior, self.centres, self.settings = prior, prior.centres, settings
        self._column = {unit: column for column, unit in enumerate(dict.fromkeys(units))}
        seen = network.at(max(settings.input_sizes, default=min(network.input_size)))
        self._read = BatchReader(seen.fast(layers_of(self._column)), list(self._column), settings.fit)  # type: ignore[arg-type]
        self._groups = list(range(len(self.centres))[::SCREENED_TOGETHER])
        self._values: dict[int, Tensor] = {}
        self._drawn: dict[int, tuple[Tensor, Tensor]] = {}

    def starts(
        self, rows: Sequence[tuple[Unit, int]], on_read: Callable[[int, int], object] | None = None
    ) -> list[Tensor]:
        """For samples (unit, seed): ``settings.starts`` times codes ``[N, ...]``, the best first.

        Args:
            rows: samples.
            on_read: called with (centres read, centres to read) while there are any to read.
        """
        new = {seed for _, seed in rows} - self._drawn.keys()
        wanted = sorted({first for seed in new for first in self._firsts(seed)} - self._values.keys())
        done, count = 0, sum(map(self._size, wanted))
        for first in wanted:
            done += len(self._look(first))
            if on_read is not None:
                on_read(done, count)
        best = []
        for unit, seed in rows:
            indices, values = self._of(seed)
            column = values[:, self._column[unit]].nan_to_num(-torch.inf, -torch.inf, -torch.inf)
            order = column.argsort(descending=True, stable=True)[: self.settings.starts]
            best.append(self.centres[indices[order].to(self.centres.device)])
        seeds = [seed for _, seed in rows]
        return [
            _scaled(self.prior, self.prior.at_centres(torch.stack(codes), seeds), self.settings)
            for codes in zip(*best, strict=True)
        ]

    def deviations(self, rows: Sequence[tuple[Unit, int]]) -> Tensor:
        """Standard deviation of each sample's unit over the centres that its seed reads, ``[N]``."""
        return above_zero(torch.stack([self._of(seed)[1][:, self._column[unit]].float().std() for unit, seed in rows]))

    def _firsts(self, seed: int) -> list[int]:
        """The first centre of each group that a seed reads."""
        stream = torch.Generator().manual_seed((seed * 1_000_003 + 15_485_863) % 2**63)
        count = -(-self.settings.screen // SCREENED_TOGETHER)
        order = torch.randperm(len(self._groups), generator=stream).tolist()
        if sum(self._size(self._groups[at]) for at in order[:count]) < self.settings.starts:
            count += 1  # it was the last group alone, which is smaller than the others
        return sorted(self._groups[at] for at in order[:count])

    def _size(self, first: int) -> int:
        """Centres in the group that begins with this one."""
        return min(SCREENED_TOGETHER, len(self.centres) - first)

    def _of(self, seed: int) -> tuple[Tensor, Tensor]:
        """The centres that a seed reads, ``[M]``, and the activations of all units there, ``[M, U]``."""
        if seed not in self._drawn:
            firsts = self._firsts(seed)
            values = torch.cat([self._look(first) for first in firsts])
            indices = torch.cat([torch.arange(first, first + self._size(first)) for first in firsts])
            self._drawn[seed] = indices, values
        return self._drawn[seed]

    @torch.no_grad()
    def _look(self, first: int) -> Tensor:
        if first not in self._values:
            images = self.prior.decode_centres(self.centres[first : first + SCREENED_TOGETHER])
            self._values[first] = self._read(images)[0].cpu()
        return self._values[first]


def above_zero(deviations: Tensor) -> Tensor:
    """1 for a unit whose activation never changes."""
    return torch.where(deviations > 0, deviations, torch.ones_like(deviations))


def _scaled(prior: Prior, code: Tensor, settings: AscentSettings) -> Tensor:
    """Start codes moved away from (or towards) the mean code by ``settings.start_scale``."""
    return code if settings.start_scale == 1 else prior.project(prior.decay(code, settings.start_scale))


def as_start(prior: Prior, start: Tensor | np.ndarray) -> Tensor:
    """A start as it was given, if it is codes of the prior; images as floats in [0, 1], ``[N, C, H, W]``.

    Raises:
        DgnError: images with values outside of [0, 1].
    """
    if isinstance(start, (str, Path)):
        raise DgnError(f"start is the name {str(start)!r}, expected an image or a code as a tensor or array")
    given = torch.as_tensor(start)
    shape = tuple(prior.start(1).shape[1:])
    codes = tuple(given.shape) == shape or tuple(given.shape[1:]) == shape
    if codes and not prior.writes_pixels and given.dtype != torch.uint8:
        return given
    if given.dim() not in (3, 4) or prior.channels not in (given.shape[-3], given.shape[-1]):
        return given
    adopted = given.shape[-3] != prior.channels and prior.adopt(given if given.dim() == 4 else given[None]) is not None
    return given if adopted else as_images(start, "the start image", prior.channels)


def given_start(prior: Prior, start: Tensor | np.ndarray, count: int, fit: str = "crop") -> Tensor:
    """Start codes from images or codes; one for all samples, or one each.

    Args:
        prior: that will climb.
        start: ``[C, H, W]`` or ``[N, C, H, W]`` in [0, 1] (images, which the prior encodes; uint8 too), or codes of
            this prior.
        count: samples.
        fit: how images of other proportions meet the prior's, see :data:`dgn.images.fit.FITS`.

    Raises:
        DgnError: neither codes of this prior nor images in [0, 1]; another number than 1 or ``count``; no encoder.
    """
    like = prior.start(1)
    shape = tuple(like.shape[1:])
    given = as_start(prior, start).to(like)
    if tuple(given.shape) == shape or tuple(given.shape[1:]) == shape:
        code = given if given.dim() == like.dim() else given[None]
    elif given.dim() == 4 and given.shape[1] == prior.channels:
        code = prior.encode(resized(given, prior.size, fit))
    elif (adopted := prior.adopt(given if given.dim() == 4 else given[None])) is not None:
        code = adopted
    else:
        raise DgnError(
            f"a start {list(start.shape)} is neither images [N, {prior.channels}, H, W] nor codes of prior "
            f"{prior.name!r}, {list(shape)} each"
        )
    if len(code) not in (1, count):
        raise DgnError(
            f"{len(code)} start codes for {count} samples: give one for all (of a file: start=FILE@ROW), or one each"
        )
    return prior.project(code.expand(count, *code.shape[1:]).clone())
