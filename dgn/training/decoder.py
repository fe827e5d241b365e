"""A generator in training: it learns to invert one layer of a network, in the manner of Dosovitskiy & Brox 2016."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dgn.images.reading import list_images
from dgn.network.fast.precision import autocast
from dgn.priors import generator_path
from dgn.priors.checkpoint import load_components, load_flow, save_components, save_generator
from dgn.priors.components import ComponentsPrior
from dgn.priors.generator import Generator
from dgn.training.ascents import AscentPool, Pool, SamplePool
from dgn.training.data import StepBatches, split, stream
from dgn.training.encoding import Encoding
from dgn.training.losses import Discriminator, blend, feature_distance, hinge_discriminator, hinge_generator
from dgn.training.settings import TrainSettings
from dgn.training.state import Machine, Training, follow, part, tiled
from dgn.training.statistics import measure_centres, measure_code, measure_components, measure_ranges
from dgn.training.warm import warm_start


class GeneratorTraining(Training[TrainSettings]):
    """The generator, its average, the adversary, and the codes that they learn from.

    Attributes:
        entries, held_out: images that it learns from, and others.
        pool: codes of ascents or samples under way, where the settings ask for them.
        scales, semantic_scales: standard deviations of the channels of the features that are compared.
    """

    format = "dgn-training-1"
    columns = ("pixel", "feature", "semantic", "code", "adversary", "discriminator", "lr", "images_per_second")
    shown = ("pixel", "feature", "code")
    weights = "generator.safetensors"

    def __init__(self, settings: TrainSettings, data: Path, out: Path, machine: Machine) -> None:
        super().__init__(settings, out, machine)
        self.free = self.free | {"centres"}
        if not settings.ascent_share + settings.sample_share:  # else codes move in the components
            self.free = self.free | {"components", "component_images"}
        images = list_images(data)
        self.broken |= set(images.unread)
        self.entries, held_out = split(images, min(settings.held_out, len(images) // 10), settings.seed)
        self.held_out, self.images = held_out or images[:1], len(self.entries)
        self.encoding = Encoding(settings, self.device)
        torch.manual_seed(settings.seed)
        self.generator = self._place(Generator(self.encoding.config))
        self.average: Generator = self._place(Generator(self.encoding.config)).eval().requires_grad_(False)
        shapes = [self.encoding.comparator.map_shape(layer) for layer in settings.adversary_layers]
        self.discriminator = self._place(Discriminator(shapes))
        self.modules = {"generator": self.generator, "average": self.average, "discriminator": self.discriminator}
        self.optimisers = {
            "adam.generator": torch.optim.Adam(self.generator.parameters(), settings.lr, betas=(0.5, 0.99)),
            "adam.discriminator": torch.optim.Adam(
                self.discriminator.parameters(), settings.discriminator_lr, betas=(0.0, 0.99)
            ),
        }
        self.generator.train(settings.norms == "batch")
        self._generate, self._judge = self.compiled(self.generator), self.compiled(self.discriminator)
        self.pool: Pool | None = None
        self.scales: list[Tensor] = []
        self.semantic_scales: list[Tensor] = []
        if not self.take_up():
            self._begin()

    def _place(self, module: Any) -> Any:
        return module.to(self.device).to(memory_format=torch.channels_last)

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, trains=True)

    # --- where it begins -------------------------------------------------------------------------------------

    @torch.no_grad()
    def _begin(self) -> None:
        """Measure what the losses and the normalisation need, on real images."""
        count = min(self.settings.statistics_images, len(self.entries))
        with self._autocast():
            measure_code((self.encoding.code(x) for x in self._real(count, 101)), self.generator)
            x = torch.cat(list(self._real(min(256, count), 102)))
            self.scales = [_channel_std(features) for features in self.encoding.compared(x)]
            late = self.encoding.read(x, self.settings.semantic_layers)[1]
            self.semantic_scales = [_channel_std(features) for features in late]
        if self.settings.init:
            earlier = generator_path(self.settings.init) or Path(self.settings.init)
            warm_start(self.generator, earlier, self.out, ranges=self.settings.norms == "kept")
        self.average.load_state_dict(self.generator.state_dict())
        self.pool = self._open_pool()

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.scales = [scale.to(self.device) for scale in part(tensors, "scale").values()]
        self.semantic_scales = [scale.to(self.device) for scale in part(tensors, "semantic_scale").values()]
        self.pool = self._open_pool()
        if self.pool:
            self.pool.restore(part(tensors, "pool"))

    def _open_pool(self) -> Pool | None:
        """The codes of ascents or samples, where the settings ask for them; they move among real codes."""
        settings, encoder = self.settings, self.encoding.encoder
        rows = round((settings.ascent_share + settings.sample_share) * settings.batch)
        if not rows:
            return None
        if not self._components_path.exists():
            self._measure_components()
        components, _ = load_components(self._components_path)
        if settings.ascent_share:
            return AscentPool(components.to(self.device), encoder, rows, settings.ascent_steps, settings.seed)
        learned = self.out / "flow.safetensors"
        flow = load_flow(learned, components)[0] if learned.is_file() else None
        prior = ComponentsPrior(self.average, components, settings.image_size, flow=flow).to(self.device).sampled()
        with self._autocast():
            sigma = self.encoding.deviations(self._real(min(256, len(self.entries)), 104))
        return SamplePool(prior, encoder, rows, settings.seed, sigma)

    # --- images ----------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Tensor]:
        source = StepBatches(self.entries, self.settings.image_size, self.settings.batch, self.settings.seed)
        for images, broken in stream(source, self.step, self.settings.steps, self.machine.workers):
            self.broken.update(broken)
            yield images

    def _images(self, batch: Tensor) -> Tensor:
        images = batch.to(self.device, non_blocking=True).float() / 255
        return images.contiguous(memory_format=torch.channels_last)

    def _real(self, count: int, seed: int, what: str = "") -> Iterator[Tensor]:
        """``count`` real images in batches, in an order of their own; with a bar that says for what."""
        batch = min(64, count)
        source = StepBatches(self.entries, self.settings.image_size, batch, self.settings.seed + seed)
        with tqdm(total=count, desc=what, unit="image", disable=not (what and self.machine.progress)) as bar:
            for step in range(-(-count // batch)):
                images, broken = source[step]
                self.broken.update(broken)
                yield self._images(images)
                bar.update(batch)

    def _held_out_images(self, most: int) -> Tensor:
        """Up to ``most`` held-out images, central squares, ``[N, 3, S, S]`` in [0, 1]."""
        count = min(most, len(self.held_out))
        source = StepBatches(self.held_out, self.settings.image_size, count, self.settings.seed, random=False)
        return self._images(source[0][0])

    # --- one step --------------------------------------------------------------------------------------------

    def update(self, batch: Tensor) -> dict[str, Tensor]:
        """One update of the generator and, once the adversary has joined, of the discriminator."""
        settings, encoding = self.settings, self.encoding
        lr = self.set_rate("adam.generator", settings.lr)
        self.set_rate("adam.discriminator", settings.discriminator_lr)
        draw = torch.Generator(self.device).manual_seed(settings.seed * 1_000_003 + self.step)
        images = self._images(batch)
        climbing = self.pool.rows if self.pool else 0
        free = min(climbing + round(settings.blend_share * len(images)), len(images) - 1)  # codes without an image
        cycled = max(1, free + round(settings.cycle_share * (len(images) - free)))
        with self._autocast():
            with torch.no_grad():
                code, deep = encoding.read(images, settings.semantic_layers)
                code = blend(self.generator.normalise(code), free, draw)
                if self.pool:
                    code = torch.cat([self.pool.next(self.average).to(code), code[climbing:]])
                real = encoding.compared(images)
            noisy = code + settings.code_noise * torch.randn(code.shape, generator=draw, device=self.device)
            made = self._generate(noisy).float()
            fake = encoding.compared(made)
            again, deep_again = encoding.read(made[:cycled], settings.semantic_layers)
            again = self.generator.normalise(again)
        pixel = (made[free:] - images[free:]).abs().mean()
        feature = feature_distance([maps[free:] for maps in fake], [maps[free:] for maps in real], self.scales)
        semantic = adversary = discriminator = pixel.new_zeros(())
        if deep and cycled > free:
            semantic = feature_distance(
                [maps[free:cycled] for maps in deep_again], [maps[free:cycled] for maps in deep], self.semantic_scales
            )
        cycle = (again.float() - code[:cycled]).square().mean()
        loss = settings.pixel_weight * pixel + settings.feature_weight * feature
        if free:  # codes without an image: nothing else keeps their pixels in range
            loss = loss + settings.pixel_weight * (made[:free] - made[:free].clamp(0, 1)).abs().mean()
        loss = loss + settings.semantic_weight * semantic + settings.code_weight * cycle
        if settings.adversary_weight > 0 and self.step >= settings.adversary_start * settings.steps:
            discriminator = self._update_discriminator(real, [maps.detach() for maps in fake])
            with _frozen(self.discriminator), self._autocast():
                adversary = hinge_generator(self._judge(encoding.judged(fake)))
            loss = loss + settings.adversary_weight * adversary
        self._move("adam.generator", loss)
        follow(self.average, self.generator, min(settings.ema, (1 + self.step) / (10 + self.step)))
        self.step += 1
        losses = {
            "pixel": pixel, "feature": feature, "semantic": semantic, "code": cycle, "adversary": adversary,
            "discriminator": discriminator, "lr": pixel.new_tensor(lr),
        }  # fmt: skip
        return {name: value.detach() for name, value in losses.items()}

    def _update_discriminator(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        with self._autocast():
            scores = (self._judge(self.encoding.judged(features)) for features in (real, fake))
            loss = hinge_discriminator(*scores)
        self._move("adam.discriminator", loss)
        return loss

    def _move(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[name].step()

    # --- keeping ---------------------------------------------------------------------------------------------

    def more_tensors(self) -> dict[str, Tensor]:
        tensors = {f"scale.{index:03}": scale for index, scale in enumerate(self.scales)}
        tensors |= {f"semantic_scale.{index:03}": scale for index, scale in enumerate(self.semantic_scales)}
        return tensors | {f"pool.{key}": value for key, value in (self.pool.state() if self.pool else {}).items()}

    def publish(self) -> None:
        save_generator(self.out / self.weights, self.average, self.facts())

    @torch.no_grad()
    def picture(self) -> Tensor:
        """Held-out images above their reconstructions, 16 a row."""
        images = self._held_out_images(32)
        with self._autocast():
            made = self.average(self.average.normalise(self.encoding.code(images))).float().clamp(0, 1)
        rows = [row for pair in zip(images.split(16), made.split(16), strict=True) for row in pair]
        return tiled(torch.cat(rows), min(16, len(images)))

    @torch.no_grad()
    def held_out_losses(self) -> dict[str, float]:
        """Losses of the averaged generator on held-out images, without code noise."""
        images = self._held_out_images(len(self.held_out))
        totals = {"pixel": 0.0, "psnr": 0.0, "feature": 0.0, "code": 0.0}
        for x in images.split(64):
            with self._autocast():
                code = self.average.normalise(self.encoding.code(x))
                y = self.average(code).float().clamp(0, 1)
                fake, real = self.encoding.compared(y), self.encoding.compared(x)
                again = self.average.normalise(self.encoding.code(y))
            totals["pixel"] += float((x - y).abs().mean()) * len(x)
            totals["psnr"] += float(-10 * (x - y).square().mean((1, 2, 3)).log10().sum())
            totals["feature"] += float(feature_distance(fake, real, self.scales)) * len(x)
            totals["code"] += float((again.float() - code).square().mean()) * len(x)
        return {name: value / len(images) for name, value in totals.items()}

    def report(self) -> dict[str, Any]:
        """Losses on held-out images, channels kept within real images' ranges; and the components of the codes,
        measured here unless codes moved in them or they came with ``init``."""
        settings = self.settings
        with self._autocast():
            count = min(settings.statistics_images, len(self.entries))
            measure_ranges((self.encoding.code(x) for x in self._real(count, 105, "ranges")), self.average)
        self.publish()
        report: dict[str, Any] = {"held_out": self.held_out_losses()}
        if settings.components and self.encoding.config.code == "spatial":
            kept = self.pool or (settings.code_size and settings.init)
            if not (kept and self._components_path.exists()):
                self._measure_components()
            components, facts = load_components(self._components_path)
            report["components"] = {
                "count": len(components.scale), "images": facts["component_images"], "explained": components.explained,
                "centres": len(components.centres),
            }  # fmt: skip
        return report

    @property
    def _components_path(self) -> Path:
        return self.out / "components.safetensors"

    @torch.no_grad()
    def _measure_components(self) -> None:
        """Write the principal components of real codes and centres among these; they depend on the encoder alone."""
        settings, count = self.settings, min(self.settings.component_images, len(self.entries))
        with self._autocast():
            codes = (self.encoding.code(x) for x in self._real(count, 103, "components"))
            components = measure_components(codes, self.generator, count, settings.components)
            if settings.centres:
                seen = (self.encoding.late(x) for x in self._real(count, 103, "centres"))
                components.centres = measure_centres(
                    seen, self.generator, components.to(self.device), settings.centres
                )  # fmt: skip
        save_components(self._components_path, components, {**self.facts(), "component_images": count})


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _channel_std(features: Tensor) -> Tensor:
    return features.float().std((0, 2, 3), keepdim=True) + 1e-2
