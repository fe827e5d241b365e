"""The sampler against what is known in closed form: a Gaussian's denoiser, its samples, and its tilt by a unit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import small_generator
from torch import Tensor

import dgn
from dgn.ascent.sampling import Deviations, sample, times
from dgn.ascent.settings import AscentSettings
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.priors.components import ComponentsPrior
from dgn.priors.deep import GeneratorPrior
from dgn.priors.gaussian import GaussianPrior
from dgn.priors.generator import Components
from dgn.synthesis.main import synthesize
from dgn.synthesis.plan import plan

SIZE = 64  # numbers of a code 4 x 4 x 4
SETTINGS = AscentSettings(rule="sample", steps=40, inner=1, pull=1e9, temperature=0.5, churn=0.0)


@pytest.fixture
def prior(components: Components) -> GaussianPrior:
    generator = small_generator()
    generator.code_min.fill_(-1e6)  # the range of real codes, which would cut a Gaussian's tails off
    generator.code_max.fill_(1e6)
    return GaussianPrior(GeneratorPrior(generator, sigmas=1e6), components, 16)


def covariance(components: Components) -> Tensor:
    """Written out, ``[D, D]``."""
    basis = components.basis.double()
    inside = basis @ torch.diag(components.scale.double().square()) @ basis.T
    return inside + 0.3 * (torch.eye(SIZE, dtype=torch.float64) - basis @ basis.T)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.7, 0.99])
def test_the_denoiser_is_bayes_rule(prior: GaussianPrior, components: Components, t: float) -> None:
    """``E[x | x_t]`` and ``Cov[x | x_t]`` of Gaussians, by dense matrices."""
    x = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    sigma, mean = covariance(components), components.mean.double()
    inverse = torch.linalg.inv(t * t * sigma + (1 - t) ** 2 * torch.eye(SIZE, dtype=torch.float64))
    expected = mean + (x.flatten(1).double() - t * mean) @ (t * sigma @ inverse).T
    torch.testing.assert_close(prior.denoise(x, t).flatten(1), expected.float(), rtol=1e-4, atol=1e-4)
    spread = x.flatten(1).double() @ ((1 - t) ** 2 * sigma @ inverse)
    torch.testing.assert_close(prior.covary(x, t).flatten(1), spread.float(), rtol=1e-4, atol=1e-4)


def drawn(prior: GaussianPrior, settings: AscentSettings, weight: Tensor, count: int = 1500) -> Tensor:
    """Samples for a unit that is linear in the code, ``[count, D]``."""
    seeds = range(count)
    sigma = (weight @ covariance(prior.components).float() @ weight).sqrt()

    def slope(code: Tensor, _step: int) -> tuple[Tensor, Tensor]:
        return code.flatten(1) @ weight, weight.view(1, 4, 4, 4).expand_as(code)

    found = sample(prior, prior.start(count, seeds), settings, seeds, sigma.expand(count), slope, lambda *_: None)
    return found.flatten(1)


@pytest.mark.parametrize("churn", [0.0, 0.3])
def test_samples_without_a_pull_are_the_priors(prior: GaussianPrior, components: Components, churn: float) -> None:
    weight = torch.randn(SIZE, generator=torch.Generator().manual_seed(2))
    found = drawn(prior, replace(SETTINGS, temperature=1e9, churn=churn, steps=60), weight)
    along = (found - components.mean) @ components.basis
    torch.testing.assert_close(along.std(0), components.scale, rtol=0.08, atol=0)
    assert float(along.mean(0).abs().max()) < 0.2
    rest = (found - components.mean) - along @ components.basis.T
    assert float(rest.square().sum(1).mean()) / (SIZE - 5) == pytest.approx(0.3, rel=0.08)


@pytest.mark.parametrize(("temperature", "inner"), [(2.0, 1), (0.5, 3)])
def test_the_mean_activation_rises_by_one_over_t(
    prior: GaussianPrior, components: Components, temperature: float, inner: int
) -> None:
    """A Gaussian times ``exp(a / (T sigma))`` is the same Gaussian, its mean activation higher by ``sigma / T``."""
    weight = torch.randn(SIZE, generator=torch.Generator().manual_seed(2))
    sigma = (weight @ covariance(components).float() @ weight).sqrt()
    settings = replace(SETTINGS, temperature=temperature, inner=inner, steps=60)
    activation = drawn(prior, settings, weight) @ weight
    assert float((activation.mean() - components.mean @ weight) / sigma) == pytest.approx(1 / temperature, rel=0.1)
    assert float(activation.std() / sigma) == pytest.approx(1, rel=0.08)


def test_estimates_stay_within_reach(prior: GaussianPrior, components: Components) -> None:
    """A pull of any strength leaves codes no further from the mean than real ones; those within are as they were."""
    weight = torch.randn(SIZE, generator=torch.Generator().manual_seed(2))
    typical = torch.linalg.eigvalsh(covariance(components).float()).sum().sqrt()
    strong = replace(SETTINGS, temperature=0.01, pull=50.0, steps=12, sigmas=None)
    far, near = (
        (drawn(prior, replace(strong, reach=reach), weight) - components.mean).norm(dim=1) for reach in (0, 1.5)
    )
    assert bool((far > 2 * typical).all()) and bool((near <= 1.5 * typical * 1.001).all())
    code = components.mean.view(1, *components.shape) + 1e-3
    assert torch.equal(prior.within(code, 1.0), code)


def test_times_are_shifted_towards_noise() -> None:
    assert times(AscentSettings(steps=4)) == [0, 0.25, 0.5, 0.75, 1]
    assert times(AscentSettings(steps=2, shift=3.0)) == [0, 0.25, 1]
    found = times(AscentSettings(steps=3, shift=2.0, start_time=0.4))
    assert found[0] == pytest.approx(0.4) and found[-1] == 1 and sorted(found) == found


@pytest.fixture
def whole(components: Components) -> ComponentsPrior:
    return ComponentsPrior(small_generator(), components, 32)


def test_synthesize_samples_in_the_code(network: Network, whole: ComponentsPrior) -> None:
    """The unit rises as the temperature falls; images have the prior's size, codes the layout's."""
    settings = {"rule": "sample", "steps": 8, "input_size": None, "jitter": 0.0, "scale": 0.0, "noise": 0.0}
    rises = []
    for temperature in (100.0, 0.02):
        result = synthesize(network, ["ant", "bee"], whole, seeds=8, temperature=temperature, **settings)
        assert result.images.shape == (16, 3, 32, 32) and result.codes.shape == (16, 4, 4, 4)
        assert result.coordinates == "code" and result.history.shape == (8, 16)
        again = torch.stack([network(result.images)[:8, 0], network(result.images)[8:, 2]]).flatten()
        torch.testing.assert_close(result.activations, again, rtol=1e-4, atol=1e-4)
        rises.append(result.activations.view(2, 8).mean(1))
    assert bool((rises[1] > rises[0]).all()), rises


def test_a_samples_bits_do_not_depend_on_its_batch(network: Network, whole: ComponentsPrior) -> None:
    settings = {"rule": "sample", "steps": 4, "input_size": None}
    both = synthesize(network, ["ant", "bee"], whole, **settings)
    alone = synthesize(network, ["bee"], whole, **settings)
    torch.testing.assert_close(both.images[1:], alone.images, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(
        both.images[1:], synthesize(network, ["bee"], whole, seed=1, **settings).images, atol=0.02
    )


def test_a_start_is_begun_at_later_than_noise(network: Network, whole: ComponentsPrior) -> None:
    """The later, the nearer to it; without a start the whole way is gone."""
    start = whole.sampled().start(1, [5])
    settings = {"rule": "sample", "steps": 6, "input_size": None, "temperature": 100.0}
    near, far = (
        synthesize(network, "ant", whole, start=start, start_time=time, **settings).codes for time in (0.95, 0.3)
    )  # fmt: skip
    assert float((near - start).abs().mean()) < 0.5 * float((far - start).abs().mean())
    assert plan(network, "ant", whole, **settings).settings.start_time == 0
    with pytest.raises(DgnError, match="is noise, whatever the start"):
        plan(network, "ant", whole, start=start, start_time=0.0, **settings)


def test_no_start_is_chosen_for_time_zero(network: Network, components: Components) -> None:
    """It would be taken for the noise itself."""
    centred = replace(components, centres=torch.randn(40, 5, generator=torch.Generator().manual_seed(7)))
    whole = ComponentsPrior(small_generator(), centred, 32)
    settings = {"rule": "sample", "steps": 4, "input_size": None}
    job = plan(network, "ant", whole, screen=32, start_time=0.0, **settings)
    assert job.screening is None and job.settings.screen == 0
    chosen = plan(network, "ant", whole, screen=32, **settings)
    assert chosen.screening is not None and chosen.settings.start_time > 0
    adam = plan(network, "ant", whole, rule="adam", screen=32, steps=4, input_size=None)
    assert adam.screening is not None


def test_priors_without_a_distribution_keep_their_rule(network: Network) -> None:
    for job in (plan(network, "ant", "pixel", rule="sample", steps=2), plan(network, "ant", "pixel", ascent=SETTINGS)):
        assert job.settings.rule == "adam" and job.asked.rule == "sample"
        assert job.changed["rule"].startswith("sample was asked for; the prior has no distribution")
        assert any("it climbs by adam" in note for note in job.notes)


def test_settings_that_do_nothing_are_said(network: Network, whole: ComponentsPrior) -> None:
    assert plan(network, "ant", whole, rule="sample").notes == []
    (note,) = plan(network, "ant", whole, rule="sample", lr=0.3).notes
    assert "is sampled, which does not read ascent.lr:" in note
    assert plan(network, "ant", whole, rule="adam", lr=0.3).notes == []
    (note,) = plan(network, "ant", whole, rule="sample", starts=2, refine_steps=9).notes
    assert "does not read ascent.starts, ascent.refine_steps:" in note


def test_one_temperature_means_the_same_for_all_units(network: Network, whole: ComponentsPrior) -> None:
    """A unit eight times as loud gives the same images."""
    settings = {"rule": "sample", "steps": 4, "input_size": None}
    quiet, loud = (synthesize(network, unit, whole, **settings).images for unit in ("ant", "8*ant"))
    torch.testing.assert_close(quiet, loud, rtol=1e-3, atol=1e-3)
    units = dgn.parse_units(["ant", "8*ant"], network)
    one, eight = Deviations(network, whole.sampled(), units, SETTINGS).of(units).tolist()
    assert eight == pytest.approx(8 * one, rel=1e-3)
