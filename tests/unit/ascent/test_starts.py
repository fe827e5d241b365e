"""Where an ascent begins: random starts, races between several, starts chosen among codes between real ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import small_generator
from torch import Tensor, nn

import dgn
from dgn.ascent.loop import Ascent
from dgn.ascent.own import own_settings
from dgn.ascent.settings import AscentSettings
from dgn.ascent.starts import SCREENED_TOGETHER, START_STRIDE, Screening
from dgn.cli.bar import Bar
from dgn.network.network import Network
from dgn.priors.components import ComponentsPrior
from dgn.priors.deep import GeneratorPrior
from dgn.priors.generator import Components
from dgn.priors.pixel import PixelPrior
from dgn.synthesis.main import synthesize
from dgn.synthesis.plan import plan
from dgn.units.units import parse_units

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
        runs = [Ascent(network, [unit], prior, short, [seed]).climb(code) for code in codes]
        lap = max(range(3), key=lambda lap: float(runs[lap].history[-1]))
        distinct.add(lap)
        torch.testing.assert_close(result.history[:4, row], runs[lap].history[:, 0], rtol=1e-3, atol=1e-4)
        rest = Ascent(network, [unit], prior, settings, [seed]).climb(runs[lap].code)
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


def with_centres(count: int = 200) -> ComponentsPrior:
    """A generator of 16 px images in ten components, with centres."""
    torch.manual_seed(3)
    basis = torch.linalg.qr(torch.randn(64, 10)).Q
    parts = Components(torch.zeros(64), torch.linspace(2, 1, 10), basis, (4, 4, 4), centres=torch.randn(count, 10))
    return ComponentsPrior(small_generator(), parts, 32)


def test_screening_begins_where_the_unit_fires_most(network: Network) -> None:
    """By hand: every centre's image is read at the loop's size; the best ones are the starts, in their order."""
    prior = with_centres()
    units = parse_units(["ant", "stem:3", "log(bee)", "late:2@center"], network)
    settings = AscentSettings(screen=10_000, starts=3, input_size=48, **FP32)
    rows = [(unit, 5) for unit in units]
    found = Screening(network, prior, units, settings).starts(rows)
    assert len(found) == 3 and found[0].shape == (4, 10)
    images = prior.decode(prior.components.centres)
    for row, unit in enumerate(units):
        looked = network.at(48).features(images, list(unit.layers))
        (term,) = unit.terms
        value = looked[term.layer][:, term.index]
        if unit.name == "log(bee)":
            value = looked["output"].log_softmax(1)[:, term.index]
        elif unit.name == "late:2@center":
            value = value[:, value.shape[1] // 2, value.shape[2] // 2]
        elif value.dim() == 3:
            value = value.mean((1, 2))
        expected = prior.components.centres[value.topk(3).indices]
        torch.testing.assert_close(torch.stack([codes[row] for codes in found]), expected)


def test_screening_follows_the_seed_and_nothing_else(network: Network) -> None:
    prior, units = with_centres(), parse_units(["ant", "bee"], network)
    settings = AscentSettings(screen=SCREENED_TOGETHER, input_size=48, **FP32)
    seeds = list(range(12))
    (together,) = Screening(network, prior, units, settings).starts([(unit, seed) for unit in units for seed in seeds])
    for place, (unit, seed) in enumerate([(units[1], 7), (units[0], 3)]):
        (alone,) = Screening(network, prior, [unit], settings).starts([(unit, seed)])
        assert torch.equal(alone[0], together[(19, 3)[place]])
    chosen = {tuple(code.tolist()) for code in together[:12]}
    assert 4 <= len(chosen) <= 7  # each seed reads one of seven groups of centres
    scaled = Screening(network, prior, units, replace(settings, start_scale=0.5)).starts([(units[0], 3)])
    torch.testing.assert_close(scaled[0][0], together[3] / 2)


def test_reading_starts_is_told_once(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch tells what it has to read, in all its seeds; what was read before is not read again. A bar shows it."""
    prior, units = with_centres(200), parse_units(["ant", "bee"], network)
    job = plan(network, units, prior, seeds=[0, 1], batch=1, screen=96, steps=1, refine_steps=0, reencode=0.0, **FP32)
    told: list[list[tuple[int, int]]] = []
    said: list[tuple[int, int]] = []
    for _ in job.pieces(on_read=lambda done, count: said.append((done, count))):
        told.append(said.copy())
        said.clear()
    first, second, *others = told
    assert [done for done, _ in first] == sorted({done for done, _ in first}) and first[-1] in ((96, 96), (72, 72))
    assert 0 < len(second) <= 3 and second[-1][0] == second[-1][1] and others == [[], []]
    assert job.screening is not None
    job.screening.starts([(unit, seed) for unit in units for seed in (0, 1)], lambda *more: said.append(more))
    assert not said

    with Bar("generator", job.rows, True) as bar:
        bar.reading(32, 96)
        reading = bar.starts
        assert (reading.desc, reading.n, reading.total, reading.disable) == ("generator, starts", 32, 96, False)
        bar.reading(96, 96)
        assert reading.n == 96 and reading.disable  # it is gone
        bar.step(0, 1, torch.zeros(4), torch.zeros(0))
        assert bar.bar.desc == "generator" and not bar.bar.disable
    assert bar.bar.disable
    shown = capsys.readouterr().err
    assert shown.index("generator, starts:   0%") < shown.index("generator: 100%")
    with Bar("generator", job.rows, False) as bar:
        bar.reading(32, 96)
        bar.reading(96, 96)
    assert capsys.readouterr().err == ""


def test_centres_that_are_not_finite_are_not_chosen() -> None:
    prior = with_centres(64)
    brightness = Network(NanAbove(torch.inf), 16)(prior.decode(prior.components.centres))[:, 0]
    network = Network(NanAbove(float(brightness.sort().values[40])), 16)
    (unit,) = parse_units(0, network)
    (start,) = Screening(network, prior, [unit], AscentSettings(screen=64, **FP32)).starts([(unit, 0)])
    (place,) = (prior.components.centres == start).all(1).nonzero()[:, 0].tolist()
    assert 30 < int((brightness <= brightness[place]).sum()) <= 41


def test_an_ascent_begins_at_its_centre(network: Network) -> None:
    prior = with_centres()
    climbing = own_settings(prior, "adam")
    assert climbing.screen and climbing.starts == 1 and own_settings(prior).screen
    short = {"rule": "adam", "steps": 1, "refine_steps": 0, "input_size": 48, "reencode": 0.0, **FP32}
    units = parse_units(["ant", "bee"], network)
    result = synthesize(network, units, prior, seeds=[0, 1], screen=64, **short)
    settings = climbing.with_changes({**short, "screen": 64})
    rows = [(unit, seed) for unit in units for seed in (0, 1)]
    (expected,) = Screening(network, prior, units, settings).starts(rows)
    torch.testing.assert_close(result.codes, expected)
    pieces = synthesize(network, units, prior, seeds=[0, 1], screen=64, batch=1, **short)
    assert torch.equal(pieces.codes, result.codes)
    given = synthesize(network, units, prior, seeds=[0, 1], start=torch.full((10,), 0.5), **short)
    torch.testing.assert_close(given.codes, torch.full((4, 10), 0.5))
    random = synthesize(network, units, prior, seeds=[0, 1], screen=0, **short)
    torch.testing.assert_close(random.codes, prior.start(4, [0, 1, 0, 1]))
    paper = synthesize(
        network, units, prior, lr=0.1, **{**short, "rule": "nguyen2016"}
    )  # in a code that has no centres
    assert paper.settings.screen == 0 and paper.coordinates == "raw code"


def test_a_small_last_group_has_enough_starts(network: Network) -> None:
    """35 centres are a group of 32 and one of 3: a seed that draws the small one reads the other, too."""
    prior, units = with_centres(35), parse_units(["ant"], network)
    settings = AscentSettings(screen=10, starts=5, **FP32)
    seeds = list(range(12))
    screening = Screening(network, prior, units, settings)
    assert len(screening.starts([(units[0], seed) for seed in seeds])) == 5
    counts = {}
    for seed in seeds:
        alone = Screening(network, prior, units, settings)
        alone.starts([(units[0], seed)], lambda _done, count, seed=seed: counts.update({seed: count}))
    assert set(counts.values()) == {32, 35}
    with pytest.raises(dgn.DgnError, match="has 4 centres for 5 starts"):
        synthesize(network, ["ant"], with_centres(4), rule="adam", screen=10, starts=5)


def test_screening_that_cannot_be(network: Network) -> None:
    assert synthesize(network, ["ant"], PixelPrior(16), screen=8, steps=1).settings.screen == 0
    with pytest.raises(dgn.DgnError, match="screen is 2 for 3 starts"):
        synthesize(network, ["ant"], with_centres(), screen=2, starts=3)
    with pytest.raises(dgn.DgnError, match="screen is -1"):
        synthesize(network, ["ant"], with_centres(), screen=-1)
    old = replace(with_centres().components, centres=torch.zeros(0))
    prior = ComponentsPrior(small_generator(), old, 32)
    climbing = own_settings(prior, "adam")
    assert prior.centres is None and own_settings(prior).screen == climbing.screen == 0 and climbing.starts == 4


class NanAbove(nn.Module):
    """The mean of an image; NaN for a bright one."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))[:, None]
        return torch.where(mean > self.limit, torch.nan, mean)
