"""Memory and time of an image of a diffusion pipeline and its gradient: python benchmarks/pipelines.py FORM [STEPS]

Networks of the published forms with random weights, in float32, one image on one thread; the peak holds weights and
libraries. FORM is ``consistency`` (ImageNet 64), ``sd-turbo``, or ``sizes``: how many numbers each form has.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import diffusers
import torch

from dgn.priors.others.pipeline.condition import Condition
from dgn.priors.others.pipeline.model import Pipeline

DOWN, UP = "AttnDownBlock2D", "AttnUpBlock2D"
CONSISTENCY: dict[str, Any] = {
    "sample_size": 64, "layers_per_block": 3, "block_out_channels": (192, 384, 576, 768), "attention_head_dim": 64,
    "down_block_types": ("ResnetDownsampleBlock2D", DOWN, DOWN, DOWN), "attn_norm_num_groups": 32,
    "up_block_types": (UP, UP, UP, "ResnetUpsampleBlock2D"), "num_class_embeds": 1000,
    "resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet",
}  # fmt: skip
SD2: dict[str, Any] = {
    "sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # fmt: skip
SD1: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL: dict[str, Any] = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20), "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2,
}  # fmt: skip


def pipeline(form: str, steps: int) -> Pipeline:
    common = {"steps": steps, "precision": "auto", "offload": False}
    if form == "consistency":
        told = Condition({"class_labels": torch.tensor([1])})
        net = diffusers.UNet2DModel(**CONSISTENCY)
        return Pipeline(net, diffusers.CMStochasticIterativeScheduler(), None, told, **common)  # type: ignore[arg-type]
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", beta_schedule="scaled_linear")
    net, vae = diffusers.UNet2DConditionModel(**SD2), diffusers.AutoencoderKL(**VAE)
    told = Condition({"encoder_hidden_states": torch.randn(1, 77, 1024)})
    return Pipeline(net, scheduler, vae, told, **common)  # type: ignore[arg-type]


def sizes() -> None:
    with torch.device("meta"):
        nets = {
            "consistency": diffusers.UNet2DModel(**CONSISTENCY), "sd2": diffusers.UNet2DConditionModel(**SD2),
            "sd1": diffusers.UNet2DConditionModel(**SD1), "sdxl": diffusers.UNet2DConditionModel(**SDXL),
            "vae": diffusers.AutoencoderKL(**VAE),
        }  # fmt: skip
    for name, net in nets.items():
        print(f"{name}: {sum(part.numel() for part in net.parameters()) / 1e6:.0f} M")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=["consistency", "sd-turbo", "sizes"])
    parser.add_argument("steps", type=int, nargs="?", default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.form == "sizes":
        return sizes()
    model = pipeline(options.form, options.steps)
    code = torch.randn(1, *model.shape, requires_grad=True)
    began = time.perf_counter()
    images = model.decode(model.generate(code))
    torch.autograd.grad(images.sum(), code)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{options.form}, {options.steps} steps: {time.perf_counter() - began:.0f} s, at most {peak:.1f} GiB")


if __name__ == "__main__":
    main()
