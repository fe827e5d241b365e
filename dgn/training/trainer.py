"""The trainer: a generator learns to invert one layer of a network, in the manner of Dosovitskiy & Brox 2016."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dgn.arguments import check_workers
from dgn.ascent.starts import above_zero
from dgn.errors import DgnError
from dgn.files.storage import write_atomic
from dgn.guest import guest
from dgn.images.pictures import png, to_image
from dgn.images.reading import Entry, list_images
from dgn.network.fast.precision import autocast
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network, feature_layer
from dgn.network.sources import load_network
from dgn.priors import generator_path
from dgn.priors.checkpoint import (
    load_components,
    load_flow,
    load_generator,
    load_tensors,
    save_components,
    save_generator,
    save_tensors,
)
from dgn.priors.components import ComponentsPrior
from dgn.priors.gaussian import GaussianPrior
from dgn.priors.generator import CodeKind, Generator, GeneratorConfig, encode, reduced
from dgn.training.ascents import AscentPool, Pool, SamplePool
from dgn.training.data import StepBatches, stream
from dgn.training.loop import Log, drive, follow, losses_csv, optimiser_tensors, part, restore_optimiser
from dgn.training.losses import Discriminator, blend, feature_distance, hinge_discriminator, hinge_generator
from dgn.training.settings import TrainSettings
from dgn.training.statistics import measure_centres, measure_code, measure_components

STATE_FORMAT = "dgn-training-1"
LOSSES = ("pixel", "feature", "semantic", "code", "adversary", "discriminator", "lr", "images_per_second")


@guest
def train(
    data: Path,
    out: Path,
    settings: TrainSettings,
    *,
    device: str = "cpu",
    workers: int = 0,
    compile: bool = False,
    checkpoint_minutes: float = 5.0,
    progress: bool = True,
    log: Log | None = None,
) -> Path:
    """Train a generator, or go on with the training that ``out`` holds.

    Args:
        data: a folder of images, a folder of tar shards, or one tar file.
        out: folder for ``generator.safetensors``, ``components.safetensors``, ``losses.csv``, ``samples/``,
            ``state.safetensors`` (to resume from) and ``report.json``.
        settings: everything that decides the outcome.
        device: ``"cpu"`` or ``"cuda"``; channels-last on both, bf16 where it pays.
        workers: processes that decode images.
        compile: ``torch.compile`` the generator and the discriminator (pays on CUDA, for long trainings).
        checkpoint_minutes: time between two checkpoints.
        progress: show a progress bar.
        log: called with (step, losses, sample picture or None) at every logged step.

    Returns:
        Path of the generator's checkpoint.

    Raises:
        DgnError: bad data, settings that don't fit each other, a checkpoint that is not this training's.
    """
    settings.check()
    check_workers(workers)
    training = _Training(settings, data, out, device, compile)
    training.resume()
    source = StepBatches(training.entries, settings.image_size, settings.batch, settings.seed)

    def batches() -> Iterator[Tensor]:
        for batch, broken in stream(source, training.step, settings.steps, workers):
            training.broken.update(broken)
            yield batch

    drive(
        training, batches(), settings.steps, settings.batch, shown=("pixel", "feature", "code"),
        checkpoint_minutes=checkpoint_minutes, progress=progress, log=log,
    )  # fmt: skip
    return training.finish(progress)


class _Training:
    """The state of one training: models, optimisers, step."""

    def __init__(self, settings: TrainSettings, data: Path, out: Path, device: str, compile: bool) -> None:
        self.settings, self.out, self.device = settings, out, torch.device(device)
        self.kind: CodeKind = "pooled" if settings.code == "pooled" else "spatial"
        entries = list_images(data)
        held = min(settings.held_out, len(entries) // 10)
        order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(settings.seed)).tolist()
        self.held_out: list[Entry] = [entries[index] for index in order[:held]] or entries[:1]
        self.entries: list[Entry] = [entries[index] for index in order[held:]]
        self.broken: set[str] = set(entries.unread)
        self.rows: list[dict[str, float]] = []
        self.step, self.seconds = 0, 0.0

        network = load_network(settings.network, device=self.device)
        if network.channels != 3:
            raise DgnError(f"a generator makes RGB images; network {network.name!r} takes {network.channels} channels")
        self.encoder: Network = network.at((settings.encoder_size, settings.encoder_size))
        self.comparator: Network = network.at((settings.image_size, settings.image_size))
        shape = self.encoder.map_shape(settings.layer)
        code = encode(torch.zeros(1, *shape), self.kind)
        config = GeneratorConfig(
            settings.network, settings.layer, settings.encoder_size, settings.image_size, self.kind,
            (code.shape[1], code.shape[2], code.shape[3]), tuple(settings.widths), tuple(settings.depths),
            settings.code_size,
        )  # fmt: skip
        torch.manual_seed(settings.seed)
        self.generator = self._place(Generator(config))
        self.average = self._place(Generator(config)).eval().requires_grad_(False)
        shapes = [self.comparator.map_shape(layer) for layer in settings.adversary_layers]
        self.discriminator = self._place(Discriminator(shapes))
        self.optimisers = {
            "generator": torch.optim.Adam(self.generator.parameters(), settings.lr, betas=(0.5, 0.99)),
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), settings.discriminator_lr, betas=(0.0, 0.99)
            ),
        }
        self._generate: Callable[[Tensor], Tensor] = torch.compile(self.generator) if compile else self.generator
        self._judge: Callable[[list[Tensor]], list[Tensor]] = (
            torch.compile(self.discriminator) if compile else self.discriminator
        )
        self.pool: Pool | None = None
        self.scales: list[Tensor] = []
        self.semantic_scales: list[Tensor] = []

    def _place(self, module: Any) -> Any:
        return module.to(self.device).to(memory_format=torch.channels_last)

    def _autocast(self) -> Any:
        return autocast(self.device, trains=True)

    # --- reading images and codes ----------------------------------------------------------------------------

    def _images(self, batch: Tensor) -> Tensor:
        images = batch.to(self.device, non_blocking=True).float() / 255
        return images.contiguous(memory_format=torch.channels_last)

    def code_of(self, images: Tensor) -> Tensor:
        """Raw float32 codes of images in [0, 1]."""
        return self._encoded(images, ())[0]

    def _encoded(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """Raw float32 codes, and the encoder's features of further layers."""
        read = self.encoder.maps(reduced(images, self.generator.config), [self.settings.layer, *layers])
        return encode(read[self.settings.layer].float(), self.kind), [read[layer] for layer in layers]

    def _seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw codes, and the spatial mean of the encoder's late features."""
        code, (late,) = self._encoded(images, [feature_layer(self.encoder)])
        return code, late.flatten(2).mean(2) if late.dim() > 2 else late

    def _compared(self, images: Tensor) -> list[Tensor]:
        layers = self.settings.comparator_layers
        read = self.comparator.maps(images, layers) if layers else {}
        return [read[layer] for layer in layers]

    def _judged(self, features: list[Tensor]) -> list[Tensor]:
        return [features[self.settings.comparator_layers.index(layer)] for layer in self.settings.adversary_layers]

    def _real(self, count: int, seed: int, *, random: bool) -> Iterator[Tensor]:
        """``count`` real images in batches, in an order of their own."""
        batch = min(64, count)
        source = StepBatches(self.entries, self.settings.image_size, batch, self.settings.seed + seed, random=random)
        for step in range((count + batch - 1) // batch):
            images, broken = source[step]
            self.broken.update(broken)
            yield self._images(images)

    def _begin(self) -> None:
        """Measure what the losses and the normalisation need, on real images."""
        count = min(self.settings.statistics_images, len(self.entries))
        with torch.no_grad(), self._autocast():
            measure_code((self.code_of(x) for x in self._real(count, 101, random=True)), self.generator)
            x = torch.cat(list(self._real(min(256, count), 102, random=True)))
            self.scales = [_channel_std(f) for f in self._compared(x)]
            self.semantic_scales = [_channel_std(f) for f in self._encoded(x, self.settings.semantic_layers)[1]]
        if self.settings.init:
            self._warm_start(generator_path(self.settings.init) or Path(self.settings.init))
        self.average.load_state_dict(self.generator.state_dict())
        self._pool()

    def _warm_start(self, path: Path) -> None:
        """Take the weights of an earlier generator; with ``code_size`` its codes, too, and what is known of them."""
        file = path / "generator.safetensors" if path.is_dir() else path
        earlier, _ = load_generator(file)
        mine, theirs = self.generator.config, earlier.config
        if mine.code_size and mine.widths != theirs.widths:
            longer = replace(theirs, image_size=mine.image_size, code_size=theirs.code_size or theirs.image_size,
                             widths=theirs.widths + mine.widths[len(theirs.widths):],
                             depths=theirs.depths + mine.depths[len(theirs.depths):])  # fmt: skip
        else:
            longer = theirs
        if mine != longer:
            field = next(name for name, value in mine.to_dict().items() if longer.to_dict()[name] != value)
            raise DgnError(
                f"init={str(path)!r} has {field}={getattr(theirs, field)}, this training {getattr(mine, field)}"
            )
        left = () if mine.widths == theirs.widths else ("head.",)
        left = left if mine.code_size else (*left, "code_")  # the statistics just measured
        kept = {name: value for name, value in earlier.state_dict().items() if not name.startswith(left)}
        self.generator.load_state_dict(kept, strict=False)
        for name in ("components.safetensors", "flow.safetensors") if mine.code_size else ():
            if file.with_name(name).is_file():
                write_atomic(self.out / name, file.with_name(name).read_bytes())

    def _knows_components(self) -> bool:
        """Whether the folder holds the components of these codes: codes move in them, or they came with ``init``."""
        return self._components_path.exists() and bool(self.pool or (self.settings.code_size and self.settings.init))

    def _pool(self) -> None:
        """The codes of ascents or samples, where the settings ask for them; they move among real codes."""
        settings = self.settings
        rows = round((settings.ascent_share + settings.sample_share) * settings.batch)
        if not rows:
            return
        if not self._components_path.exists():
            self._measure_components(progress=False)
        if settings.ascent_share:
            components, _ = load_components(self._components_path)
            self.pool = AscentPool(components.to(self.device), self.encoder, rows, settings.ascent_steps, settings.seed)
            return
        self.pool = SamplePool(self._distribution(), self.encoder, rows, settings.seed, self._deviations())

    def _distribution(self) -> GaussianPrior:
        """What the folder knows of its codes: their Gaussian, or a flow."""
        components, _ = load_components(self._components_path)
        learned = self.out / "flow.safetensors"
        flow = load_flow(learned, components)[0] if learned.is_file() else None
        size = self.settings.image_size
        return ComponentsPrior(self.average, components, size, flow=flow).to(self.device).sampled()

    @torch.no_grad()
    def _deviations(self) -> Tensor:
        """``[outputs]``, standard deviation of each of the encoder's outputs over real images."""
        count = min(256, len(self.entries))
        with self._autocast():
            read = [self.encoder.features(x, [OUTPUT])[OUTPUT].float() for x in self._real(count, 104, random=True)]
        return above_zero(torch.cat(read).std(0))

    # --- one step --------------------------------------------------------------------------------------------

    def update(self, batch: Tensor) -> dict[str, Tensor]:
        """One update of the generator and, once the adversary has joined, of the discriminator."""
        settings, step = self.settings, self.step
        for name, base in (("generator", settings.lr), ("discriminator", settings.discriminator_lr)):
            for group in self.optimisers[name].param_groups:
                group["lr"] = base * settings.rate(step)
        noise = torch.Generator(self.device).manual_seed(settings.seed * 1_000_003 + step)
        images = self._images(batch)
        climbing = self.pool.rows if self.pool else 0
        blends = round(settings.blend_share * len(images))
        free = min(climbing + blends, len(images) - 1)  # codes without an image of their own
        cycled = max(1, free + round(settings.cycle_share * (len(images) - free)))
        with self._autocast():
            with torch.no_grad():
                code, deep = self._encoded(images, settings.semantic_layers)
                code = blend(self.generator.normalise(code), free, noise)
                if self.pool:
                    code = torch.cat([self.pool.next(self.average).to(code), code[climbing:]])
                real = self._compared(images)
            noisy = code + settings.code_noise * torch.randn(code.shape, generator=noise, device=self.device)
            fake_images = self._generate(noisy).float()
            fake = self._compared(fake_images)
            again, deep_again = self._encoded(fake_images[:cycled], settings.semantic_layers)
            again = self.generator.normalise(again)
        pixel = (fake_images[free:] - images[free:]).abs().mean()
        zero = pixel.new_zeros(())
        feature = feature_distance(_rows(fake, free), _rows(real, free), self.scales) if fake else zero
        semantic = zero
        if deep and cycled > free:
            deep_again, deep = _rows(deep_again, free, cycled), _rows(deep, free, cycled)
            semantic = feature_distance(deep_again, deep, self.semantic_scales)
        cycle = (again.float() - code[:cycled]).square().mean()
        loss = settings.pixel_weight * pixel + settings.feature_weight * feature
        if free:  # codes without an image: nothing else keeps their pixels in range
            loss = loss + settings.pixel_weight * (fake_images[:free] - fake_images[:free].clamp(0, 1)).abs().mean()
        loss = loss + settings.semantic_weight * semantic + settings.code_weight * cycle
        adversary = discriminator = zero
        if settings.adversary_weight > 0 and step >= settings.adversary_start * settings.steps:
            discriminator = self._update_discriminator(self._judged(real), [f.detach() for f in self._judged(fake)])
            with _frozen(self.discriminator), self._autocast():
                adversary = hinge_generator(self._judge(self._judged(fake)))
            loss = loss + settings.adversary_weight * adversary
        self.optimisers["generator"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers["generator"].step()
        follow(self.average, self.generator, min(settings.ema, (1 + step) / (10 + step)))
        self.step += 1
        rate = pixel.new_tensor(settings.lr * settings.rate(step))
        parts = (pixel, feature, semantic, cycle, adversary, discriminator, rate)
        return {name: value.detach() for name, value in zip(LOSSES, parts, strict=False)}

    def _update_discriminator(self, real: list[Tensor], fake: list[Tensor]) -> Tensor:
        with self._autocast():
            loss = hinge_discriminator(self._judge(real), self._judge(fake))
        self.optimisers["discriminator"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers["discriminator"].step()
        return loss

    # --- keeping ---------------------------------------------------------------------------------------------

    @property
    def _state_path(self) -> Path:
        return self.out / "state.safetensors"

    def resume(self) -> None:
        """Take up the state that the folder holds, or begin."""
        if not self._state_path.exists():
            self._begin()
            return
        tensors, meta = load_tensors(self._state_path, STATE_FORMAT)
        mine, theirs = asdict(self.settings), meta["settings"]
        usual = asdict(TrainSettings())  # of settings that an earlier version had not
        free = {"steps", "cooldown"}  # a training may be cut short or prolonged
        if not self.settings.ascent_share + self.settings.sample_share:
            free |= {"components", "component_images"}
        free.add("centres")
        for name, value in json.loads(json.dumps(mine)).items():
            if name not in free and theirs.get(name, usual[name]) != value:
                raise DgnError(
                    f"{str(self.out)!r} holds a training with {name}={theirs.get(name)}, not {value}; give another out="
                )
        if meta["images"] != len(self.entries):
            raise DgnError(
                f"{str(self.out)!r} was trained on {meta['images']} images, the data now holds {len(self.entries)}"
            )
        for name in ("generator", "average", "discriminator"):
            getattr(self, name).load_state_dict(part(tensors, name))
        for name, optimiser in self.optimisers.items():
            restore_optimiser(f"adam.{name}", optimiser, tensors)
        self.scales = [value.to(self.device) for value in part(tensors, "scale").values()]
        self.semantic_scales = [value.to(self.device) for value in part(tensors, "semantic_scale").values()]
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
        self.rows, self.broken = meta["rows"], set(meta["broken"])
        self._pool()
        if self.pool:
            self.pool.restore(part(tensors, "pool"))

    def save(self) -> tuple[dict[str, float], Path | None]:
        """Write the state, the averaged generator, the losses and a picture of held-out images."""
        tensors: dict[str, Tensor] = {f"scale.{index:03}": scale for index, scale in enumerate(self.scales)}
        tensors |= {f"semantic_scale.{index:03}": scale for index, scale in enumerate(self.semantic_scales)}
        for name in ("generator", "average", "discriminator"):
            tensors |= {f"{name}.{key}": value for key, value in getattr(self, name).state_dict().items()}
        for name, optimiser in self.optimisers.items():
            tensors |= optimiser_tensors(f"adam.{name}", optimiser)
        if self.pool:
            tensors |= {f"pool.{key}": value for key, value in self.pool.state().items()}
        meta = {
            "settings": asdict(self.settings), "step": self.step, "seconds": self.seconds, "rows": self.rows,
            "broken": sorted(self.broken), "images": len(self.entries),
        }  # fmt: skip
        save_tensors(self._state_path, tensors, meta, STATE_FORMAT)
        save_generator(self.out / "generator.safetensors", self.average, self._meta())
        write_atomic(self.out / "losses.csv", losses_csv(self.rows, LOSSES))
        return {}, self._sample()

    def _meta(self) -> dict[str, Any]:
        return {"settings": asdict(self.settings), "step": self.step, "seconds": round(self.seconds, 1)}

    @torch.no_grad()
    def _sample(self) -> Path:
        """Held-out images above their reconstructions, 16 a row."""
        from torchvision.utils import make_grid

        images = self.held_out_images(32)
        with self._autocast():
            fakes = self.average(self.average.normalise(self.code_of(images))).float().clamp(0, 1)
        rows = [part for pair in zip(images.split(16), fakes.split(16), strict=True) for part in pair]
        grid = make_grid(torch.cat(rows), nrow=min(16, len(images)), padding=2, pad_value=1.0)
        path = self.out / "samples" / f"step-{self.step:07d}.png"
        write_atomic(path, png(to_image(grid)))
        return path

    def held_out_images(self, most: int) -> Tensor:
        """Up to ``most`` held-out images, central squares, ``[N, 3, S, S]`` in [0, 1]."""
        count = min(most, len(self.held_out))
        source = StepBatches(self.held_out, self.settings.image_size, count, self.settings.seed, random=False)
        return self._images(source[0][0])

    @torch.no_grad()
    def held_out_losses(self) -> dict[str, float]:
        """Losses of the averaged generator on held-out images, without code noise."""
        images = self.held_out_images(len(self.held_out))
        totals = {"pixel": 0.0, "psnr": 0.0, "feature": 0.0, "code": 0.0}
        for x in images.split(64):
            with self._autocast():
                code = self.average.normalise(self.code_of(x))
                y = self.average(code).float().clamp(0, 1)
                fake, real = self._compared(y), self._compared(x)
                again = self.average.normalise(self.code_of(y))
            totals["pixel"] += float((x - y).abs().mean()) * len(x)
            totals["psnr"] += float(-10 * (x - y).square().mean((1, 2, 3)).log10().sum())
            totals["feature"] += float(feature_distance(fake, real, self.scales)) * len(x) if fake else 0.0
            totals["code"] += float((again.float() - code).square().mean()) * len(x)
        return {name: value / len(images) for name, value in totals.items()}

    def finish(self, progress: bool) -> Path:
        """Measure the components of the codes and write the report; returns the generator's path."""
        path = self.out / "generator.safetensors"
        save_generator(path, self.average, self._meta())
        report: dict[str, Any] = {**self._meta(), "held_out": self.held_out_losses(), "images": len(self.entries)}
        report["broken"] = sorted(self.broken)
        report["parameters"] = sum(parameter.numel() for parameter in self.generator.parameters())
        if self.settings.components and self.kind == "spatial":
            if not self._knows_components():
                self._measure_components(progress)
            components, meta = load_components(self._components_path)
            report["components"] = {
                "count": len(components.scale), "images": meta["component_images"], "explained": components.explained,
                "centres": len(components.centres),
            }  # fmt: skip
        write_atomic(self.out / "report.json", json.dumps(report, indent=1).encode())
        return path

    @property
    def _components_path(self) -> Path:
        return self.out / "components.safetensors"

    @torch.no_grad()
    def _measure_components(self, progress: bool) -> None:
        """Write the principal components of real codes and centres among these; they depend on the encoder alone."""
        count = min(self.settings.component_images, len(self.entries))

        def advance(done: int) -> None:
            bar.update(done - bar.n)

        bar = tqdm(total=count, desc="components", unit="image", disable=not progress)
        with bar, self._autocast():
            components = measure_components(
                (self.code_of(x) for x in self._real(count, 103, random=True)), self.generator, count,
                self.settings.components, advance,
            )  # fmt: skip
        if self.settings.centres:
            bar = tqdm(total=count, desc="centres", unit="image", disable=not progress)
            with bar, self._autocast():
                seen = (self._seen(x) for x in self._real(count, 103, random=True))
                components.centres = measure_centres(seen, self.generator, components.to(self.device),
                                                     self.settings.centres, advance)  # fmt: skip
        save_components(self._components_path, components, {**self._meta(), "component_images": count})


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _rows(features: list[Tensor], first: int, last: int | None = None) -> list[Tensor]:
    return [feature[first:last] for feature in features]


def _channel_std(features: Tensor) -> Tensor:
    return features.float().std((0, 2, 3), keepdim=True) + 1e-2
