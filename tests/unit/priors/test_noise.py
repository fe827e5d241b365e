"""Noise as a code: the way to codes and back against what is known in closed form, and against many small steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import small_generator
from torch import Tensor

import dgn
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.priors.checkpoint import save_components, save_flow, save_generator
from dgn.priors.components import ComponentsPrior
from dgn.priors.deep import GeneratorPrior
from dgn.priors.flow import Flow, FlowConfig
from dgn.priors.gaussian import FlowPrior, GaussianPrior
from dgn.priors.generator import Components
from dgn.priors.noise import NoisePrior

FORM = FlowConfig((4, 4, 4), patch=2, width=32, depth=2, heads=2)


@pytest.fixture
def gaussian(components: Components) -> GaussianPrior:
    return GaussianPrior(GeneratorPrior(small_generator()), components, 16)


@pytest.fixture
def learned(components: Components) -> FlowPrior:
    torch.manual_seed(5)
    flow = Flow(FORM)
    torch.nn.init.normal_(flow.write.weight, std=0.1)
    return FlowPrior(GeneratorPrior(small_generator()), components, 16, flow.eval().requires_grad_(False))


def noise(n: int = 3) -> Tensor:
    return torch.randn(n, 4, 4, 4, generator=torch.Generator().manual_seed(7))


def test_a_gaussians_noise_is_its_whitened_code(gaussian: GaussianPrior, components: Components) -> None:
    """Along each component the noise times its standard deviation, elsewhere times the rest's; there and back."""
    prior, e = NoisePrior(gaussian), noise()
    code = prior.to_code(e)
    along, flat = e.flatten(1) @ components.basis, e.flatten(1)
    outside = flat - along @ components.basis.T
    expected = components.mean + (along * components.scale) @ components.basis.T + 0.3**0.5 * outside
    torch.testing.assert_close(code.flatten(1), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior.to_noise(code), e, rtol=1e-4, atol=1e-4)


def by_small_steps(prior: FlowPrior, x: Tensor, steps: int = 2000) -> Tensor:
    """Euler's rule."""
    for i in range(steps):
        t = i / steps
        x = x + (prior.denoise(x, t) - x) / (1 - t) / steps
    return x


@pytest.mark.slow
def test_few_steps_lead_where_many_lead(learned: FlowPrior) -> None:
    """A quarter of the error that plain steps make, at any number of them."""
    e, counts = noise(), (4, 8, 16, 32)
    far = by_small_steps(learned, e)
    errors = [float((NoisePrior(learned, steps).to_code(e) - far).square().mean().sqrt()) for steps in counts]
    plain = [float((by_small_steps(learned, e, steps) - far).square().mean().sqrt()) for steps in counts]
    assert errors == sorted(errors, reverse=True)
    assert all(few < many / 4 for few, many in zip(errors, plain, strict=True))
    assert float((far - gaussian_code(learned, e)).square().mean().sqrt()) > 0.2  # the flow has something to say


def gaussian_code(prior: FlowPrior, e: Tensor) -> Tensor:
    return NoisePrior(GaussianPrior(prior.layout, prior.components, 16)).to_code(e)


def test_the_way_back_finds_the_noise(learned: FlowPrior) -> None:
    prior, e = NoisePrior(learned, 24), noise()
    found = prior.to_noise(prior.to_code(e))
    assert float((found - e).square().mean().sqrt()) < 0.05


def test_codes_stay_on_the_shell(learned: FlowPrior) -> None:
    prior = NoisePrior(learned)
    for code in (prior.start(2, [3, 9]), prior.project(5 * noise()), prior.project(5 * noise(), sigmas=1.0)):
        assert code.flatten(1).norm(dim=1).tolist() == pytest.approx([8.0] * len(code))
    assert float(prior.project(5 * noise(), sigmas=1.0).abs().max()) < 2
    assert torch.equal(prior.start(2, [3, 9])[1], prior.start(1, [9])[0])


@pytest.mark.parametrize("rule", ["adam", "nguyen2016", "ppgn", "cmaes", "sample"])
def test_every_rule_works_in_noise(learned: FlowPrior, network: Network, rule: str) -> None:
    """They end higher than they began; the sampler samples the same distribution."""
    prior = NoisePrior(learned, 3)
    more = {"population": 8} if rule == "cmaes" else {"start_time": 0.0} if rule == "sample" else {"starts": 1}
    still = {"jitter": 0.0, "scale": 0.0, "noise": 0.0, "input_size": network.input_size[0]}
    begun = dgn.synthesize(network, [1], prior=prior, rule="adam", steps=1, starts=1, seeds=[0, 1], **still)
    result = dgn.synthesize(network, [1], prior=prior, rule=rule, steps=15, seeds=[0, 1], **still, **more)
    assert result.images.shape == (2, 3, 16, 16)
    assert bool((result.activations > begun.activations).all())


def test_a_checkpoint_opens_in_noise(components: Components, tmp_path: Path) -> None:
    """With ``space="noise"``; codes in other coordinates are carried over; a generator alone has no noise."""
    save_generator(tmp_path / "generator.safetensors", small_generator(), {})
    with pytest.raises(DgnError, match="no principal components"):
        dgn.load_prior(tmp_path, space="noise")
    save_components(tmp_path / "components.safetensors", components, {})
    prior = dgn.load_prior(tmp_path, space="noise")
    assert isinstance(prior, NoisePrior) and not isinstance(prior.space, FlowPrior)
    whole = dgn.load_prior(tmp_path)
    assert isinstance(whole, ComponentsPrior)
    a = whole.start(2)
    e = prior.convert(a, "components")
    torch.testing.assert_close(prior.to_code(e), whole.components.to_code(a), rtol=0, atol=0.02)  # a basis in 8 bits
    save_flow(tmp_path / "flow.safetensors", Flow(FORM), whole.components, {})
    assert isinstance(dgn.load_prior(tmp_path, space="noise").sampled(), FlowPrior)


def test_an_ascent_begins_near_the_centre_where_its_unit_fires_most(network: Network, components: Components) -> None:
    """Half way to it, the rest is the seed's; no start is further from the shell than noise is."""
    components.centres = 8**0.5 * torch.eye(5).repeat(20, 1)[:96]
    gaussian = GaussianPrior(GeneratorPrior(small_generator()), components, 16)
    prior = NoisePrior(gaussian)
    assert prior.centres is not None
    starts = prior.at_centres(prior.centres[[0, 0, 1]], [3, 4, 3])
    assert starts.flatten(1).norm(dim=1).tolist() == pytest.approx([8.0] * 3)
    assert not torch.equal(starts[0], starts[1])
    near = (prior.to_code(starts).flatten(1) - components.mean) @ components.basis
    assert near[0, 0] > near[2, 0] + 1 and near[2, 1] > near[0, 1] + 1
    result = dgn.synthesize(network, [1], prior=prior, steps=5, seeds=2, screen=32, starts=2, race_steps=2)
    assert bool(result.images.isfinite().all())


def test_a_facet_begins_between_the_codes_of_its_images(gaussian: GaussianPrior) -> None:
    """Not at the mean of their noise."""
    prior, codes = NoisePrior(gaussian), gaussian.start(4, range(4))
    gaussian.encode = lambda _images: codes  # type: ignore[method-assign]
    expected = prior.at_centres(codes.mean(0, keepdim=True), [0])[0]
    assert torch.equal(prior.mean_code(torch.zeros(4, 3, 16, 16)), expected)
