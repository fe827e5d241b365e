"""Codes on their way up: what an ascent or the sampler will ask of a generator, made while the generator is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dgn.ascent.rules import State, adam
from dgn.ascent.sampling import capped, later, times
from dgn.ascent.settings import AscentSettings
from dgn.ascent.transforms import Draws, add_noise, shift_and_zoom
from dgn.errors import DgnError
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.priors.gaussian import GaussianPrior
from dgn.priors.generator import Components, Generator

ASCENT = AscentSettings(rule="adam", lr=0.1, jitter=0.04, scale=0.1, noise=0.05)
"""How the codes climb: a part of the recipe, whatever a prior's default ascent becomes later."""
SAMPLE = AscentSettings(
    rule="sample",
    steps=18,
    temperature=0.01,
    pull=1.8,
    churn=1.0,
    reach=1.0,
    start_time=0.4,
    jitter=0.08,
    scale=0.15,
    noise=0.03,
)
"""The same for sampling."""

GROUPS = 4
"""Groups take turns, so that a code has moved on before the generator sees it again."""


class Pool(ABC):
    """Groups of codes, each on its way to images of random output units of the encoder.

    At each turn one group makes one step, through the generator as it is then; after ``steps`` of them it starts anew
    elsewhere. All of it follows from the seed and the turns made.

    Args:
        components: of real codes; on the device of the training.
        encoder: whose output units are asked for, at the size at which it sees the images.
        rows: codes a group.
        steps: of one way.
        seed: of units, starts and transformations.
        settings: of the transformations.

    Raises:
        DgnError: the encoder's output is not one value a unit.
    """

    def __init__(
        self, components: Components, encoder: Network, rows: int, steps: int, seed: int, settings: AscentSettings
    ) -> None:
        shape = encoder.layer_shape(OUTPUT)
        if len(shape) != 1:
            raise DgnError(
                f"the codes of ascents and samples need a network with one output a class, not {list(shape)}; "
                "set ascent_share=0 and sample_share=0"
            )
        self.components, self.encoder, self.rows, self.steps, self.seed = components, encoder, rows, steps, seed
        self.outputs, self.settings = shape[0], settings
        self.turn = 0
        self.ages = [group * steps // GROUPS for group in range(GROUPS)]  # so that not all are young together
        self.codes: list[Tensor] = []
        self.units: list[Tensor] = []
        self.states: list[State] = [{} for _ in range(GROUPS)]
        for group in range(GROUPS):
            code, units = self._fresh(group, self.ages[group])
            self.codes.append(code)
            self.units.append(units)

    @abstractmethod
    def _begin(self, draw: torch.Generator, age: int) -> Tensor:
        """Codes of a group that begins (``age`` 0) or, at the very first, is as old as this."""

    @abstractmethod
    def _move(self, group: int, generator: Generator, draws: Draws) -> Tensor:
        """One step of a group; returns the normalised codes that the generator shall learn."""

    def _fresh(self, turn: int, age: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed((self.seed * 1_000_003 + 31 * turn + 17) % 2**63)
        device = self.components.mean.device
        code = self._begin(draw, age).to(device)
        return code, torch.randint(self.outputs, (self.rows,), generator=draw).to(device)

    def next(self, generator: Generator) -> Tensor:
        """One step of the group whose turn it is; its normalised codes ``[rows, C, h, w]``, detached."""
        group = self.turn % GROUPS
        if self.ages[group] >= self.steps:
            self.codes[group], self.units[group] = self._fresh(GROUPS + self.turn, 0)
            self.ages[group], self.states[group] = 0, {}
        draws = Draws(range(self.turn * self.rows, (self.turn + 1) * self.rows), self.components.mean.device, self.seed)
        with torch.no_grad():
            codes = self._move(group, generator, draws)
        self.ages[group] += 1
        self.turn += 1
        return codes

    @torch.enable_grad()
    def _gradient(self, images: Tensor, code: Tensor, group: int, draws: Draws) -> Tensor:
        """Of the group's units' activations with respect to the code that the images were made from."""
        settings = self.settings
        x = shift_and_zoom(images.clamp(0, 1), draws, settings.jitter, settings.scale)
        scores = self.encoder.features(add_noise(x, draws, settings.noise), [OUTPUT])[OUTPUT]
        (gradient,) = torch.autograd.grad(scores.float().gather(1, self.units[group][:, None]).sum(), code)
        return gradient.nan_to_num(0.0, 0.0, 0.0)

    def state(self) -> dict[str, Tensor]:
        """Everything that :meth:`restore` needs to go on from here."""
        tensors = {"turn": torch.tensor(self.turn), "ages": torch.tensor(self.ages)}
        for group in range(GROUPS):
            tensors |= {f"{group}.code": self.codes[group], f"{group}.units": self.units[group]}
            tensors |= {f"{group}.state.{name}": value for name, value in self.states[group].items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state` gave."""
        device = self.components.mean.device
        self.turn, self.ages = int(tensors["turn"]), tensors["ages"].tolist()
        for group in range(GROUPS):
            self.codes[group] = tensors[f"{group}.code"].to(device)
            self.units[group] = tensors[f"{group}.units"].to(device)
            prefix = f"{group}.state."
            self.states[group] = {
                key.removeprefix(prefix): value if key.endswith(".t") else value.to(device)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }


class AscentPool(Pool):
    """Codes that climb in the principal components of real codes: Adam, shift, zoom, noise, ball."""

    def __init__(self, components: Components, encoder: Network, rows: int, steps: int, seed: int) -> None:
        super().__init__(components, encoder, rows, steps, seed, ASCENT)

    def _begin(self, draw: torch.Generator, age: int) -> Tensor:
        return 0.3 * torch.randn(self.rows, len(self.components.scale), generator=draw)

    def _move(self, group: int, generator: Generator, draws: Draws) -> Tensor:
        with torch.enable_grad():
            a = self.codes[group].detach().requires_grad_()
            images = generator(self.components.to_code(a))
        gradient = self._gradient(images, a, group, draws)
        moved = adam(a.detach(), gradient, self.states[group], ASCENT.lr * (1 - self.ages[group] / self.steps))
        radius = moved.shape[1] ** 0.5
        self.codes[group] = moved * (radius / moved.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
        return self.components.to_code(self.codes[group])


class SamplePool(Pool):
    """Codes on their way through :func:`dgn.ascent.sampling.sample`, from real ones mixed with noise; the generator
    learns the sampler's estimates at every time.

    Args:
        prior: the distribution of the codes; on the device of the training.
        encoder, rows, seed: see :class:`Pool`.
        sigma: ``[outputs]``, standard deviation of each output over real images.
    """

    def __init__(self, prior: GaussianPrior, encoder: Network, rows: int, seed: int, sigma: Tensor) -> None:
        self.prior, self.sigma, self.times = prior, sigma, times(SAMPLE)
        super().__init__(prior.components, encoder, rows, SAMPLE.steps, seed, SAMPLE)

    def _begin(self, draw: torch.Generator, age: int) -> Tensor:
        real, t = self.prior.real_codes(max(len(self.components.centres), self.rows)).cpu(), self.times[age]
        chosen = real[torch.randint(len(real), (self.rows,), generator=draw)]
        return t * chosen + (1 - t) * torch.randn(chosen.shape, generator=draw)

    def _move(self, group: int, generator: Generator, draws: Draws) -> Tensor:
        x, age = self.codes[group], self.ages[group]
        t, after = self.times[age], self.times[age + 1]
        estimate = self.prior.denoise(x, t).detach()
        with torch.enable_grad():
            estimate.requires_grad_()
            images = generator(estimate)
        gradient = self._gradient(images, estimate, group, draws)
        weight = 1 / (SAMPLE.temperature * self.sigma[self.units[group]]).view(-1, 1, 1, 1)
        move = weight * self.prior.covary(gradient, t)
        estimate = self.prior.within(estimate.detach() + capped(move, SAMPLE.pull * (1 - t)), SAMPLE.reach)
        self.codes[group] = later(x, estimate, t, after, SAMPLE.churn, draws)
        return estimate
