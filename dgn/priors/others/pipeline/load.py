"""A folder that diffusers saved a pipeline to, as a prior."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from dgn.errors import DgnError, first_line
from dgn.guest import quiet
from dgn.priors.base import Prior
from dgn.priors.others.pipeline.condition import PipelineOptions, check_kind, condition
from dgn.priors.others.pipeline.folder import LIBRARIES, PipelineFolder, read_folder
from dgn.priors.others.pipeline.model import Pipeline, dimensions
from dgn.priors.others.pipeline.prior import LatentPrior, PipelinePrior

INSTALL = "pip install 'dgn[extra]'"


def load_pipeline(path: Path, *, size: int | None = None, trust: bool = False, **options: Any) -> Prior:
    """A diffusion pipeline of diffusers: unconditional, class-conditional, of text, or a consistency model.

    Nothing is downloaded and no code of the folder runs. A safety checker is not loaded: it looks at finished images.

    Args:
        path: the folder, with ``model_index.json``.
        size: pixels of a side of the images, to which the pipeline's are scaled; None for its own.
        trust: whether weights that are no safetensors may be opened, which unpickles them.
        options: see :class:`PipelineOptions`.

    Raises:
        DgnError: no pipeline, one that dgn can't use, or options that don't fit it.
        TypeError: no option of that name.
    """
    folder, asked = read_folder(path), PipelineOptions(**options)
    asked.check()
    pipe = _load(folder, trust)
    net = pipe.unet if "unet" in folder.parts else pipe.transformer
    vae = next((getattr(pipe, name) for name in ("vae", "vqvae", "movq") if name in folder.parts), None)
    check_kind(type(net).__name__)
    scheduler = _deterministic(pipe.scheduler)
    pixels = dimensions(net, vae)[2]
    with quiet(*_there()):
        told = condition(pipe, net, asked, pixels)
    steps = asked.steps or few_steps(folder, scheduler)
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise DgnError(f"options.steps is {steps}: {type(scheduler).__name__} can't: {first_line(error)}") from error
    pipeline = Pipeline(net, scheduler, vae, told, steps=steps, precision=asked.precision, offload=asked.offload)
    return PipelinePrior(LatentPrior(pipeline, size, [folder.note]))


def few_steps(folder: PipelineFolder, scheduler: Any) -> int:
    """Steps from noise to an image that a pipeline is known to need, by its scheduler."""
    name = type(scheduler).__name__
    turbo = name.startswith("Euler") and scheduler.config.get("timestep_spacing") == "trailing"
    if name == "CMStochasticIterativeScheduler" or turbo:
        return 1
    return 4 if name == "LCMScheduler" or "Consistency" in folder.kind else 8


def _deterministic(scheduler: Any) -> Any:
    """The scheduler; for DDPM's, which draws noise at each of a thousand steps, DDIM's on the same levels."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(scheduler.config) if type(scheduler).__name__ == "DDPMScheduler" else scheduler


def _load(folder: PipelineFolder, trust: bool) -> Any:
    """The pipeline, on the CPU in float32."""
    there = _there()
    for package in LIBRARIES:
        wanted = package == "diffusers" or any(name.startswith("text_encoder") for name in folder.parts)
        if wanted and package not in there:
            raise DgnError(f"the pipeline {str(folder.path)!r} needs {package}; run: {INSTALL}")
    pickled = folder.pickled()
    if pickled and not trust:
        raise DgnError(f"{str(pickled)!r} is pickled: download the pipeline's .safetensors instead, or give trust=true")
    import diffusers

    if not hasattr(diffusers, folder.kind):
        raise DgnError(f"diffusers {diffusers.__version__} knows no {folder.kind}; run: pip install -U diffusers")
    given: dict[str, Any] = dict.fromkeys(folder.unused)
    if "safety_checker" in folder.unused:
        given["requires_safety_checker"] = False
    try:
        with quiet(*there):
            return diffusers.DiffusionPipeline.from_pretrained(
                str(folder.path), local_files_only=True, use_safetensors=None if trust else True,
                variant=folder.variant, torch_dtype=torch.float32,
                low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None, **given,
            )  # fmt: skip
    except Exception as error:
        raise DgnError(f"diffusers can't load {str(folder.path)!r}: {first_line(error)}") from error


def _there() -> list[str]:
    """Those of the libraries that are installed."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
