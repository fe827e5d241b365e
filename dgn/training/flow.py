"""The flow's trainer: a transformer learns what the Gaussian gets wrong (flow matching, Lipman et al. 2210.02747)."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dgn.arguments import check_workers
from dgn.ascent.sampling import sample
from dgn.errors import DgnError
from dgn.files.storage import write_atomic
from dgn.guest import guest
from dgn.images.pictures import png, to_image
from dgn.images.reading import list_images
from dgn.network.fast.precision import autocast
from dgn.priors import generator_path, load_prior
from dgn.priors.checkpoint import load_flow, load_tensors, save_flow, save_tensors
from dgn.priors.components import ComponentsPrior
from dgn.priors.flow import Flow, FlowConfig
from dgn.priors.gaussian import FlowPrior, GaussianPrior
from dgn.synthesis import synthesize
from dgn.training.codes import Codes
from dgn.training.loop import (
    Log,
    drive,
    follow,
    losses_csv,
    optimiser_tensors,
    part,
    rate,
    restore_optimiser,
)

STATE_FORMAT = "dgn-flow-training-1"
LOSSES = ("loss", "lr", "images_per_second", *(f"{who}_{at}" for at in range(1, 5) for who in ("error", "gaussian")))
SHOWN = (1, 96, 130, 207, 387, 555, 670, 779)
"""Classes of the guided samples where the encoder knows ImageNet's: goldfish, toucan, flamingo, retriever, red panda,
fire engine, scooter, school bus."""


@dataclass(frozen=True)
class FlowSettings:
    """Settings of one training; the same settings, data and machine give the same weights.

    Attributes:
        prior: a generator with principal components, by name or folder, whose codes are learned.
        patch, width, depth, heads: of the transformer, see :class:`dgn.priors.flow.FlowConfig`.
        steps, batch, lr: number of updates, codes an update, AdamW's learning rate.
        warmup, cooldown: see :func:`dgn.training.loop.rate`.
        ema: decay a step of the averaged weights, which are the ones that are kept.
        passes: codes of each image, see :class:`dgn.training.codes.Codes`.
        held_out: images kept out of training.
        sample_steps: of the sampler, for the pictures; 0: none.
        init: a flow whose weights the training starts from, a file or its folder (empty: none).
        seed: of everything.
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
        for name in ("steps", "batch", "passes", "held_out"):
            if getattr(self, name) < 1:
                raise DgnError(f"{name} is {getattr(self, name)}, expected a whole number above 0")
        if self.lr < 0 or self.warmup < 0 or not 0 <= self.ema < 1:
            raise DgnError("lr and warmup are not negative, ema is from 0 up to 1")
        if not 0 <= self.cooldown <= 1:
            raise DgnError(f"cooldown is {self.cooldown}, expected a share from 0 to 1")


@guest
def train_flow(
    data: Path,
    out: Path,
    settings: FlowSettings,
    *,
    device: str = "cpu",
    workers: int = 0,
    compile: bool = False,
    checkpoint_minutes: float = 5.0,
    progress: bool = True,
    log: Log | None = None,
) -> Path:
    """Train a flow, or go on with the training that ``out`` holds; ``out`` is a whole prior afterwards.

    Args:
        data, device, workers, checkpoint_minutes, progress, log: see :func:`dgn.training.trainer.train`.
        compile: ``torch.compile`` the flow (on a CPU needs a C++ compiler, and pays there, too).
        out: folder for ``flow.safetensors``, copies of the generator and its components, ``losses.csv``, ``samples/``,
            ``codes-*.npy`` (of the images, made once), ``state.safetensors`` (to resume from) and ``report.json``.
        settings: everything that decides the outcome.

    Returns:
        Path of the flow.

    Raises:
        DgnError: bad data, settings that don't fit, a checkpoint that is not this training's.
    """
    settings.check()
    check_workers(workers)
    training = FlowTraining(settings, data, out, device, workers, progress, compile)
    drive(
        training, training.batches(), settings.steps, settings.batch, shown=("loss",),
        checkpoint_minutes=checkpoint_minutes, progress=progress, log=log,
    )  # fmt: skip
    return training.finish()


class FlowTraining:
    """The state of one training: flow, average, optimiser, step."""

    def __init__(
        self,
        settings: FlowSettings,
        data: Path,
        out: Path,
        device: str,
        workers: int = 0,
        progress: bool = False,
        compile: bool = False,
    ) -> None:
        self.settings, self.out, self.device = settings, out, torch.device(device)
        self.whole = self._open_prior().to(self.device)
        layout = self.whole.layout
        config = FlowConfig(layout.code_shape, settings.patch, settings.width, settings.depth, settings.heads)
        torch.manual_seed(settings.seed)
        self.flow = Flow(config).to(self.device)
        self._run: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.compile(self.flow) if compile else self.flow
        self.average = copy.deepcopy(self.flow).eval().requires_grad_(False)
        matrices = [p for p in self.flow.parameters() if p.dim() == 2]
        others = [p for p in self.flow.parameters() if p.dim() != 2]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, settings.lr, betas=(0.9, 0.95), fused=True)
        self.step, self.seconds = 0, 0.0
        self.rows: list[dict[str, float]] = []
        self.broken: set[str] = set()
        entries = list_images(data)
        self.images = len(entries)
        self._begin()
        order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(settings.seed)).tolist()
        held = min(settings.held_out, max(1, len(entries) // 10))
        seen, unseen = ([entries[index] for index in part] for part in (order[held:] or order, order[:held]))
        with tqdm(desc="codes", unit="code", disable=not progress) as bar:

            def note(done: int, count: int) -> None:
                bar.total = count
                bar.update(done - bar.n)

            self.held_out = Codes(out, layout, unseen, 1, settings.seed, workers=workers, note=note)
            self.codes = Codes(out, layout, seen, settings.passes, settings.seed, workers=workers, note=note)
        self.broken |= {*entries.unread, *self.held_out.broken, *self.codes.broken}
        self.prior, self.kept = (
            FlowPrior(layout, self.whole.components, self.whole.size[0], self.whole.settings_for("sample"), flow)
            for flow in (self.flow, self.average)
        )

    def _open_prior(self) -> ComponentsPrior:
        """The prior whose codes are learned; its files go into the run folder."""
        name = self.settings.prior
        prior, path = load_prior(name), generator_path(name)
        if not isinstance(prior, ComponentsPrior) or path is None:
            raise DgnError(f"prior {name!r} has no principal components: no flow can be trained on its codes")
        if prior.layout.encoder is None:
            raise DgnError(f"the network whose layer prior {name!r} inverts is not on this machine")
        file = path / "generator.safetensors" if path.is_dir() else path
        beside = file.with_name("components.safetensors")
        self.files = {"generator.safetensors": file.read_bytes(), "components.safetensors": beside.read_bytes()}
        return prior

    def _begin(self) -> None:
        """Take up the state that the folder holds, else the weights of ``init``; before anything takes long."""
        if self._state_path.exists():
            self._resume()
        elif self.settings.init:
            self._warm_start(self.settings.init)
            self.average.load_state_dict(self.flow.state_dict())

    def _warm_start(self, init: str) -> None:
        """Take the weights of an earlier flow."""
        path = generator_path(init) or Path(init)
        earlier, _ = load_flow(path / "flow.safetensors" if path.is_dir() else path, self.whole.components)
        if earlier.config != self.flow.config:
            raise DgnError(f"init={init!r} is a flow of {earlier.config}, this training of {self.flow.config}")
        self.flow.load_state_dict(earlier.state_dict())

    def batches(self) -> Iterator[Tensor]:
        """Codes ``[batch, C, h, w]`` of the steps that are left; which ones follows from seed and step alone."""
        count, size = len(self.codes), self.settings.batch
        orders: dict[int, np.ndarray] = {}
        for step in range(self.step, self.settings.steps):
            places = np.arange(step * size, (step + 1) * size)
            epochs = np.unique(places // count).tolist()
            orders = {epoch: orders[epoch] if epoch in orders else self._order(epoch) for epoch in epochs}
            rows = [orders[epoch][places[places // count == epoch] % count] for epoch in epochs]
            yield self.codes[np.concatenate(rows)]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.settings.seed, 3, epoch)).permutation(len(self.codes))

    def update(self, batch: Tensor) -> dict[str, Tensor]:
        """One step: codes mixed with noise at random times; the error in units of the Gaussian's."""
        settings = self.settings
        lr = settings.lr * rate(self.step, settings.steps, settings.warmup, settings.cooldown)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        draw = torch.Generator(self.device).manual_seed(settings.seed * 1_000_003 + self.step)
        code = batch.to(self.device).float()
        # Most of the times lie where layout and objects are decided (Esser et al. 2024, logit-normal).
        t = torch.sigmoid(torch.randn(len(code), generator=draw, device=self.device) - 0.2)
        mixed, guess, error = self._mixed(self.prior, code, t, draw)
        with autocast(self.device):  # no convolutions here
            told = self._run(mixed, guess, t)
        loss = (told - (code - guess) / error).square().mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.flow.parameters(), 1.0)
        self.optimiser.step()
        follow(self.average, self.flow, min(settings.ema, (1 + self.step) / (20 + self.step)))
        self.step += 1
        return {"loss": loss.detach(), "lr": loss.new_tensor(lr)}

    @staticmethod
    def _mixed(prior: FlowPrior, code: Tensor, t: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Codes mixed with noise, what the Gaussian says of them, and its error at these times."""
        one = t.view(-1, 1, 1, 1)
        noise = torch.randn(code.shape, generator=draw, device=code.device)
        mixed = (1 - one) * noise + one * code
        return mixed, GaussianPrior.denoise(prior, mixed, t), prior.error(t).view(-1, 1, 1, 1)

    @torch.no_grad()
    def held_out_errors(self) -> dict[str, float]:
        """Squared error an element of the averaged flow's and of the Gaussian's estimates of held-out codes, at times
        from the four quarters of (0.02, 0.98)."""
        draw = torch.Generator(self.device).manual_seed(self.settings.seed)
        sums = {f"{who}_{quarter}": 0.0 for quarter in range(1, 5) for who in ("error", "gaussian")}
        for first in range(0, len(self.held_out), 128):
            code = self.held_out[range(first, min(first + 128, len(self.held_out)))].to(self.device).float()
            for quarter in range(1, 5):
                low = 0.02 + 0.24 * (quarter - 1)
                t = low + 0.24 * torch.rand(len(code), generator=draw, device=self.device)
                mixed, guess, error = self._mixed(self.kept, code, t, draw)
                with autocast(self.device):  # no convolutions here
                    told = guess + error * self.average(mixed, guess, t)
                for who, estimate in (("error", told), ("gaussian", guess)):
                    sums[f"{who}_{quarter}"] += float((estimate - code).square().mean((1, 2, 3)).sum())
        return {name: value / len(self.held_out) for name, value in sums.items()}

    # --- keeping ---------------------------------------------------------------------------------------------

    @property
    def _state_path(self) -> Path:
        return self.out / "state.safetensors"

    def _resume(self) -> None:
        """Take up the state."""
        tensors, meta = load_tensors(self._state_path, STATE_FORMAT)
        for name, value in asdict(self.settings).items():
            if name not in ("steps", "cooldown", "sample_steps") and meta["settings"].get(name) != value:
                raise DgnError(
                    f"{str(self.out)!r} holds a training with {name}={meta['settings'].get(name)}, not {value}; "
                    "give another out="
                )
        if meta["images"] != self.images:
            raise DgnError(
                f"{str(self.out)!r} was trained on {meta['images']} images, the data now holds {self.images}"
            )
        if meta["prior"] != self._prior_digests():
            raise DgnError(
                f"{str(self.out)!r} was trained on codes of another prior {self.settings.prior!r}; give another out="
            )
        self.flow.load_state_dict(part(tensors, "flow"))
        self.average.load_state_dict(part(tensors, "average"))
        restore_optimiser("adam", self.optimiser, tensors)
        self.step, self.seconds, self.rows = int(meta["step"]), float(meta["seconds"]), meta["rows"]
        self.broken = set(meta["broken"])

    def _prior_digests(self) -> dict[str, str]:
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}

    def save(self) -> tuple[dict[str, float], Path | None]:
        """Write the state, the averaged flow with the prior that it belongs to, losses and samples."""
        errors = self.held_out_errors()
        if not self.rows or self.rows[-1]["step"] != self.step:
            self.rows.append({"step": self.step})
        self.rows[-1].update(errors)
        tensors = {f"flow.{key}": value for key, value in self.flow.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        tensors |= optimiser_tensors("adam", self.optimiser)
        more = {"rows": self.rows, "broken": sorted(self.broken), "prior": self._prior_digests()}
        save_tensors(self._state_path, tensors, {**self._meta(), **more}, STATE_FORMAT)
        self._publish()
        write_atomic(self.out / "losses.csv", losses_csv(self.rows, LOSSES))
        return errors, self._sample() if self.settings.sample_steps else None

    def _publish(self) -> None:
        """The flow, the generator and the components: a prior that is whole in its folder."""
        for name, data in self.files.items():
            if not (self.out / name).exists():
                write_atomic(self.out / name, data)
        save_flow(self.out / "flow.safetensors", self.average, self.whole.components, self._meta())

    def _meta(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings), "step": self.step, "seconds": round(self.seconds, 1),
            "images": self.images,
        }  # fmt: skip

    @torch.no_grad()
    def _sample(self) -> Path:
        """Samples from noise that nothing guides, above samples of eight classes."""
        from torchvision.utils import make_grid

        settings = replace(self.kept.ascent, start_time=0.0, screen=0, steps=self.settings.sample_steps)
        count = len(SHOWN)
        free = sample(
            self.kept, self.kept.start(count), settings, range(count), torch.ones(count, device=self.device),
            lambda code, _step: (torch.zeros(len(code), device=code.device), torch.zeros_like(code)),
            lambda _step, _activation: None,
        )  # fmt: skip
        images = self.kept.decode(free)
        encoder = self.whole.layout.encoder
        assert encoder is not None
        if len(encoder.class_names) == 1000:
            guided = synthesize(encoder, list(SHOWN), self.kept, ascent=settings, seeds=[0])
            images = torch.cat([images, guided.images.to(images)])
        path = self.out / "samples" / f"step-{self.step:07d}.png"
        write_atomic(path, png(to_image(make_grid(images, nrow=count, padding=2, pad_value=1.0))))
        return path

    def finish(self) -> Path:
        """Write the report, of the weights as they are published; returns the flow's path."""
        self._publish()
        path = self.out / "flow.safetensors"
        published, _ = load_flow(path, self.whole.components)
        self.average.load_state_dict(published.state_dict())
        report = {
            **self._meta(), "held_out": self.held_out_errors(), "codes": len(self.codes),
            "broken": sorted(self.broken), "parameters": sum(p.numel() for p in self.flow.parameters()),
        }  # fmt: skip
        write_atomic(self.out / "report.json", json.dumps(report, indent=1).encode())
        return path
