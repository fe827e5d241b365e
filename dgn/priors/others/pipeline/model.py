"""A diffusion pipeline in its own terms: from noise to latents to images, and from a noisy image to a clean one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dgn.errors import DgnError
from dgn.priors.others.pipeline.condition import Condition
from dgn.priors.others.pipeline.levels import denoiser, least_signal

HALVES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PIXELS = 0.5
"""Standard deviation of natural images' pixels in [-1, 1], about (Karras et al. 2022, arXiv 2206.00364, table 1)."""

PIXELS_TOGETHER = 2**20
"""Of images that go through a part together: 4 of 512 px; on a GPU 16. So memory does not grow with the batch."""


class Pipeline:
    """The parts of a diffusers pipeline, frozen. What a gradient needs of them is computed again when it is asked for,
    a pass of few images at a time, so that many steps and many images take the memory of one pass.

    Args:
        net: denoises latents ``[n, C, h, w]``.
        scheduler: of its noise.
        vae: latents to images in [-1, 1]; None: the latents are these images.
        condition: what the network is told.
        steps: from noise to latents.
        precision, offload: see :class:`dgn.priors.others.pipeline.condition.PipelineOptions`.

    Attributes:
        shape: ``(C, h, w)`` of latents.
        channels, size: of images ``[n, channels, *size]``.
        scale: standard deviation of an element of the latents, about.
        least: signal over noise of the noisiest latents that the network knows, 0.01 or more.
    """

    def __init__(
        self, net: Any, scheduler: Any, vae: Any, condition: Condition, *, steps: int, precision: str, offload: bool
    ) -> None:
        self.net, self.scheduler, self.vae, self.condition = net, scheduler, vae, condition
        self.steps, self.precision, self.offload = steps, precision, offload
        for part in self._parts():
            part.eval().requires_grad_(False)
        self.shape, self.channels, self.size = dimensions(net, vae)
        self.scale = PIXELS if vae is None else 1.0
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._denoise = denoiser(scheduler)
        self.least = max(1e-2, least_signal(scheduler))
        self._takes = inspect.signature(scheduler.step).parameters

    def _parts(self) -> list[Any]:
        return [part for part in (self.net, self.vae) if part is not None]

    # --- the network -------------------------------------------------------------------------------------------

    def predict(self, x: Tensor, time: Tensor | float) -> Tensor:
        """The network's output for its own input ``[n, C, h, w]`` at its own time, float32, of the same shape."""
        return self._again(self._pass, x, torch.as_tensor(time, device=self.device).expand(len(x)))

    def _pass(self, x: Tensor, times: Tensor) -> Tensor:
        net, rows = self._here(self.net), self.condition.rows
        told = self.condition.of(len(x), self.device, self.dtype)
        output = net(x.to(self.dtype).repeat(rows, 1, 1, 1), timestep=times.repeat(rows), **told).sample
        output = output[:, : self.shape[0]].float()  # further channels hold a variance that was learned
        if rows == 1:
            return output
        without, with_it = output.chunk(2)
        return without + self.condition.guidance * (with_it - without)

    def _again(self, part: Callable[..., Tensor], *given: Tensor) -> Tensor:
        """A part's output for rows of tensors, few at a time, computed again when a gradient is asked for."""
        together = PIXELS_TOGETHER * (1 if self.device.type == "cpu" else 4) // (self.size[0] * self.size[1])
        pieces = zip(*(rows.split(max(1, together)) for rows in given), strict=True)
        return torch.cat([checkpoint(part, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])

    def generate(self, noise: Tensor) -> Tensor:
        """Latents of noise ``[n, C, h, w]``, each element N(0, 1), by the scheduler's own steps. What a scheduler draws
        on the way is drawn from seed 0 for each image, so that noise alone decides."""
        scheduler = self.scheduler
        scheduler.set_timesteps(self.steps, device=self.device)
        x = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
        own: dict[str, Any] = {"generator": [torch.Generator().manual_seed(0) for _ in noise], "eta": 0.0}
        more = {name: value for name, value in own.items() if name in self._takes}
        for time in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(self.predict(seen, time), time, x, **more).prev_sample
        return x

    def denoise(self, mixed: Tensor, signal: float, noise: float) -> Tensor:
        """``E[x | signal * x + noise * e]`` for latents ``x``."""
        return self._denoise(self.predict, mixed, signal, noise)

    # --- the autoencoder ---------------------------------------------------------------------------------------

    def decode(self, latents: Tensor) -> Tensor:
        """Images ``[n, channels, *size]`` in [0, 1]."""
        images = latents
        if self.vae is not None:
            images = self._again(self._decode, latents)
        return (images / 2 + 0.5).clamp(0, 1)

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self._here(self.vae)
        factor, shift = self._scaling(latents)
        return vae.decode((latents * factor + shift).to(vae.dtype)).sample.float()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images ``[n, channels, *size]`` in [0, 1]."""
        images = images.float() * 2 - 1
        if self.vae is None:
            return images
        return self._again(self._encode, images)

    def _encode(self, images: Tensor) -> Tensor:
        vae = self._here(self.vae)
        output = vae.encode(images.to(vae.dtype))
        latents = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latents
        factor, shift = self._scaling(images)
        return (latents.float() - shift) / factor

    def _scaling(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """From the network's latents to the autoencoder's: what they are multiplied by, and what is added."""
        config = self.vae.config
        factor = like.new_full((1, 1, 1, 1), 1 / (config.get("scaling_factor") or 1.0))
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = (like.new_tensor(config[f"latents_{name}"]).view(1, -1, 1, 1) for name in ("mean", "std"))
            return std * factor, mean
        return factor, like.new_full((1, 1, 1, 1), config.get("shift_factor") or 0.0)

    # --- where they are ----------------------------------------------------------------------------------------

    def _here(self, part: Any) -> Any:
        """A part, on the device; with ``offload`` the other one leaves it."""
        if self.offload and next(part.parameters()).device.type != self.device.type:
            for other in self._parts():
                other.to(self.device if other is part else "cpu")
        return part

    def to(self, device: torch.device | str) -> None:
        """Move the parts; a GPU gets them in half precision."""
        self.device = torch.device(device)
        name = self.precision if self.device.type == "cuda" else "fp32"
        if name == "auto":
            name = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        self.dtype = HALVES[name]
        for part in self._parts():
            overflows = self.dtype == torch.float16 and part is self.vae and part.config.get("force_upcast", False)
            kind = torch.float32 if overflows else self.dtype
            nn.Module.to(part, "cpu" if self.offload else self.device, kind)  # diffusers' own warns of every cast

    def weights(self) -> dict[str, Tensor]:
        """Of network and autoencoder, by name."""
        named: list[tuple[str, nn.Module]] = [("net", self.net), ("vae", self.vae)]
        return {f"{name}.{key}": value for name, part in named if part for key, value in part.state_dict().items()}


def dimensions(net: Any, vae: Any) -> tuple[tuple[int, int, int], int, tuple[int, int]]:
    """Shape of the latents, channels and size of the images, by the parts' configurations.

    Raises:
        DgnError: the network takes more than latents, such as a mask, or does not say for which size it is.
    """
    config, taken = net.config, int(net.config.in_channels)
    made = int(vae.config.latent_channels if vae is not None else config.out_channels)
    if taken != made and not (vae is None and made == 2 * taken):
        raise DgnError(
            f"the pipeline's network takes {taken} channels, of which noise has {made}: the others are a mask or an "
            "image that it is to fill or change, which dgn can't give; expected a pipeline that makes images of noise"
        )
    side = config.sample_size
    if side is None:
        raise DgnError("the pipeline's network has no sample_size in its config.json: expected cells of its latents")
    height, width = (side, side) if isinstance(side, int) else side
    if vae is None:
        return (taken, height, width), taken, (height, width)
    blocks = vae.config.get("block_out_channels") or vae.config.encoder_block_out_channels
    factor = 2 ** (len(blocks) - 1)
    return (taken, height, width), int(vae.config.out_channels), (height * factor, width * factor)
