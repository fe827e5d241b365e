"""The generator in the decorrelated coordinates in which whole objects appear; with all that lies beside it, loaded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.network.sources import load_network
from dgn.priors.base import Prior, seeded_normal
from dgn.priors.checkpoint import load_components, load_flow, load_generator
from dgn.priors.deep import GeneratorPrior
from dgn.priors.flow import Flow
from dgn.priors.gaussian import FlowPrior, GaussianPrior
from dgn.priors.generator import Components, Generator
from dgn.priors.noise import NoisePrior


class ComponentsPrior(Prior):
    """The same generator in whitened principal components of real codes: whole objects rather than textures.

    ``code = mean + (a * scale) @ basis.T``, with ``a`` kept inside a ball: the decorrelated parameterisation of Olah et
    al. 2017 in a generator's code space. The components fit one code size; a larger picture is laid out at that size,
    its code enlarged, and refined in the spatial code (:meth:`refine`).

    Args:
        generator, components: from one training.
        size: pixels of the final image.
        encoder: the network whose layer the generator inverts, for :meth:`reencode`.
        flow: what is learned of the codes' distribution, for :meth:`sampled`.
        refine_radius: how far each element of the spatial code may move in the refinement.
    """

    refines = True
    radius = 1.0
    """Of the ball, in units of ``sqrt(K)`` for K components (the typical norm of a real code is about 1)."""

    def __init__(
        self,
        generator: Generator,
        components: Components,
        size: int = 128,
        *,
        name: str = "dgn",
        encoder: Network | None = None,
        flow: Flow | None = None,
        refine_radius: float = 1.0,
    ) -> None:
        config = generator.config
        if size < config.image_size:
            raise DgnError(
                f"the components of prior {name!r} make images of {config.image_size} px and more, not {size}: "
                f"give size={config.image_size}, or space=code"
            )
        if components.shape != generator.config.code_shape:
            raise DgnError(
                f"components of codes {components.shape} don't fit a generator of codes {generator.config.code_shape}"
            )
        self.flow = flow
        self.layout = GeneratorPrior(generator, generator.config.image_size, name=name, encoder=encoder)
        self.final = GeneratorPrior(generator, size, name=name, encoder=encoder)
        self.components, self.refine_radius = components, refine_radius
        self.name, self.channels, self.size = name, 3, self.layout.size
        self.coordinates, self.encodes = "components", encoder is not None
        self.family = "components" if flow is None else "flow"

    @property
    def centres(self) -> Tensor | None:  # type: ignore[override]
        return self.components.centres if len(self.components.centres) else None

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        count = len(self.components.scale)
        return 0.3 * seeded_normal((count,), range(n) if seeds is None else seeds, self.components.mean.device)

    def decode(self, code: Tensor) -> Tensor:
        return self.layout.decode(self.components.to_code(code))

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        """Into the ball; with ``sigmas``, each coordinate to ``+-sigmas`` instead."""
        if sigmas is not None:
            return code.clamp(-sigmas, sigmas)
        radius = self.radius * code.shape[1] ** 0.5
        return code * (radius / code.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)

    def encode(self, images: Tensor) -> Tensor:
        """The coordinates of the encoder's code: what the components can't express is lost."""
        return self.components.to_coordinates(self.layout.encode(images))

    def reencode(self, code: Tensor) -> Tensor:
        return self.components.to_coordinates(self.layout.reencode(self.components.to_code(code)))

    def resized(self, size: int) -> ComponentsPrior:
        if self.size == (size, size):
            return self
        raise DgnError(
            f"the components of prior {self.name!r} fit one size: octaves and grow need prior.dgn.space=code"
        )

    def convert(self, code: Tensor, coordinates: str) -> Tensor:
        """Spatial codes stay what they are, normalised: :meth:`adopt` reads them."""
        if coordinates in ("code", "raw code"):
            return self.final.convert(code, coordinates)
        return super().convert(code, coordinates)

    def adopt(self, code: Tensor) -> Tensor | None:
        """The coordinates of a spatial code, its cells shrunk to the layout's."""
        if code.dim() != 4 or code.shape[1] != self.components.shape[0]:
            return None
        cells = self.components.shape[1:]
        return self.components.to_coordinates(F.interpolate(code, size=cells, mode="bilinear", antialias=True))

    def refine(self, code: Tensor, radius: float | None = None) -> tuple[Prior, Tensor]:
        """The spatial code at the final size, each element within ``radius`` of the enlarged layout."""
        centre = self.components.to_code(code)
        cells = self.final.code_shape[1:]
        if tuple(centre.shape[2:]) != cells:
            centre = F.interpolate(centre, size=cells, mode="bicubic", align_corners=False)
        fine = GeneratorPrior(
            self.final.generator, self.final.size[0], name=self.name, encoder=self.final.encoder,
            around=(centre, radius or self.refine_radius),
        )  # fmt: skip
        return fine, centre

    def sampled(self) -> GaussianPrior:
        """The spatial code at the size of the layout, with the components' Gaussian."""
        given = self.layout, self.components, self.final.size[0]
        return GaussianPrior(*given) if self.flow is None else FlowPrior(*given, self.flow)

    def raw(self) -> GeneratorPrior:
        """The spatial code at the final size: the paper knows no components."""
        other = self.final.raw()
        other.components = self.components
        return other

    def weights(self) -> dict[str, Tensor]:
        parts = self.components
        return {**self.layout.weights(), "components": parts.basis, "scale": parts.scale, "centres": parts.centres}

    def to(self, device: torch.device | str) -> ComponentsPrior:
        self.layout.to(device)
        self.components = self.components.to(device)
        if self.flow is not None:
            self.flow.to(device)
        return self


SPACES = ("auto", "components", "code", "noise")
"""What a generator's code may be written in."""


def load_deep(path: Path, size: int | None = None, space: str = "auto", *, name: str = "dgn") -> Prior:
    """A generator prior from a checkpoint, or from the folder that holds one.

    Args:
        path: ``generator.safetensors`` or its folder; ``components.safetensors`` and ``flow.safetensors`` are looked
            for beside it.
        size: pixels of the images (default: for a spatial code with components twice those whose code fits them, else
            the training size).
        space: ``"components"``, ``"code"``, ``"noise"`` (see :class:`dgn.priors.noise.NoisePrior`), or ``"auto"``
            (components where the checkpoint has them).
    """
    file = path / "generator.safetensors" if path.is_dir() else path
    generator, _ = load_generator(file)
    encoder = None
    with suppress(DgnError):  # weights that this machine doesn't have: the prior then can't re-encode
        encoder = load_network(generator.config.network)
    beside = file.with_name("components.safetensors")
    if space not in SPACES:
        raise DgnError(f"unknown space {space!r} of a generator's code, expected one of {', '.join(SPACES)}")
    if space in ("components", "noise") and not beside.is_file():
        raise DgnError(f"no principal components beside {str(file)!r}; use space=code")
    if space == "code" or not beside.is_file():
        return GeneratorPrior(generator, size, name=name, encoder=encoder)
    components, _ = load_components(beside)
    config = generator.config
    size = size or config.image_size * (1 if config.code_size else 2)
    learned = file.with_name("flow.safetensors")
    flow = load_flow(learned, components)[0] if learned.is_file() else None
    prior = ComponentsPrior(generator, components, size, name=name, encoder=encoder, flow=flow)
    return NoisePrior(prior.sampled()) if space == "noise" else prior
