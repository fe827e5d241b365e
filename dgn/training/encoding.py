"""How a generator's training sees images: as codes, and as the features that its losses compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dgn.ascent.starts import above_zero
from dgn.errors import DgnError
from dgn.network.layers import feature_layer
from dgn.network.layout.survey import OUTPUT
from dgn.network.sources import load_network
from dgn.priors.generator import CodeKind, GeneratorConfig, encode, reduced
from dgn.training.settings import TrainSettings


class Encoding:
    """A network at the two sizes at which a training looks through it; ``config`` is of the generator that inverts it.

    Attributes:
        encoder: at ``encoder_size``, whose layer's output is the code.
        comparator: at ``image_size``, whose layers' outputs are compared.

    Raises:
        DgnError: the network does not take RGB images, or the layer can't be a code.
    """

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        network = load_network(settings.network, device=device)
        if network.channels != 3:
            raise DgnError(f"a generator makes RGB images; network {network.name!r} takes {network.channels} channels")
        self.settings = settings
        layers = (settings.layer, *settings.comparator_layers, *settings.semantic_layers)
        network.layouts.ask(layer for layer in layers if layer in network.survey.every)  # all in one pass
        self.encoder = network.at((settings.encoder_size, settings.encoder_size))
        self.comparator = network.at((settings.image_size, settings.image_size))
        kind: CodeKind = "pooled" if settings.code == "pooled" else "spatial"
        code = encode(torch.zeros(1, *self.encoder.map_shape(settings.layer)), kind)
        self.config = GeneratorConfig(
            settings.network, settings.layer, settings.encoder_size, settings.image_size, kind,
            (code.shape[1], code.shape[2], code.shape[3]), tuple(settings.widths), tuple(settings.depths),
            settings.code_size,
        )  # fmt: skip

    def code(self, images: Tensor) -> Tensor:
        """Raw float32 codes ``[N, C, h, w]`` of images in [0, 1]."""
        return self.read(images, ())[0]

    def read(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """Raw float32 codes, and the encoder's outputs at further layers."""
        maps = self.encoder.maps(reduced(images, self.config), [self.config.layer, *layers])
        return encode(maps[self.config.layer].float(), self.config.code), [maps[layer] for layer in layers]

    def late(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw codes, and the spatial mean ``[N, D]`` of the encoder's late features."""
        code, (late,) = self.read(images, [feature_layer(self.encoder)])
        return code, late.flatten(2).mean(2) if late.dim() > 2 else late

    def compared(self, images: Tensor) -> list[Tensor]:
        """What the feature loss compares."""
        maps = self.comparator.maps(images, self.settings.comparator_layers)
        return [maps[layer] for layer in self.settings.comparator_layers]

    def judged(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Of what :meth:`compared` gave, what the adversary sees."""
        places = [self.settings.comparator_layers.index(layer) for layer in self.settings.adversary_layers]
        return [features[place] for place in places]

    @torch.no_grad()
    def deviations(self, batches: Iterable[Tensor]) -> Tensor:
        """``[outputs]``, standard deviation of each of the encoder's outputs over images."""
        scores = [self.encoder.features(images, [OUTPUT])[OUTPUT].float() for images in batches]
        return above_zero(torch.cat(scores).std(0))
