"""The same job by dgn, lucent and torch-dreams: each is given a network, a layer and units, and makes steps.

All climb the mean of a channel (or an output) on a canvas of 128 px that is enlarged to the network's input, in a
decorrelated Fourier basis, with Adam at 0.05 and the transformations that are lucent's defaults: pad 12, jitter 8,
scale 0.9 to 1.1, rotate up to 10 degrees, jitter 4. torch-dreams draws its own affine map of the same extent.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import dgn
from dgn.ascent.loop import Ascent
from dgn.ascent.settings import AscentSettings
from dgn.ascent.transforms import TRANSFORMS
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.priors.fourier import FourierPrior
from dgn.priors.pixel import PixelPrior
from dgn.units.units import parse_units

CANVAS, RATE = 128, 0.05
Run = Callable[[int], object]
"""Makes so many steps, start and end included."""

CHAIN = TRANSFORMS.parse(
    [{"pad": 12 / CANVAS}, {"shift": 4 / (CANVAS + 24)}, {"scale": 0.1}, {"rotate": 10.0}, {"shift": 2 / (CANVAS + 24)}]
)


def load(name: str, device: torch.device) -> Network:
    """EfficientNet with its weights; others with random ones, for speed does not depend on them."""
    torch.manual_seed(0)
    return dgn.load_network(name, weights=None if name.startswith("efficientnet") else "none", device=device)


def own(network: Network, layer: str, units: list[int], prior: str = "fourier", precision: str = "auto") -> Run:
    """dgn: each unit's transformations are drawn by its own."""
    written: dgn.Prior = (FourierPrior if prior == "fourier" else PixelPrior)(CANVAS)
    written = written.to(network.device)
    parsed = parse_units([f"{layer}:{index}" for index in units], network)
    seeds = list(range(len(units)))

    def run(steps: int) -> Tensor:
        settings = AscentSettings(steps=steps, lr=RATE, lr_end=RATE, transforms=CHAIN, precision=precision)
        found = Ascent(network, parsed, written, settings, seeds).climb(written.start(len(seeds), seeds))
        return written.decode(found.code).cpu()

    return run


def callers_module(network: Network) -> nn.Module:
    """As a user of the other libraries holds it: in evaluation mode, with weights that ask for gradients."""
    return copy.deepcopy(network.module).to(memory_format=torch.contiguous_format).requires_grad_(True)  # type: ignore[call-overload]


def lucent(network: Network, layer: str, units: list[int], frozen: bool = False) -> Run:
    """lucent 0.1.8 at its defaults; several units as one batch with an objective for each of its images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lucent.optvis import objectives, param, render
    module = callers_module(network).requires_grad_(not frozen)
    name = _module_name(network, layer).replace(".", "_")
    if len(units) == 1:
        objective = objectives.channel(name, units[0])
    else:
        objective = sum(objectives.channel(name, index, batch=row) for row, index in enumerate(units))

    def run(steps: int) -> Any:
        return render.render_vis(
            module, objective, lambda: param.image(CANVAS, batch=len(units)), thresholds=(steps,), progress=False,
            show_image=False, fixed_image_size=network.input_size[0],
        )  # fmt: skip

    return run


def torch_dreams(network: Network, layer: str, units: list[int]) -> Run:
    """torch-dreams with its batched images and objectives."""
    from torch_dreams import Dreamer
    from torch_dreams.batched_image_param import BatchedAutoImageParam
    from torch_dreams.batched_objective import BatchedObjective
    from torchvision import transforms

    module = callers_module(network)
    dreamer = Dreamer(module, quiet=True, device=str(network.device))
    edge = 4 / (CANVAS + 24)
    dreamer.set_custom_transforms(
        transforms.Compose(
            [
                transforms.Pad(12, fill=0.5),
                transforms.RandomAffine(10, translate=(edge, edge), scale=(0.9, 1.1)),
                transforms.Resize(network.input_size[0], antialias=False),
            ]
        )
    )
    read = dict(module.named_modules())[_module_name(network, layer)]
    objective = BatchedObjective([lambda out, index=index: -out[0][:, index].mean() for index in units])

    def run(steps: int) -> list[Tensor]:
        images = BatchedAutoImageParam(len(units), CANVAS, CANVAS, device=str(network.device), lr=RATE)
        found = dreamer.render([read], image_parameter=images, iters=steps, custom_func=objective)
        return [one.forward(device=str(network.device)).detach().cpu() for one in found.image_params]

    return run


def _module_name(network: Network, layer: str) -> str:
    """The last module for the output, which the others have no name for."""
    return list(dict(network.module.named_modules()))[-1] if layer == OUTPUT else layer


RIVALS: dict[str, Callable[..., Run]] = {"dgn": own, "lucent": lucent, "torch-dreams": torch_dreams}
