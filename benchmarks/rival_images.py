"""An image of a class, and a photograph accentuated towards one, by each library as its pages show it.

All see the same network: :class:`Seen` takes images in the range that a library writes, enlarges them to the network's
input and normalises them, so that a library's own normalisation is off. Steps, canvas and seed are told; all else is
the library's default, but for the crops that a step looks at, which are equal where a library takes several.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rivals import CANVAS, callers_module
from torch import Tensor, nn

import dgn
from dgn.network.network import Network

INSTALL = {
    "lucent": "torch-lucent==0.1.8 kornia==0.4.1 decorator",
    "torch_dreams": "torch-dreams",
    "horama": "horama einops",
    "dreamlens": "dreamlens",
    "faccent": "faccent einops kornia==0.4.1 decorator imageio ipywidgets",
    "captum": "captum",
}
"""Of each module, what pip installs with --no-deps beside dgn. faccent asks for `lucent==0.1.0`, which on the package
index is another, broken package of torch-lucent's module name; horama needs einops and does not say so."""


@dataclass
class Task:
    """What a library is given: a class, steps, crops a step; for accentuation a photograph, and the layer it keeps."""

    network: Network
    label: int
    steps: int
    crops: int
    seed: int = 0
    photo: Tensor | None = None
    layer: str = ""


Method = Callable[[Task], Tensor]
"""Makes an image ``[3, H, W]`` in [0, 1]."""


class Seen(nn.Module):
    """The network for images between ``low`` and ``high``, of any size; ``plain``: not in channels-last layout."""

    plain = False

    def __init__(self, network: Network, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.network, self.low, self.high = [network], low, high  # in a list: no module of this one
        self.module = callers_module(network).requires_grad_(False)
        self.last = list(dict(self.named_modules()))[-1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.network[0].normalised((x - self.low) / (self.high - self.low))
        return self.module(x.contiguous() if self.plain else x)


def installed(modules: list[str]) -> list[str]:
    """Those that are there; of each other a line that says how to get it."""
    there = [module for module in modules if module == "dgn" or importlib.util.find_spec(module)]
    for module in dict.fromkeys(modules):
        if module not in there:
            print(f"{module}: not installed: pip install --no-deps {INSTALL[module]}", flush=True)
    return there


def own(prior: str, given_steps: bool = True) -> Method:
    def make(task: Task) -> Tensor:
        steps = {"steps": task.steps} if given_steps else {}
        if task.photo is None:
            return dgn.synthesize(task.network, task.label, prior, seed=task.seed, **steps).images[0]
        held = {"start": task.photo, "accent": 0.3, "accent_layer": task.layer}
        return dgn.synthesize(task.network, task.label, prior, seed=task.seed, **steps, **held).images[0]

    return make


def lucent(task: Task) -> Tensor:
    from lucent.optvis import objectives, param, render

    seen = Seen(task.network)
    found = render.render_vis(
        seen, objectives.channel(seen.last.replace(".", "_"), task.label), lambda: param.image(CANVAS),
        thresholds=(task.steps,), preprocess=False, progress=False, show_image=False,
    )  # fmt: skip
    return torch.tensor(found[-1][0]).permute(2, 0, 1)


def torch_dreams(task: Task) -> Tensor:
    from torch_dreams import Dreamer
    from torchvision.transforms import Normalize

    seen = Seen(task.network)
    dreamer = Dreamer(seen, quiet=True, device=str(task.network.device))
    dreamer.set_custom_normalization(Normalize([0.0] * 3, [1.0] * 3))  # takes its own off again
    found = dreamer.render(
        [seen.get_submodule(seen.last)], width=CANVAS, height=CANVAS, iters=task.steps,
        custom_func=lambda out: -out[0][..., task.label].mean(),
    )  # fmt: skip
    return found.to_chw_tensor(device=str(task.network.device))


def horama(name: str, canvas: int = CANVAS) -> Method:
    """Its images lie in [-2.5, 2.5]; MACO's spectrum, which it downloads, is taken from dreamlens, which brings it."""

    def make(task: Task) -> Tensor:
        import horama as library

        low, high = -2.5, 2.5
        seen = Seen(task.network, low, high)
        size = canvas if task.photo is None else task.photo.shape[-1]
        more: dict[str, Any] = {"image_size": size, "total_steps": task.steps, "crops_per_iteration": task.crops}
        first = [] if task.photo is None else [task.photo * (high - low) + low]
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            spec = importlib.util.find_spec("dreamlens") if name == "maco" else None
            if spec and spec.origin:
                shutil.copy(Path(spec.origin).parent / "data/clean_decorrelated.npy", "spectrum_decorrelated.npy")
            call = getattr(library, name)
            found, _ = call(lambda x: seen(x)[:, task.label].mean(), *first, device=str(task.network.device), **more)
        return (found.detach() - low) / (high - low)

    return make


def dreamlens(name: str) -> Method:
    def make(task: Task) -> Tensor:
        import dreamlens as library

        seen = Seen(task.network)
        target = library.FeatureTarget.for_class(task.label, layer=seen.last)
        engine = library.FeatureVisualizer(seen, quiet=True, normalize=False)
        size: dict[str, Any] = {"width": CANVAS, "height": CANVAS, "steps": task.steps}
        if name == "maximize":
            found = engine.maximize(target, library.RenderConfig(**size))
        elif name == "maco":
            found = engine.maco(target, library.MacoConfig(**size, crops=task.crops))
        else:
            settings = library.FeatureAccentuationConfig(**size, crops=task.crops)
            found = engine.accentuate(target, task.photo, f"module.{task.layer}", settings)
        return found.as_chw().detach()

    return make


def faccent(task: Task) -> Tensor:
    from faccent import objectives, param, render

    seen = Seen(task.network)
    size, device = (CANVAS, CANVAS), task.network.device
    start = None if task.photo is None else task.photo.to(device)
    layer = None if start is None else "module_" + task.layer.replace(".", "_")
    found, *_ = render.render_vis(
        seen, objectives.channel(seen.last.replace(".", "_"), task.label),
        param.fourier(device=device, img_size=size, init_img=start), img_size=size, out_thresholds=[task.steps - 1],
        inline_thresholds=[], nb_transforms=task.crops, progress=False, accent_reg_layer=layer,
        model_input_size=task.network.input_size, model_input_range=(0, 1),
    )  # fmt: skip
    return found[-1][0]


METHODS: dict[str, tuple[str, Method, int]] = {
    "dgn": ("dgn", own("dgn", given_steps=False), 0),
    "dgn, MACO": ("dgn", own("maco"), 0),
    "dgn, Fourier": ("dgn", own("fourier"), 0),
    "lucent, Fourier": ("lucent", lucent, 0),
    "torch-dreams, Fourier": ("torch_dreams", torch_dreams, 0),
    "dreamlens, Fourier": ("dreamlens", dreamlens("maximize"), 0),
    "dreamlens, MACO": ("dreamlens", dreamlens("maco"), 32),
    "horama, MACO": ("horama", horama("maco"), 6),
    "horama 1280, MACO": ("horama", horama("maco", 1280), 6),
    "horama, Fourier": ("horama", horama("fourier"), 6),
    "faccent, Fourier": ("faccent", faccent, 16),
}
"""The module that a method needs, the method, and how many crops of the image a step looks at by default (0: the whole
image, once). dgn's samples keep their own number of steps, 24."""

ACCENTS: dict[str, tuple[str, Method, int]] = {
    "dgn, Fourier": ("dgn", own("fourier"), 0),
    "faccent, Fourier": ("faccent", faccent, 16),
    "dreamlens, Fourier": ("dreamlens", dreamlens("accentuate"), 16),
    "horama, Fourier": ("horama", horama("accentuation"), 6),
}


def made(method: Method, task: Task) -> Tensor:
    """A method's image, with nothing printed and every random number of the seed."""
    random.seed(task.seed)
    np.random.seed(task.seed)
    torch.manual_seed(task.seed)
    with quiet():
        image = method(task)
    return image.float().cpu().clamp(0, 1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
