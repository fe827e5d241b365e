"""How generators and flows are trained: every number that decides the outcome."""

from __future__ import annotations

from dataclasses import dataclass

from dgn.errors import DgnError


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training of a generator; the same settings, data and machine give the same weights.

    Attributes:
        network: the encoder, whose layer is inverted.
        layer: of the encoder; its output becomes the code.
        code: how: ``spatial`` (the map) or ``pooled`` (its mean over places).
        image_size: pixels of the training images.
        encoder_size: pixels of what the encoder sees.
        code_size: pixels to which an image is reduced before the encoder sees it; 0: not at all. With ``init`` the
            codes are then the earlier generator's, and with them their statistics, components, centres and flow.
        widths: channels of the generator's stages, from the coarsest.
        depths: blocks of each stage.
        comparator_layers: the encoder's layers of the feature loss, read at ``image_size``.
        semantic_layers: the encoder's deeper layers of the semantic loss, read at ``encoder_size``.
        adversary_layers: layers that the discriminator stands on, some of ``comparator_layers``.
        steps: updates.
        batch: images an update.
        lr: Adam's learning rate of the generator.
        discriminator_lr: Adam's learning rate of the discriminator.
        warmup: updates over which the rate rises.
        cooldown: share of the steps over which the rate falls to a fiftieth, at the end.
        pixel_weight: weight of the pixels' loss (L1).
        feature_weight: weight of the feature loss.
        semantic_weight: weight of the semantic loss.
        code_weight: weight of the code's loss: what the encoder says of the decoded image.
        adversary_weight: weight of the adversary's loss.
        adversary_start: share of the steps after which the adversary joins.
        cycle_share: share of a batch whose images are encoded again, for the code and semantic losses.
        blend_share: share of a batch whose codes are blends of two images' codes. A blend ``cos(t) a + sin(t) b`` has
            the covariance of real codes without being one, as the codes of an ascent: it has no image to match, only
            its own code and the adversary.
        ascent_share: share of a batch whose codes are on their way up random output units of the encoder, through
            this generator as it is then. As with blends, there is no image to match.
        ascent_steps: steps of each such ascent.
        sample_share: the same with codes on their way through the sampler, as it estimates them
            (:func:`dgn.ascent.sampling.sample`).
        init: checkpoint or folder of a generator whose weights the training starts from; empty: random weights. With
            ``code_size`` it may have fewer stages, the further ones begin at random.
        norms: how channels are normalised in training: ``batch``, by each batch's statistics, or ``kept``, by those of
            ``init`` and within its ranges (measured anew at the end), as in use. A few wild places in a batch decide
            that batch's statistics.
        code_noise: standard deviation of the noise added to the normalised code.
        ema: decay a step of the averaged weights, which are the ones that are kept.
        seed: of everything random.
        held_out: images kept out of training, for samples and held-out losses.
        statistics_images: real images measured for the code's statistics.
        component_images: real images measured for its principal components and centres.
        components: principal components that are kept; 0: none.
        centres: groups of these images whose mean codes are kept, for ascents to begin at; 0: none.
    """

    network: str = "efficientnet_lite0"
    layer: str = "blocks.4"
    code: str = "spatial"
    image_size: int = 64
    encoder_size: int = 128
    code_size: int = 0
    widths: tuple[int, ...] = (256, 192, 96)
    depths: tuple[int, ...] = (2, 2, 2)
    comparator_layers: tuple[str, ...] = ("bn1", "blocks.0", "blocks.1", "blocks.2")
    semantic_layers: tuple[str, ...] = ()
    adversary_layers: tuple[str, ...] = ("blocks.0", "blocks.1", "blocks.2")
    steps: int = 6000
    batch: int = 32
    lr: float = 1e-3
    discriminator_lr: float = 4e-4
    warmup: int = 100
    cooldown: float = 0.3
    pixel_weight: float = 6.0
    feature_weight: float = 1.0
    semantic_weight: float = 1.0
    code_weight: float = 0.5
    adversary_weight: float = 0.08
    adversary_start: float = 0.3
    cycle_share: float = 0.5
    blend_share: float = 0.0
    ascent_share: float = 0.0
    ascent_steps: int = 100
    sample_share: float = 0.0
    init: str = ""
    norms: str = "batch"
    code_noise: float = 0.1
    ema: float = 0.995
    seed: int = 0
    held_out: int = 256
    statistics_images: int = 2048
    component_images: int = 16000
    components: int = 1024
    centres: int = 1024

    def check(self) -> None:
        """Raise :class:`DgnError` on values that can't work."""
        _above_zero(self, "steps", "batch", "image_size", "encoder_size", "statistics_images", "ascent_steps")
        _shares(self, "cooldown", "adversary_start", "cycle_share", "blend_share", "ascent_share", "sample_share")
        if not 0 <= self.code_size <= self.image_size:
            raise DgnError(f"code_size is {self.code_size}, expected 0 to image_size={self.image_size}")
        if not self.adversary_layers:
            raise DgnError("adversary_layers is empty; for a training without adversary give adversary_weight=0")
        stray = [layer for layer in self.adversary_layers if layer not in self.comparator_layers]
        if stray:
            raise DgnError(f"adversary layer {stray[0]!r} is not among the comparator layers")
        if self.code not in ("spatial", "pooled"):
            raise DgnError(f"unknown code {self.code!r}, expected 'spatial' or 'pooled'")
        if self.norms not in ("batch", "kept"):
            raise DgnError(f"unknown norms {self.norms!r}, expected 'batch' or 'kept'")
        if self.norms == "kept" and not self.init:
            raise DgnError("norms=kept keeps those of an earlier generator; give it as init")
        if self.ascent_share and self.sample_share:
            raise DgnError("give ascent_share or sample_share, not both")
        if self.blend_share + self.ascent_share + self.sample_share >= 1:
            raise DgnError("blend_share and ascent_share leave no image of a batch to learn from; lower one")
        if (self.ascent_share or self.sample_share) and (self.code != "spatial" or not self.components):
            raise DgnError("ascent_share and sample_share need a spatial code and components above 0")


@dataclass(frozen=True)
class FlowSettings:
    """Settings of one training of a flow; the same settings, data and machine give the same weights.

    Attributes:
        prior: a generator with principal components, by name or folder, whose codes are learned.
        patch: cells a token, on each side.
        width: of the transformer.
        depth: blocks of the transformer.
        heads: of its attention.
        steps: updates.
        batch: codes an update.
        lr: AdamW's learning rate.
        warmup: updates over which the rate rises.
        cooldown: share of the steps over which the rate falls to a fiftieth, at the end.
        ema: decay a step of the averaged weights, which are the ones that are kept.
        passes: codes of each image, of random crops, half of them mirrored.
        held_out: images kept out of training.
        sample_steps: steps of the sampler, for the pictures; 0: none.
        init: file or folder of a flow whose weights the training starts from; empty: none.
        seed: of everything random.
    """

    prior: str = "dgn"
    patch: int = 2
    width: int = 384
    depth: int = 8
    heads: int = 6
    steps: int = 20_000
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.4
    ema: float = 0.999
    passes: int = 1
    held_out: int = 512
    sample_steps: int = 30
    init: str = ""
    seed: int = 0

    def check(self) -> None:
        """Raise :class:`DgnError` on values that can't work."""
        _above_zero(self, "steps", "batch", "passes", "held_out")
        _shares(self, "cooldown")
        if self.lr < 0 or self.warmup < 0 or not 0 <= self.ema < 1:
            raise DgnError("lr and warmup are not negative, ema is from 0 up to 1")


def _above_zero(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise DgnError(f"{name} is {getattr(settings, name)}, expected a whole number above 0")


def _shares(settings: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise DgnError(f"{name} is {getattr(settings, name)}, expected a share from 0 to 1")


def rate(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """The learning rate's factor: linear warm-up, constant, linear cool-down to 1/50 over a share of the steps."""
    down = steps * (1 - cooldown)
    factor = min(1.0, (step + 1) / max(warmup, 1))
    if step > down:
        factor *= 0.02 + 0.98 * max(0.0, (steps - step) / max(steps - down, 1.0))
    return factor
