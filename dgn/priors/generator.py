"""The deep generator network: from the code of an encoder's layer back to an image."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgn.errors import DgnError

CodeKind = Literal["spatial", "pooled"]


@dataclass(frozen=True)
class GeneratorConfig:
    """What a generator inverts and how it is built; it travels in the checkpoint's metadata.

    Attributes:
        network, layer: the encoder, as ``load_network`` names it, and the layer whose output is the code.
        encoder_size: height and width in pixels at which the encoder sees an image of ``image_size``.
        image_size: height and width in pixels of the images it was trained on.
        code: ``"spatial"`` keeps the layer's map ``[C, h, w]``; ``"pooled"`` is its spatial mean ``[C, 1, 1]``.
        code_shape: shape of the code of one training image.
        widths, depths: channels and number of 3x3 convolutions of each stage, from the coarsest; each further stage
            doubles the resolution and the output doubles it once more.
        code_size: height and width in pixels to which an image is reduced before the encoder sees it (0: not at all).
            A generator of larger images keeps the codes of a smaller one by it.
    """

    network: str = "efficientnet_lite0"
    layer: str = "blocks.4"
    encoder_size: int = 128
    image_size: int = 64
    code: CodeKind = "spatial"
    code_shape: tuple[int, int, int] = (112, 8, 8)
    widths: tuple[int, ...] = (256, 192, 96)
    depths: tuple[int, ...] = (2, 2, 2)
    code_size: int = 0

    @property
    def base(self) -> int:
        """Height and width in cells of the first stage."""
        return max(self.image_size >> len(self.widths), 1)

    def check(self) -> None:
        """Raise :class:`DgnError` where the numbers don't fit each other."""
        if not self.widths or len(self.widths) != len(self.depths) or min(self.depths) < 1:
            raise DgnError(f"widths {self.widths} and depths {self.depths} need one entry a stage, depths above 0")
        if self.base << len(self.widths) != self.image_size:
            raise DgnError(
                f"image_size {self.image_size} is not a multiple of 2^{len(self.widths)}, its stages' doublings"
            )
        if self.code == "spatial" and self.code_shape[1:] != (self.base, self.base):
            wanted = round(math.log2(self.image_size / self.code_shape[1]))
            raise DgnError(
                f"{len(self.widths)} stages start from a {self.base} x {self.base} map, but {self.layer!r} gives "
                f"{self.code_shape[1]} x {self.code_shape[2]}: give {wanted} widths, or another encoder_size"
            )
        if self.code not in ("spatial", "pooled"):
            raise DgnError(f"unknown code {self.code!r}, expected 'spatial' or 'pooled'")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneratorConfig:
        """The inverse of :meth:`to_dict`; lists become tuples."""
        plain: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
        return cls(**plain)


class _Stage(nn.Module):
    """Optional doubling of the resolution, then 3x3 convolutions; those that keep their width are residual.

    ``low`` and ``high``, ``[depth, width, 1, 1]``, bound each channel behind its convolution: a code that is none of an
    image's may drive a channel to fifty times what any image does, and all that follows it.
    """

    low: Tensor
    high: Tensor

    def __init__(self, inputs: int, width: int, depth: int, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        widths = [inputs] + [width] * depth
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth))
        self.register_buffer("low", torch.full((depth, width, 1, 1), -torch.inf))
        self.register_buffer("high", torch.full((depth, width, 1, 1), torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        if self.upsample:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        for conv, norm, low, high in zip(self.convs, self.norms, self.low, self.high, strict=True):
            y = norm(conv(x))
            if not self.training:
                y = y.clamp(low, high)
            y = F.leaky_relu(y, 0.2)
            x = x + y if y.shape[1] == x.shape[1] else y
        return x


class Generator(nn.Module):
    """Fully convolutional decoder: normalised code ``[N, C, h, w]`` -> image ``[N, 3, H, W]``, about [0, 1], unclamped.

    A spatial code of any size gives an image of the same number of pixels a cell. The code's statistics, measured on
    real images and kept per channel as buffers, say what a normalised code is: ``(code - mean) / std``.
    """

    code_mean: Tensor
    code_std: Tensor
    code_min: Tensor
    code_max: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        channels = config.code_shape[0]
        first = config.widths[0]
        if config.code == "spatial":
            self.stem: nn.Module = nn.Conv2d(channels, first, 1)
        else:
            self.stem = nn.ConvTranspose2d(channels, first, config.base)
        inputs = [first, *config.widths[:-1]]
        self.stages = nn.ModuleList(
            _Stage(before, width, depth, upsample=index > 0)
            for index, (before, width, depth) in enumerate(zip(inputs, config.widths, config.depths, strict=True))
        )
        self.head = nn.Conv2d(config.widths[-1], 12, 3, padding=1)
        for name in ("code_mean", "code_std", "code_min", "code_max"):
            start = torch.ones if name == "code_std" else torch.zeros
            self.register_buffer(name, start(channels, 1, 1))

    def forward(self, code: Tensor) -> Tensor:
        x = self.stem(code.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        return F.pixel_shuffle(_without_checkerboard(self.head(x)), 2) * 0.5 + 0.5

    def normalise(self, code: Tensor) -> Tensor:
        """The encoder's raw code in units of each channel's standard deviation around its mean."""
        return (code - self.code_mean) / self.code_std

    def denormalise(self, code: Tensor) -> Tensor:
        """The inverse of :meth:`normalise`."""
        return code * self.code_std + self.code_mean

    def bounds(self, sigmas: float) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of a normalised code, ``[C, 1, 1]`` each, ``sigmas`` standard deviations wide.

        A code that is never negative on real images (it follows a ReLU) keeps to [0, sigmas * std] in its own units,
        as in Nguyen et al. 2016; any other to ``mean +- sigmas * std``.
        """
        if self._never_negative():
            lower = self.normalise(torch.zeros_like(self.code_mean))
            return lower, self.normalise(sigmas * self.code_std)
        wide = torch.full_like(self.code_mean, float(sigmas))
        return -wide, wide

    def _never_negative(self) -> bool:
        """Whether real codes are; looked up once a state of the buffer, for a look waits for the device."""
        state = (self.code_min.data_ptr(), self.code_min._version)
        if getattr(self, "_sign", (None,))[0] != state:
            self._sign = (state, bool((self.code_min >= 0).all()))
        return self._sign[1]


def _without_checkerboard(squares: Tensor) -> Tensor:
    """Without the part ``(a - b - c + d) / 4`` of each square of pixels ``a b / c d``; ``[N, 3 * 4, h, w]``, as
    ``pixel_shuffle`` takes them.

    Sub-pixel convolutions leave such a checkerboard (Odena et al. 2016, "Deconvolution and checkerboard artifacts"). A
    network that begins with a stride of two doesn't see it at this size, so a training by its features keeps it; one
    that looks at enlarged images does see it.
    """
    a, b, c, d = squares.unflatten(1, (3, 4)).unbind(2)
    board = (a - b - c + d) / 4
    return torch.stack([a - board, b + board, c + board, d - board], 2).flatten(1, 2)


def reduced(images: Tensor, config: GeneratorConfig) -> Tensor:
    """Images ``[N, 3, S, S]`` with no more detail than the generator's codes are read from; see ``code_size``."""
    size = round(images.shape[2] * config.code_size / config.image_size)
    if size in (0, images.shape[2]):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def encode(features: Tensor, kind: CodeKind) -> Tensor:
    """The raw code ``[N, C, h, w]`` (or ``[N, C, 1, 1]``, pooled) from a layer's output."""
    if features.dim() == 2:
        features = features[:, :, None, None]
    if features.dim() != 4:
        raise DgnError(f"a code is read from a layer [N, C, H, W] or [N, C], not {list(features.shape)}")
    return features.mean((2, 3), keepdim=True) if kind == "pooled" else features


@dataclass
class Components:
    """Principal components of normalised codes of real images (closed-form covariance).

    Attributes:
        mean: ``[D]``, the mean normalised code, flattened.
        scale: ``[K]``, standard deviation along each component, descending.
        basis: ``[D, K]``, orthonormal columns.
        shape: shape of the code, ``prod(shape) == D``.
        explained: share of the total variance that the K components hold.
        centres: ``[M, K]``, whitened coordinates of M codes between real ones, to begin at; M may be 0. Each is the
            mean of a group of images that look alike to the encoder, at the norm of a real code.
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor
    shape: tuple[int, int, int]
    explained: float = field(default=0.0)
    centres: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def rest(self) -> float:
        """Variance of a normalised code in each direction that no component has: what they leave, shared out evenly."""
        held, others = float(self.scale.square().sum()), len(self.mean) - len(self.scale)
        return held * (1 / self.explained - 1) / others if others and 0 < self.explained < 1 else 0.0

    def to(self, device: torch.device | str) -> Components:
        """The same on a device."""
        mean, scale, basis, centres = (part.to(device) for part in (self.mean, self.scale, self.basis, self.centres))
        return Components(mean, scale, basis, self.shape, self.explained, centres)

    def to_code(self, coordinates: Tensor) -> Tensor:
        """Whitened coordinates ``[N, K]`` -> normalised codes ``[N, *shape]``."""
        if coordinates.shape[1] != len(self.scale):
            raise DgnError(
                f"codes of {coordinates.shape[1]} components are not this prior's, which has {len(self.scale)}"
            )
        return (self.mean + (coordinates * self.scale) @ self.basis.T).unflatten(1, self.shape)

    def to_coordinates(self, code: Tensor) -> Tensor:
        """Normalised codes ``[N, *shape]`` -> whitened coordinates ``[N, K]``."""
        return ((code.flatten(1) - self.mean) @ self.basis) / self.scale
