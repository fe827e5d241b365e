"""Codes on their way up: what an ascent will ask of a generator, made while the generator is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from dgn.ascent.rules import State, adam
from dgn.ascent.transforms import Draws, add_noise, shift_and_zoom
from dgn.errors import DgnError
from dgn.network import OUTPUT, Network
from dgn.priors.generator import Components, Generator
from dgn.settings import AscentSettings

ASCENT = AscentSettings(rule="adam", lr=0.1, jitter=0.04, scale=0.1, noise=0.05)
"""How the codes climb: a part of the recipe, whatever a prior's default ascent becomes later."""

GROUPS = 4
"""Groups take turns, so that a code has moved on before the generator sees it again."""


class AscentPool:
    """Groups of codes, each climbing random output units of the encoder in the principal components of real codes.

    At each turn one group makes one step of ascent (Adam, shift, zoom, noise, ball) through the generator
    as it is then; after ``steps`` of them it starts anew elsewhere. All of it follows from the seed and the turns made.

    Args:
        components: in whose whitened coordinates the codes climb; on the device of the training.
        encoder: whose output units are climbed, at the size at which it sees the images.
        rows: codes a group.
        steps: of one ascent.
        seed: of units, starts and transformations.

    Raises:
        DgnError: the encoder's output is not one value a unit.
    """

    def __init__(self, components: Components, encoder: Network, rows: int, steps: int, seed: int) -> None:
        shape = encoder.layer_shape(OUTPUT)
        if len(shape) != 1:
            raise DgnError(f"ascents need a network with one output a class, not {list(shape)}; set ascent_share=0")
        self.components, self.encoder, self.rows, self.steps, self.seed = components, encoder, rows, steps, seed
        self.outputs = shape[0]
        self.turn = 0
        self.codes: list[Tensor] = []
        self.units: list[Tensor] = []
        self.ages: list[int] = []
        self.states: list[State] = []
        for group in range(GROUPS):
            code, units = self._fresh(group)
            self.codes.append(code)
            self.units.append(units)
            self.ages.append(group * steps // GROUPS)  # so that the groups are not all young together
            self.states.append({})

    def _fresh(self, turn: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + 31 * turn + 17) % 2**63)
        device = self.components.mean.device
        code = 0.3 * torch.randn(self.rows, len(self.components.scale), generator=generator)
        return code.to(device), torch.randint(self.outputs, (self.rows,), generator=generator).to(device)

    def next(self, generator: Generator) -> Tensor:
        """One step of the group whose turn it is; its normalised codes ``[rows, C, h, w]``, detached."""
        group = self.turn % GROUPS
        if self.ages[group] >= self.steps:
            self.codes[group], self.units[group] = self._fresh(GROUPS + self.turn)
            self.ages[group], self.states[group] = 0, {}
        draws = Draws(range(self.turn * self.rows, (self.turn + 1) * self.rows), self.components.mean.device, self.seed)
        with torch.enable_grad():
            a = self.codes[group].detach().requires_grad_()
            images = generator(self.components.to_code(a)).clamp(0, 1)
            x = add_noise(shift_and_zoom(images, draws, ASCENT.jitter, ASCENT.scale), draws, ASCENT.noise)
            scores = self.encoder.features(x, [OUTPUT])[OUTPUT]
            (gradient,) = torch.autograd.grad(scores.float().gather(1, self.units[group][:, None]).sum(), a)
        lr = ASCENT.lr * (1 - self.ages[group] / self.steps)
        with torch.no_grad():
            moved = adam(a.detach(), gradient.nan_to_num(0.0, 0.0, 0.0), self.states[group], lr)
            radius = moved.shape[1] ** 0.5
            self.codes[group] = moved * (radius / moved.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
        self.ages[group] += 1
        self.turn += 1
        return self.components.to_code(self.codes[group])

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
