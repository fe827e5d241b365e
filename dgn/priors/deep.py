"""The generator as a prior: its spatial code, and the decorrelated coordinates in which whole objects appear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.priors.base import Prior, seeded_normal
from dgn.priors.generator import Components, Generator, encode, reduced


class GeneratorPrior(Prior):
    """A deep generator network over its code ``[n, C, h, w]`` (DGN-AM, Nguyen et al. 2016).

    Args:
        generator: trained; frozen here.
        size: height and width in pixels of the images, a multiple of a cell's; only a spatial code has a choice.
        name: in tables and file names.
        encoder: the network whose layer the generator inverts, for :meth:`reencode`.
        around: ``(centre, radius)`` keeps each element of the code within ``radius`` of ``centre``.
        sigmas: the code keeps within this many standard deviations of real codes.
        raw: the code is the encoder's own, as in the paper; else each channel is normalised by its mean and standard
            deviation on real images.
    """

    family = "code"

    def __init__(
        self,
        generator: Generator,
        size: int | None = None,
        *,
        name: str = "dgn",
        encoder: Network | None = None,
        around: tuple[Tensor, float] | None = None,
        sigmas: float = 3.0,
        raw: bool = False,
    ) -> None:
        config = generator.config
        size = config.image_size if size is None else size
        cell = config.image_size // config.code_shape[1] if config.code == "spatial" else config.image_size
        if size < cell or size % cell or (config.code == "pooled" and size != config.image_size):
            choice = f"a multiple of {cell}" if config.code == "spatial" else str(config.image_size)
            raise DgnError(f"this generator can't make images of {size} px: give size={choice}")
        self.generator = generator.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.name, self.channels, self.size = name, 3, (size, size)
        self.encoder, self.around, self.sigmas, self._raw = encoder, around, sigmas, raw
        self.components: Components | None = None
        """Where it stands for a prior in components: what codes written in these are read by."""
        cells = size // cell
        self.code_shape = (config.code_shape[0], cells, cells)
        self.size_step = cell
        self.coordinates = "raw code" if raw else "code"
        self.encodes = encoder is not None

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        """N(0, 1) in the units of the code: real codes' standard deviations around their mean, or the encoder's own."""
        device = self.generator.code_mean.device
        return seeded_normal(self.code_shape, range(n) if seeds is None else seeds, device)

    def decode(self, code: Tensor) -> Tensor:
        normalised = self.generator.normalise(code) if self._raw else code
        return self.generator(normalised).float().clamp(0, 1)  # type: ignore[no-any-return]

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        lower, upper = self.generator.bounds(self.sigmas if sigmas is None else sigmas)
        if self._raw:
            lower, upper = self.generator.denormalise(lower), self.generator.denormalise(upper)
        code = torch.minimum(torch.maximum(code, lower), upper)
        if self.around is not None:
            centre, radius = self.around
            code = torch.minimum(torch.maximum(code, centre - radius), centre + radius)
        return code

    def raw(self) -> GeneratorPrior:
        return GeneratorPrior(
            self.generator, self.size[0], name=self.name, encoder=self.encoder, sigmas=self.sigmas, raw=True
        )

    def convert(self, code: Tensor, coordinates: str) -> Tensor:
        if coordinates == "components" and self.components is not None:
            code, coordinates = self.components.to_code(code), "code"
        if {coordinates, self.coordinates} == {"code", "raw code"}:
            return self.generator.normalise(code) if coordinates == "raw code" else self.generator.denormalise(code)
        return super().convert(code, coordinates)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """What the encoder's layer says of them."""
        if self.encoder is None:
            return super().encode(images)
        config = self.generator.config
        side = self.size[0] * config.encoder_size // config.image_size
        seen = self.encoder.at((side, side))
        raw = encode(seen.maps(reduced(images, config), [config.layer])[config.layer].float(), config.code)
        return raw if self._raw else self.generator.normalise(raw)

    @torch.no_grad()
    def reencode(self, code: Tensor) -> Tensor:
        return super().reencode(code) if self.encoder is None else self.encode(self.decode(code))

    def resized(self, size: int) -> GeneratorPrior:
        if self.size == (size, size):
            return self
        other = GeneratorPrior(
            self.generator, size, name=self.name, encoder=self.encoder, sigmas=self.sigmas, raw=self._raw
        )
        other.ascent = self.ascent
        return other

    def carry(self, code: Tensor, to: Prior) -> Tensor:
        """The code's cells enlarged: the generator needs no encoder for it."""
        assert isinstance(to, GeneratorPrior)
        return F.interpolate(code, size=to.code_shape[1:], mode="bicubic", align_corners=False)

    def adopt(self, code: Tensor) -> Tensor | None:
        """A spatial code of another size, its cells shrunk or enlarged to this one's."""
        if self.generator.config.code != "spatial" or code.dim() != 4 or code.shape[1] != self.code_shape[0]:
            return None
        return F.interpolate(code, size=self.code_shape[1:], mode="bicubic", align_corners=False)

    def weights(self) -> dict[str, Tensor]:
        return self.generator.state_dict()

    def to(self, device: torch.device | str) -> GeneratorPrior:
        self.generator.to(device)
        if self.encoder is not None:
            self.encoder.to(device)
        return self
