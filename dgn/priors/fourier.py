"""Images written down as spectra: the Fourier parameterisation of 2017, and MACO's fixed spectrum of 2023."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dgn.errors import DgnError
from dgn.files.tensors import load_tensors
from dgn.images.fit import parse_size
from dgn.priors.base import Prior, seeded_normal
from dgn.resources import resource

FORMAT = "dgn-image-statistics-1"


class ImageStatistics:
    """What natural images are like on average, measured by :mod:`dgn.training.spectrum`.

    Attributes:
        mean: ``[3]``, mean colour.
        colours: ``[3, 3]``, the square root of the covariance of RGB pixels: white colours -> RGB.
        magnitude: ``[3, S, S // 2 + 1]``, mean magnitude of the orthonormal 2-D spectrum of the white
            colours, ``S`` the size of the images.
    """

    def __init__(self, mean: Tensor, colours: Tensor, magnitude: Tensor) -> None:
        self.mean, self.colours, self.magnitude = mean.float(), colours.float(), magnitude.float()

    def spectrum(self, size: tuple[int, int]) -> Tensor:
        """The magnitude at a size, ``[3, H, W // 2 + 1]``: as measured at its own, else its radial mean.

        Frequencies are counted in cycles a short side, so a larger image is the same scene in finer detail, a longer
        one more of it; beyond the measured ones the magnitude falls on as ``1 / f``.
        """
        measured = self.magnitude.shape[1]
        if size == (measured, measured):
            return self.magnitude
        radius = _frequencies(size)
        shown = radius.clamp(max=measured / 2)
        along = _radial(self.magnitude)
        low = shown.floor().long().clamp(max=along.shape[1] - 2)
        part = shown - low
        value = along[:, low] * (1 - part) + along[:, low + 1] * part
        return value * (shown / radius.clamp(min=1)).where(radius > measured / 2, torch.ones(())) * min(size) / measured


@cache
def natural_images() -> ImageStatistics:
    """The statistics that come with dgn."""
    return read_statistics(resource("pretrained") / "natural_images" / "statistics.safetensors")


def read_statistics(path: Path) -> ImageStatistics:
    """Statistics as the measuring program wrote them."""
    tensors, _ = load_tensors(path, FORMAT)
    try:
        return ImageStatistics(tensors["mean"], tensors["colours"], tensors["magnitude"])
    except KeyError as error:
        raise DgnError(f"{str(path)!r} lacks the image statistics {error}") from error


class FourierPrior(Prior):
    """The image's spectrum in white colours, each frequency scaled by ``1 / f`` (Olah et al. 2017).

    ``image = sigmoid(colours @ irfft2(code / f))``: code ``[n, 2, 3, H, W // 2 + 1]``, real and imaginary parts.

    Args:
        size: height and width in pixels, even, as one number or two.
        channels: 3; other images have no colours to decorrelate and take the identity.
        decay: the power of ``1 / f``.
        std: standard deviation of the start code.
    """

    family = "fourier"

    def __init__(
        self, size: int | tuple[int, int] = 128, channels: int = 3, *, decay: float = 1.0, std: float = 0.01
    ) -> None:
        self.size = parse_size(size)
        if any(side % 2 for side in self.size) or channels < 1:
            raise DgnError(f"a Fourier prior of {size} px and {channels} channels: expected an even size above 0")
        self.name, self.channels = "fourier", channels
        self.size_step, self.decay_power, self.std = 2, decay, std
        scale = 1 / _frequencies(self.size).clamp(min=1) ** decay
        self._scale = scale * (min(self.size) * min(self.size)) ** 0.5
        root = natural_images().colours
        self._colours = root / root.norm(dim=0).max() if channels == 3 else torch.eye(channels)
        self._inverse = torch.linalg.inv(self._colours)

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        shape = (2, self.channels, *self._scale.shape)
        return self.std * seeded_normal(shape, range(n) if seeds is None else seeds, self._scale.device)

    def decode(self, code: Tensor) -> Tensor:
        code = code.float()
        white = torch.fft.irfft2(torch.complex(code[:, 0], code[:, 1]) * self._scale, s=self.size, norm="ortho")
        return torch.einsum("ij,njhw->nihw", self._colours, white / 4).sigmoid()

    def encode(self, images: Tensor) -> Tensor:
        logit = images.float().clamp(1e-3, 1 - 1e-3).logit()
        white = torch.einsum("ij,njhw->nihw", self._inverse, logit) * 4
        spectrum = torch.fft.rfft2(white, norm="ortho") / self._scale
        return torch.stack([spectrum.real, spectrum.imag], 1)

    def resized(self, size: int) -> FourierPrior:
        if self.size[0] == size:
            return self
        other = FourierPrior(self.in_proportion(size), self.channels, decay=self.decay_power, std=self.std).to(
            self._scale.device
        )
        other.name, other.ascent = self.name, self.ascent
        return other

    def to(self, device: torch.device | str) -> FourierPrior:
        self._scale, self._colours, self._inverse = (
            tensor.to(device) for tensor in (self._scale, self._colours, self._inverse)
        )
        return self


class MacoPrior(Prior):
    """MACO (Fel et al. 2023, arXiv 2306.06805): the spectrum's magnitude is that of real images, the phase is the code.

    ``image = mean + colours @ irfft2(magnitude * e^(i code))``, clipped to [0, 1]; code ``[n, 3, H, W // 2 + 1]``.

    Args:
        size: height and width in pixels, even, as one number or two.
        statistics: None for those that come with dgn.
    """

    family = "maco"

    def __init__(
        self, size: int | tuple[int, int] = 128, channels: int = 3, *, statistics: ImageStatistics | None = None
    ) -> None:
        self.size = parse_size(size)
        if channels != 3 or any(side % 2 for side in self.size):
            raise DgnError(f"MACO makes colour images of an even size: {channels} channels and {size} px don't do")
        self.name, self.channels, self.size_step = "maco", 3, 2
        self.statistics = statistics or natural_images()
        self._magnitude = self.statistics.spectrum(self.size)
        self._mean, self._colours = self.statistics.mean[:, None, None], self.statistics.colours
        self._inverse = torch.linalg.inv(self._colours)

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        """Phases from -pi to pi, as uniform as normal draws can be."""
        device = self._magnitude.device
        normal = seeded_normal(self._magnitude.shape, range(n) if seeds is None else seeds, device)
        return (2 * torch.special.ndtr(normal) - 1) * torch.pi

    def decode(self, code: Tensor) -> Tensor:
        spectrum = torch.polar(self._magnitude.expand_as(code).contiguous(), code.float())
        white = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        return (self._mean + torch.einsum("ij,njhw->nihw", self._colours, white)).clamp(0, 1)

    def encode(self, images: Tensor) -> Tensor:
        """The phases alone: the images' own magnitudes are lost."""
        white = torch.einsum("ij,njhw->nihw", self._inverse, images.float() - self._mean)
        return torch.fft.rfft2(white, norm="ortho").angle()

    def resized(self, size: int) -> MacoPrior:
        if self.size[0] == size:
            return self
        other = MacoPrior(self.in_proportion(size), statistics=self.statistics).to(self._magnitude.device)
        other.name, other.ascent = self.name, self.ascent
        return other

    def weights(self) -> dict[str, Tensor]:
        return {"magnitude": self._magnitude, "mean": self._mean, "colours": self._colours}

    def to(self, device: torch.device | str) -> MacoPrior:
        self._magnitude, self._mean, self._colours, self._inverse = (
            tensor.to(device) for tensor in (self._magnitude, self._mean, self._colours, self._inverse)
        )
        return self


def _frequencies(size: tuple[int, int]) -> Tensor:
    """Cycles a short side at each place of a real 2-D spectrum, ``[H, W // 2 + 1]``."""
    short = min(size)
    y, x = torch.fft.fftfreq(size[0]) * short, torch.fft.rfftfreq(size[1]) * short
    return (y[:, None].square() + x.square()).sqrt()


def _radial(magnitude: Tensor) -> Tensor:
    """Mean magnitude at 0, 1, 2, ... cycles an image, ``[3, S // 2 + 2]``; the corners beyond count as the last."""
    size = magnitude.shape[1]
    ring = _frequencies((size, size)).round().long().clamp(max=size // 2 + 1)
    flat = ring.flatten()
    count = torch.zeros(size // 2 + 2).index_add(0, flat, torch.ones(len(flat)))
    total = torch.zeros(len(magnitude), size // 2 + 2).index_add(1, flat, magnitude.flatten(1))
    return total / count


def natural_spread(images: Tensor) -> Tensor:
    """Magnitude of the orthonormal spectrum, mean over images ``[N, C, S, S]``: ``[C, S, S // 2 + 1]``."""
    return torch.fft.rfft2(images.float(), norm="ortho").abs().mean(0)
