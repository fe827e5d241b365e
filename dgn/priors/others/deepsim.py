"""The generators of Dosovitskiy & Brox 2016, which Nguyen et al. 2016 climbed in."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from dgn.errors import DgnError, nearest
from dgn.files.storage import read_tensors
from dgn.priors.base import Prior
from dgn.priors.others.module import ModulePrior

DEEPSIM_MEAN = (104.0, 117.0, 123.0)
"""Blue, green, red, taken off the pixels in [0, 255] that these generators make."""

CODES = ("fc6", "fc7", "fc8", "pool5")
"""Layers of CaffeNet whose codes these generators invert."""
_LAYERS = (
    ("deconv5", 4, 256), ("conv5_1", 3, 512), ("deconv4", 4, 256), ("conv4_1", 3, 256), ("deconv3", 4, 128),
    ("conv3_1", 3, 128), ("deconv2", 4, 64), ("deconv1", 4, 32), ("deconv0", 4, 3),
)  # fmt: skip
"""Name, kernel and channels of the transposed convolutions; a kernel of 4 doubles the size."""


class DeePSiM(nn.Module):
    """The generators of Dosovitskiy & Brox (2016, arXiv 1602.02644), as Nguyen et al. 2016 used them.

    Args:
        layer: whose code it inverts: ``"fc6"``, ``"fc7"`` (``[n, 4096]``), ``"fc8"`` (``[n, 1000]``) or ``"pool5"``
            (``[n, 256, 6, 6]``). Images are ``[n, 3, 256, 256]``, blue first, the mean taken off.
        width: share of the channels and of the 4096 that is built (1: the published size).
    """

    def __init__(self, layer: str = "fc6", width: float = 1.0) -> None:
        super().__init__()
        if layer not in CODES:
            raise DgnError(f"no DeePSiM generator for {layer!r}{nearest(layer, CODES)}")
        self.layer = layer

        def wide(channels: int) -> int:
            return channels if channels == 3 else max(1, round(channels * width))

        parts: dict[str, nn.Module] = {}
        if layer == "pool5":
            self.code_shape: tuple[int, ...] = (wide(256), 6, 6)
            for name, inputs, outputs, edge in (("conv6", 256, 512, 1), ("conv7", 512, 512, 1), ("conv8", 512, 512, 0)):
                parts[name] = nn.Conv2d(wide(inputs), wide(outputs), 3, padding=edge)
        else:
            hidden = wide(256) * 16
            self.code_shape = (1000 if layer == "fc8" else hidden,)
            for name in ("defc7", "defc6", "defc5"):
                parts[name] = nn.Linear(self.code_shape[0] if name == "defc7" else hidden, hidden)
            self._first = (hidden // 16, 4, 4)
        before = wide(512) if layer == "pool5" else hidden // 16
        for name, kernel, channels in _LAYERS:
            parts[name] = nn.ConvTranspose2d(before, wide(channels), kernel, 2 if kernel == 4 else 1, 1)
            before = wide(channels)
        self.parts = nn.ModuleDict(parts)

    def forward(self, code: Tensor) -> Tensor:
        x = code
        for name, part in self.parts.items():
            if name == "deconv5" and x.dim() == 2:
                x = x.unflatten(1, self._first)
            x = part(x)
            if name != "deconv0":
                x = F.leaky_relu(x, 0.3)
        return x


class _DeepsimPrior(ModulePrior):
    def pixels(self, module: nn.Module, code: Tensor) -> Tensor:
        bgr = module(code)
        mean = bgr.new_tensor(DEEPSIM_MEAN)[:, None, None]
        return (bgr + mean).flip(1)


def load_deepsim(path: Path, *, layer: str | None = None, size: int | None = None) -> Prior:
    """A generator of Dosovitskiy & Brox from its published PyTorch weights.

    Args:
        path: ``upconvGAN_fc6.pt`` and the like (``binxu/DeePSim_DosovitskiyBrox2016`` on the Hugging Face hub);
            non-commercial research only.
        layer: None: as the file's name says.
        size: pixels of the images; None for 256.
    """
    if not path.is_file():
        raise DgnError(
            f"no weights {str(path)!r}; download upconvGAN_fc6.pt from the Hugging Face repository "
            "binxu/DeePSim_DosovitskiyBrox2016 and give prior.NAME.weights=FILE"
        )
    layer = layer or next((name for name in CODES if name in path.stem.lower()), "fc6")
    state = {key.replace(".1.", ".").replace("module.", ""): value for key, value in read_tensors(path).items()}
    width = next((value.shape[0] for key, value in state.items() if key.endswith("conv5_1.weight")), 256) / 256
    module = DeePSiM(layer, width)
    found = {}
    for key, value in module.state_dict().items():
        tail = key.removeprefix("parts.")
        matches = [name for name in state if name == tail or name.endswith("." + tail)]
        if not matches or state[matches[0]].shape != value.shape:
            raise DgnError(
                f"the weights {str(path)!r} are no DeePSiM generator for {layer}: {tail!r} is missing or differs"
            )
        found[key] = state[matches[0]].float()
    module.load_state_dict(found)
    spread, top = 4.37, 3 * 4.37  # of fc6, whose codes follow a ReLU (Nguyen et al. 2016)
    low = -top if layer == "fc8" else 0.0
    return _DeepsimPrior(
        module, module.code_shape, name=f"deepsim-{layer}", high=255.0, bounds=(low, top), spread=spread, size=size,
        family="deepsim",
    )  # fmt: skip
