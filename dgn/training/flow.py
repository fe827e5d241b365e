"""A flow in training: a transformer learns what the Gaussian gets wrong (flow matching, Lipman et al. 2210.02747)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgn.ascent.own import own_settings
from dgn.ascent.sampling import sample
from dgn.errors import DgnError
from dgn.files.storage import write_atomic
from dgn.images.reading import list_images
from dgn.network.fast.precision import autocast
from dgn.priors import generator_path, load_prior
from dgn.priors.checkpoint import load_flow, save_flow
from dgn.priors.components import ComponentsPrior
from dgn.priors.flow import Flow, FlowConfig
from dgn.priors.gaussian import FlowPrior, GaussianPrior
from dgn.synthesis.main import synthesize
from dgn.training.codes import Codes
from dgn.training.data import order, split
from dgn.training.settings import FlowSettings
from dgn.training.state import Machine, Training, follow, tiled

SHOWN = (1, 96, 130, 207, 387, 555, 670, 779)
"""Classes of the guided samples where the encoder knows ImageNet's: goldfish, toucan, flamingo, retriever, red panda,
fire engine, scooter, school bus."""


class FlowTraining(Training[FlowSettings]):
    """The flow, its average, and the codes that it learns from.

    Attributes:
        whole: the prior whose codes are learned; its files go into the run folder.
        codes, held_out: to learn from, and others.
        prior, kept: the codes' distribution by the flow, and by its average.
    """

    format = "dgn-flow-training-1"
    columns = ("loss", "lr", "images_per_second",
               *(f"{who}_{quarter}" for quarter in range(1, 5) for who in ("error", "gaussian")))  # fmt: skip
    shown = ("loss",)
    weights = "flow.safetensors"

    def __init__(self, settings: FlowSettings, data: Path, out: Path, machine: Machine) -> None:
        super().__init__(settings, out, machine)
        self.free = self.free | {"sample_steps"}
        self.whole = self._open_prior().to(self.device)
        layout = self.whole.layout
        config = FlowConfig(layout.code_shape, settings.patch, settings.width, settings.depth, settings.heads)
        torch.manual_seed(settings.seed)
        self.flow = Flow(config).to(self.device)
        self.average: Flow = copy.deepcopy(self.flow).eval().requires_grad_(False)
        self._run = self.compiled(self.flow)
        matrices = [p for p in self.flow.parameters() if p.dim() == 2]
        others = [p for p in self.flow.parameters() if p.dim() != 2]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.modules = {"flow": self.flow, "average": self.average}
        self.optimisers = {"adam": torch.optim.AdamW(groups, settings.lr, betas=(0.9, 0.95), fused=True)}
        entries = list_images(data)
        self.images = len(entries)
        self.broken |= set(entries.unread)
        if not self.take_up() and settings.init:  # before codes are made, which takes long
            self._warm_start(settings.init)
        seen, unseen = split(entries, min(settings.held_out, max(1, len(entries) // 10)), settings.seed)
        self.held_out = Codes(out, layout, unseen, 1, settings.seed, machine)
        self.codes = Codes(out, layout, seen or unseen, settings.passes, settings.seed, machine)
        self.broken |= {*self.held_out.broken, *self.codes.broken}
        self.prior, self.kept = (
            FlowPrior(layout, self.whole.components, self.whole.size[0], flow) for flow in (self.flow, self.average)
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

    def _warm_start(self, init: str) -> None:
        """Take the weights of an earlier flow."""
        path = generator_path(init) or Path(init)
        earlier, _ = load_flow(path / "flow.safetensors" if path.is_dir() else path, self.whole.components)
        if earlier.config != self.flow.config:
            raise DgnError(f"init={init!r} is a flow of {earlier.config}, this training of {self.flow.config}")
        self.flow.load_state_dict(earlier.state_dict())
        self.average.load_state_dict(earlier.state_dict())

    def batches(self) -> Iterator[Tensor]:
        """Codes ``[batch, C, h, w]``."""
        count, size = len(self.codes), self.settings.batch
        for step in range(self.step, self.settings.steps):
            epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), count)
            rows = [
                order((self.settings.seed, 3, epoch), count)[places[epochs == epoch]]
                for epoch in np.unique(epochs).tolist()
            ]
            yield self.codes[np.concatenate(rows)]

    def update(self, batch: Tensor) -> dict[str, Tensor]:
        """One step: codes mixed with noise at random times; the error in units of the Gaussian's."""
        settings = self.settings
        lr, optimiser = self.set_rate("adam", settings.lr), self.optimisers["adam"]
        draw = torch.Generator(self.device).manual_seed(settings.seed * 1_000_003 + self.step)
        code = batch.to(self.device).float()
        # Most of the times lie where layout and objects are decided (Esser et al. 2024, logit-normal).
        t = torch.sigmoid(torch.randn(len(code), generator=draw, device=self.device) - 0.2)
        mixed, guess, error = self._mixed(self.prior, code, t, draw)
        with autocast(self.device):  # no convolutions here
            told = self._run(mixed, guess, t)
        loss = (told - (code - guess) / error).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.flow.parameters(), 1.0)
        optimiser.step()
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
    def measure(self) -> dict[str, float]:
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

    def more_facts(self) -> dict[str, Any]:
        return {"prior": {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        if facts["prior"] != self.more_facts()["prior"]:
            raise DgnError(
                f"{str(self.out)!r} was trained on codes of another prior {self.settings.prior!r}; give another out="
            )

    def publish(self) -> None:
        """The flow, the generator and the components: a prior that is whole in its folder."""
        for name, data in self.files.items():
            if not (self.out / name).exists():
                write_atomic(self.out / name, data)
        save_flow(self.out / self.weights, self.average, self.whole.components, self.facts())

    @torch.no_grad()
    def picture(self) -> Tensor | None:
        """Samples from noise that nothing guides, above samples of eight classes."""
        if not self.settings.sample_steps:
            return None
        settings = replace(own_settings(self.kept), start_time=0.0, screen=0, steps=self.settings.sample_steps)
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
        return tiled(images, count)

    def report(self) -> dict[str, Any]:
        """Errors of the weights as they are published, and the number of codes."""
        published, _ = load_flow(self.out / self.weights, self.whole.components)
        self.average.load_state_dict(published.state_dict())
        return {"held_out": self.measure(), "codes": len(self.codes)}
