"""What a prior is: a way of writing an image down as a code that an ascent can move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.errors import DgnError


class Prior(ABC):
    """How images are written down. It knows nothing of networks, units or rules; where it can't do what is asked of it,
    its errors name the settings that ask for less.

    Attributes:
        name: in tables and file names.
        channels, size: of the images it makes, ``[N, channels, *size]``.
        family: which priors it is like: what they do well with is looked up by it (:mod:`dgn.ascent.own`).
        ascent: what this one does well with beyond that, as ascent settings by name: ``{"steps": 300}``.
        notes: what a reader of its images should know, a line each, such as whose licence they are under.
    """

    name: str
    channels: int
    size: tuple[int, int]
    family: str = "other"
    ascent: Mapping[str, Any] = {}
    notes: Sequence[str] = ()
    coordinates: str = "own"
    """What its codes are written in; codes in others are not mixed with them."""
    encodes: bool = True
    """Whether :meth:`encode` works."""
    writes_pixels: bool = False
    """Whether a code is the image itself."""
    refines: bool = False
    """Whether :meth:`refine` gives a finer prior."""
    centres: Tensor | None = None
    """``[M, ...]``, codes between those of real images, among which starts can be chosen."""
    size_step: int = 1
    """Sizes that :meth:`resized` can make are multiples of this."""

    def in_proportion(self, height: int) -> tuple[int, int]:
        """Height and width of images of another height with its own proportions, a multiple of :attr:`size_step`."""
        step = self.size_step
        return height, height if self.size[0] == self.size[1] else max(
            step, round(self.size[1] * height / self.size[0] / step) * step
        )  # fmt: skip

    @abstractmethod
    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        """``n`` start codes ``[n, ...]``; row ``i`` depends on ``seeds[i]`` (default: ``i``) alone."""

    @abstractmethod
    def decode(self, code: Tensor) -> Tensor:
        """Differentiable: codes ``[n, ...]`` -> images ``[n, channels, *size]`` in [0, 1]."""

    def decode_centres(self, centres: Tensor) -> Tensor:
        """The images of some of :attr:`centres`."""
        return self.decode(centres)

    def at_centres(self, centres: Tensor, seeds: Sequence[int]) -> Tensor:
        """Start codes at some of :attr:`centres`, one a seed."""
        return centres

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        """The code moved back into the prior's range.

        Args:
            code: ``[n, ...]``.
            sigmas: width of the range in standard deviations of real codes, where the prior has such a range;
                None for the prior's own.
        """
        return code

    def decay(self, code: Tensor, factor: float) -> Tensor:
        """The code shrunk by ``factor`` towards the origin of its coordinates."""
        return code * factor

    def encode(self, images: Tensor) -> Tensor:
        """Codes of images ``[n, channels, *size]`` in [0, 1]: exact for pixels, as near as it gets for generators.

        Raises:
            DgnError: the prior can't encode.
        """
        raise DgnError(f"prior {self.name!r} can't encode images: start it from random codes, without between=")

    def mean_code(self, images: Tensor) -> Tensor:
        """One code ``[...]`` between those of images ``[n, channels, *size]``, to begin at."""
        return self.encode(images).mean(0)

    def convert(self, code: Tensor, coordinates: str) -> Tensor:
        """Codes written in other coordinates of the same prior, in this one's.

        Raises:
            DgnError: there is no way from one to the other.
        """
        if coordinates != self.coordinates:
            raise DgnError(f"codes in {coordinates!r} coordinates are none of prior {self.name!r} as it is set up here")
        return code

    def adopt(self, code: Tensor) -> Tensor | None:
        """A code that :meth:`refine`'s finer prior has made, as nearly as this one can write it; None: no such code."""
        return None

    def resized(self, size: int) -> Prior:
        """The same prior for images of another height, in pixels, in proportion; itself at its own.

        Raises:
            DgnError: it has one size only.
        """
        if self.size[0] == size:
            return self
        raise DgnError(f"prior {self.name!r} has one size only: use octaves=1, and phases without grow")

    def carry(self, code: Tensor, to: Prior) -> Tensor:
        """Codes of the same images in ``to``, this prior at another size."""
        images = F.interpolate(self.decode(code), size=to.size, mode="bilinear", antialias=True, align_corners=False)
        return to.encode(images.clamp(0, 1))

    def raw(self) -> Prior:
        """The same images written in the encoder's own code, in which the rule of 2016 steps; itself without one."""
        return self

    def sampled(self) -> Prior | None:
        """The same images written in a code that can be denoised, for the rule ``sample``; None: there is none."""
        return None

    def denoise(self, code: Tensor, t: float) -> Tensor:
        """Of codes mixed with noise the codes to be expected, ``E[x | x_t]``.

        Args:
            code: ``x_t = (1 - t) noise + t x``, ``[n, ...]``; the noise is N(0, 1) in each element.
            t: from 0 up to 1.

        Raises:
            DgnError: the prior has no distribution of codes.
        """
        raise DgnError(f"prior {self.name!r} has no distribution to sample from: use another ascent.rule")

    def covary(self, direction: Tensor, t: float) -> Tensor:
        """``Cov[x | x_t]`` times a direction ``[n, ...]`` (about): how far codes still may go there at ``t``."""
        raise DgnError(f"prior {self.name!r} has no distribution to sample from: use another ascent.rule")

    def within(self, code: Tensor, reach: float) -> Tensor:
        """Codes ``[n, ...]``, none further from the mean than ``reach`` times what is typical of real ones."""
        return code

    def real_codes(self, n: int) -> Tensor:
        """Codes like those of real images, always the same: ``n``, or as many as there are, ``[n, ...]``."""
        raise DgnError(f"prior {self.name!r} has no distribution to sample from: use another ascent.rule")

    def reencode(self, code: Tensor) -> Tensor:
        """The code of the code's own image (PPGN's reconstruction, Nguyen et al. 2017), for priors with an encoder.

        Raises:
            DgnError: the prior has none.
        """
        raise DgnError(f"prior {self.name!r} has no encoder: use ascent.reencode=0 and ascent.epsilon1=0")

    def refine(self, code: Tensor, radius: float | None = None) -> tuple[Prior, Tensor] | None:
        """A finer prior and the codes at which to enter it, for a second ascent from where the first ended.

        Args:
            code: ``[n, ...]``.
            radius: how far each element of the finer code may move; None for the prior's own.
        """
        return None

    def weights(self) -> dict[str, Tensor]:
        """What it learnt, by name, to be fingerprinted; empty where nothing was learnt."""
        return {}

    def to(self, device: torch.device | str) -> Prior:
        """Move what it holds; returns itself."""
        return self


def seeded_normal(shape: Sequence[int], seeds: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal ``[len(seeds), *shape]``; each row is drawn on the CPU from its own seed, for any device."""
    rows = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(rows).to(device)
