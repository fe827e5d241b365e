"""Where an ascent begins: random starts, races between several."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import small_generator
from torch import Tensor, nn

import dgn
from dgn.ascent.loop import climb
from dgn.batch import START_STRIDE
from dgn.network import Network
from dgn.priors.deep import GeneratorPrior
from dgn.priors.pixel import PixelPrior
from dgn.settings import AscentSettings
from dgn.synthesis import synthesize
from dgn.units import parse_units

FP32 = {"precision": "fp32"}


def test_of_several_starts_the_highest_goes_on(network: Network) -> None:
    """Each sample's race equals separate short ascents from the same start codes; the best of them climbs on."""
    prior = GeneratorPrior(small_generator())
    settings = AscentSettings(rule="adam", lr=0.05, steps=5, jitter=0.1, precision="fp32")
    seen: list[tuple[int, int]] = []
    result = synthesize(
        network, ["ant", "stem:3"], prior, ascent=settings, seeds=[3, 8], starts=3, race_steps=4,
        on_step=lambda i, n, _a, _x: seen.append((i, n)),
    )  # fmt: skip
    assert seen == [(i, 3 * 4 + 5) for i in range(3 * 4 + 5)] and len(result.history) == 4 + 5
    short = replace(settings, steps=4, lr_end=0.05)
    distinct = set()
    for row, (unit, seed) in enumerate(zip(result.units, result.seeds, strict=True)):
        codes = [prior.start(1, [seed + lap * START_STRIDE]) for lap in range(3)]
        runs = [climb(network, [unit], prior, code, short, [seed]) for code in codes]
        lap = max(range(3), key=lambda lap: float(runs[lap].history[-1]))
        distinct.add(lap)
        torch.testing.assert_close(result.history[:4, row], runs[lap].history[:, 0], rtol=1e-3, atol=1e-4)
        rest = climb(network, [unit], prior, runs[lap].code, settings, [seed])
        torch.testing.assert_close(result.history[4:, row], rest.history[:, 0], rtol=1e-2, atol=1e-3)
    assert len(distinct) > 1


def test_race_by_probability(network: Network) -> None:
    """The runner whose image is named best goes on, by hand: the log-probability of a class, a hidden unit's value."""
    prior = PixelPrior(32, noise=0.3)
    settings = AscentSettings(steps=1, lr=0.05, starts=4, race_steps=3, input_size=64, **FP32)
    result = synthesize(network, ["ant", "stem:3"], prior, ascent=settings, race_by="probability", seeds=[3, 8])
    short = replace(settings, steps=3, starts=1, lr_end=settings.lr)
    laps = [
        synthesize(network, ["ant", "stem:3"], prior, ascent=short, seeds=[3, 8], start=_laps(prior, lap))
        for lap in range(4)
    ]
    (ant,) = parse_units("ant", network)
    chosen = []
    for row in range(4):
        stands = []
        for lap in laps:
            looks = [network.at(side).features(lap.images[row : row + 1], ["output", "stem"]) for side in (32, 64, 96)]
            stands.append(
                [float(look["output"].log_softmax(1)[0, ant.class_index]) for look in looks]
                if row < 2 else [float(look["stem"][0, 3].mean()) for look in looks]
            )  # fmt: skip
        chosen.append(max(range(4), key=lambda lap, stands=stands: sum(stands[lap])))
    expected = torch.stack([laps[lap].codes[row] for row, lap in enumerate(chosen)])
    torch.testing.assert_close(result.codes, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(dgn.DgnError, match="race_by"):
        synthesize(network, ["ant"], prior, race_by="luck")


def _laps(prior: PixelPrior, lap: int) -> Tensor:
    """Start codes of a race's lap for two units with the seeds 3 and 8."""
    return prior.start(4, [seed + lap * START_STRIDE for seed in (3, 8, 3, 8)])


def test_starts_that_are_not_finite_lose_their_race() -> None:
    """The first runner of each race sees NaN; a later one wins."""
    network = Network(NanAtFirst(after=3), 8)
    result = synthesize(network, [0], PixelPrior(8), steps=2, starts=2, race_steps=3, **FP32)
    assert bool(result.history.isfinite().all()) and result.frozen_at.tolist() == [-1]


class NanAtFirst(nn.Module):
    """Gives NaN for so many forward passes."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        return x.mean((1, 2, 3))[:, None] * (torch.nan if self.left >= 0 else 1.0)
