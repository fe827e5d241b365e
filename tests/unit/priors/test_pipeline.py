"""Diffusion pipelines: against their own calls on tiny ones that diffusers saves here, and against a Gaussian's closed
form."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import dgn
from dgn.ascent.sampling import sample
from dgn.ascent.settings import AscentSettings
from dgn.cli.main import main
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.priors.others.pipeline.condition import Condition
from dgn.priors.others.pipeline.folder import is_pipeline, read_folder
from dgn.priors.others.pipeline.model import Pipeline
from dgn.priors.others.pipeline.prior import LatentPrior, PipelinePrior

STILL = {"jitter": 0.0, "scale": 0.0, "noise": 0.0}
VARIANCE = 0.25 * torch.tensor([0.2, 1.0, 3.0]).view(3, 1, 1)
"""Of a Gaussian's pixels in [-1, 1], by channel."""


class Settings(dict):  # type: ignore[type-arg]
    """As diffusers' configurations are read."""

    __getattr__ = dict.__getitem__


class Known(nn.Module):
    """A network that knows the Gaussian: what it tells of ``alpha x + sigma e`` is exact."""

    def __init__(self, tells: str, levels: Callable[[float], tuple[float, float]]) -> None:
        super().__init__()
        self.tells, self.levels = tells, levels
        self.config = Settings(in_channels=3, out_channels=3, sample_size=4)

    def forward(self, x: Tensor, timestep: Tensor) -> Any:
        alpha, sigma = self.levels(float(timestep[0]))
        clean = alpha * VARIANCE * x / (alpha**2 * VARIANCE + sigma**2)
        noise = (x - alpha * clean) / sigma
        told = {"sample": clean, "epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "flow": noise - clean}
        return SimpleNamespace(sample=told[self.tells])


def known(tells: str) -> LatentPrior:
    def step(output: Tensor, time: Tensor, x: Tensor) -> None:
        raise AssertionError

    if tells == "flow":
        scheduler: Any = type("FlowMatchFake", (), {})()
        scheduler.config, scheduler.step = Settings(num_train_timesteps=1000), step
        net = Known(tells, lambda time: (1 - time / 1000, time / 1000))
    else:
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
        scheduler = SimpleNamespace(alphas_cumprod=kept, config=Settings(prediction_type=tells), step=step)
        ratios = torch.logit(kept.double()).numpy()

        def levels(time: float) -> tuple[float, float]:
            ratio = torch.tensor(np.interp(time, np.arange(1000), ratios))
            return float(ratio.sigmoid().sqrt()), float((-ratio).sigmoid().sqrt())

        net = Known(tells, levels)
    pipeline = Pipeline(net, scheduler, None, Condition({}), steps=1, precision="auto", offload=False)
    return LatentPrior(pipeline, None, [])


@pytest.mark.parametrize("tells", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_gaussian_is_denoised_in_closed_form(tells: str) -> None:
    """Whatever the network predicts, at times between those of its training: the mean, and the covariance."""
    prior, code = known(tells), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    direction, variance = code.flip(0), VARIANCE / prior.pipeline.scale**2
    for t in (0.1, 0.37, 0.8):
        spread = t * t * variance + (1 - t) ** 2
        torch.testing.assert_close(prior.denoise(code, t), t * variance * code / spread, rtol=1e-3, atol=1e-4)
        expected = variance * (1 - t) ** 2 / spread * direction
        torch.testing.assert_close(prior.covary(direction, t), expected, rtol=1e-3, atol=1e-4)
    assert prior.denoise(code, 0.0).abs().max() < (0.2 if tells != "flow" else 1e-5)  # of noise alone: about the mean
    assert bool(prior.covary(direction, 0.0).isfinite().all())


@pytest.mark.parametrize("tells", ["epsilon", "flow"])
def test_samples_are_tilted_by_one_over_t(tells: str) -> None:
    """A Gaussian times ``exp(a / (T sigma))`` is the same Gaussian, its mean activation higher by ``sigma / T``."""
    prior, seeds = known(tells), range(400)
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(2))
    sigma = (weight.square() * VARIANCE / prior.pipeline.scale**2).sum().sqrt()

    def slope(code: Tensor, _step: int) -> tuple[Tensor, Tensor]:
        return (code * weight).sum((1, 2, 3)), weight.expand_as(code)

    settings = AscentSettings(rule="sample", steps=40, inner=1, pull=1e9, temperature=0.5, churn=0.0)
    noise = prior.start(len(seeds), seeds)
    codes = sample(prior, noise, settings, seeds, sigma.expand(len(seeds)), slope, lambda *_: None)
    activation = slope(codes, 0)[0] / sigma
    assert float(activation.mean()) == pytest.approx(2, rel=0.12)
    assert float(activation.std()) == pytest.approx(1, rel=0.12)


def folder(path: Path, **parts: Any) -> Path:
    """An index alone."""
    path.mkdir(exist_ok=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", "requires": True, **parts}))
    return path


UNET, SCHEDULER = ["diffusers", "UNet2DModel"], ["diffusers", "DDPMScheduler"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"unet": UNET}, "but no scheduler"),
        ({"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}, "holds safety_checker, but no unet"),
        ({"unet": ["mine", "Net"], "scheduler": SCHEDULER}, "code of its own (mine.Net)"),
        ({"_class_name": ["pipeline", "Mine"], "unet": UNET, "scheduler": SCHEDULER}, "code of its own"),
        ({}, "holds nothing"),
    ],
)
def test_what_is_no_pipeline_is_refused_before_it_is_loaded(
    parts: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(DgnError) as refused:
        dgn.load_prior(folder(tmp_path / "pipe", **parts))
    assert expected in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_says_its_licence(tmp_path: Path) -> None:
    """Of a model card's front matter, not of its text; and what the weights are called."""
    path = folder(tmp_path, unet=UNET, scheduler=SCHEDULER, safety_checker=["stable_diffusion", "Checker"])
    assert read_folder(path).licence is None and "names no licence" in read_folder(path).note
    card = "---\nlicense: {}\ntags:\n- art\n---\nlicense: mit\n"
    (path / "README.md").write_text(card.format("openrail++"))
    assert read_folder(path).licence == "openrail++" and "'openrail++'" in read_folder(path).note
    (path / "README.md").write_text(card.format("other\nlicense_name: sai-nc-community"))
    assert read_folder(path).licence == "sai-nc-community"
    (path / "unet").mkdir()
    (path / "unet" / "diffusion_pytorch_model.fp16.safetensors").touch()
    held = read_folder(path)
    assert (held.parts, held.unused, held.variant) == (("unet", "scheduler"), ("safety_checker",), "fp16")
    (path / "model_index.json").write_text("[]")
    with pytest.raises(DgnError, match="no index"):
        read_folder(path)
    (path / "model_index.json").unlink()
    assert not is_pipeline(path)
    with pytest.raises(DgnError, match=r"no generator\.safetensors, and no model_index\.json"):
        dgn.load_prior(path)
    (path / "unet" / "config.json").touch()
    with pytest.raises(DgnError, match=r"lacks model_index\.json"):
        dgn.load_prior(path)


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = {"text_encoder": ["transformers", "CLIPTextModel"]}
    path = folder(tmp_path, unet=UNET, scheduler=SCHEDULER, **text)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else name)
    with pytest.raises(DgnError, match=rf"needs {package}; run: pip install 'dgn\[extra\]'"):
        dgn.load_prior(path)


# --- tiny pipelines of diffusers ---------------------------------------------------------------------------------


def unet(**more: Any) -> Any:
    from diffusers import UNet2DModel

    form = {
        "sample_size": 16, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
    }  # fmt: skip
    return UNet2DModel(**{**form, **more})


def vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=16,
    )  # fmt: skip


def transformer() -> Any:
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4,
    )  # fmt: skip
    for parameter in net.parameters():  # its last layers begin at zero
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return net


def text_unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    form = {
        "sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": 16,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 2,
    }  # fmt: skip
    return UNet2DConditionModel(**{**form, **more})


def text(path: Path, projected: bool = False) -> tuple[Any, Any]:
    """A tokenizer of letters and a text encoder."""
    import transformers

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    path.mkdir(exist_ok=True)
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    form = transformers.CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2, vocab_size=54,
        max_position_embeddings=16, projection_dim=16, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return transformers.CLIPTokenizer.from_pretrained(str(path), model_max_length=16), kind(form)


def stable(path: Path, scheduler: Any, net: Any = None, kind: str = "StableDiffusionPipeline") -> Any:
    import diffusers

    tokenizer, encoder = text(path / "tokens")
    return getattr(diffusers, kind)(
        vae(), encoder, tokenizer, net or text_unet(), scheduler, None, None, requires_safety_checker=False
    )


def build(path: Path, name: str) -> Path:
    """One pipeline's folder."""
    import diffusers as d

    torch.manual_seed(0)
    path.mkdir(parents=True, exist_ok=True)
    if name == "xl":
        (tokenizer, encoder), (other, second) = text(path / "tokens"), text(path / "others", projected=True)
        net = text_unet(
            addition_embed_type="text_time", addition_time_embed_dim=8, cross_attention_dim=32,
            projection_class_embeddings_input_dim=16 + 6 * 8,
        )  # fmt: skip
        steps = d.EulerAncestralDiscreteScheduler(timestep_spacing="trailing")
        pipe = d.StableDiffusionXLPipeline(vae(), encoder, second, tokenizer, other, net, steps, add_watermarker=False)
    else:
        makers: dict[str, Callable[[], Any]] = {
            "ddim": lambda: d.DDIMPipeline(unet(), d.DDIMScheduler()),
            "ddpm": lambda: d.DDPMPipeline(unet(out_channels=6), d.DDPMScheduler(variance_type="learned_range")),
            "classes": lambda: d.ConsistencyModelPipeline(unet(num_class_embeds=5), d.CMStochasticIterativeScheduler()),
            "dit": lambda: d.DiTPipeline(transformer(), vae(), d.DDIMScheduler()),
            "pndm": lambda: stable(path, d.PNDMScheduler(skip_prk_steps=True, steps_offset=1)),
            "solver": lambda: stable(path, d.DPMSolverMultistepScheduler(prediction_type="v_prediction")),
            "turbo": lambda: stable(path, d.EulerDiscreteScheduler(timestep_spacing="trailing")),
            "tcd": lambda: stable(path, d.TCDScheduler()),
            "lcm": lambda: stable(
                path, d.LCMScheduler(), text_unet(time_cond_proj_dim=8), "LatentConsistencyModelPipeline"
            ),
        }
        pipe = makers[name]()
    pipe.save_pretrained(path / "pipe")
    return path / "pipe"


def loaded(path: Path) -> Any:
    """By diffusers, to be called itself."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(str(path))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fixed(n: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(0) for _ in range(n)]


def noise(*shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))


DRAWN = {"ddim", "dit"}
"""Pipelines whose call takes no noise, but draws it."""
CALLS = [
    ("ddim", {"steps": 3}, {}),
    ("classes", {"class_label": 2}, {"class_labels": [2, 2], "batch_size": 2}),
    ("classes", {"class_label": 2, "steps": 3}, {"class_labels": [2, 2], "batch_size": 2}),
    ("dit", {"steps": 3}, {"class_labels": [1000, 1000], "guidance_scale": 1}),
    ("dit", {"steps": 3, "class_label": 7, "guidance": 4.0}, {"class_labels": [7, 7], "guidance_scale": 4.0}),
    ("pndm", {}, {"prompt": ["", ""], "guidance_scale": 0}),
    ("pndm", {"prompt": "a cat", "guidance": 3}, {"prompt": ["a cat"] * 2, "guidance_scale": 3}),
    ("solver", {"prompt": "a cat"}, {"prompt": ["a cat"] * 2, "guidance_scale": 1}),
    ("turbo", {"prompt": "dog"}, {"prompt": ["dog"] * 2, "guidance_scale": 0}),
    ("turbo", {"steps": 3}, {"prompt": [""] * 2, "guidance_scale": 0}),
    ("tcd", {}, {"prompt": [""] * 2, "guidance_scale": 0}),
    ("lcm", {"prompt": "dog"}, {"prompt": ["dog"] * 2}),
    ("xl", {}, {"prompt": [""] * 2, "guidance_scale": 0}),
    ("xl", {"prompt": "dog", "guidance": 2, "steps": 2}, {"prompt": ["dog"] * 2, "guidance_scale": 2}),
]


@pytest.mark.needs("diffusers", "transformers")
@pytest.mark.parametrize(("name", "options", "call"), CALLS)
def test_decoding_is_the_pipelines_own_call(
    name: str, options: dict[str, Any], call: dict[str, Any], tmp_path: Path
) -> None:
    path = build(tmp_path, name)
    prior = dgn.load_prior(path, options=options)
    assert isinstance(prior, PipelinePrior)
    pipeline = prior.space.pipeline
    code = noise(*pipeline.shape)
    given: dict[str, Any] = {"latents": code.clone(), "generator": fixed()}
    if name in DRAWN:
        given = {"generator": torch.Generator().manual_seed(3)}
        call = {"batch_size": 2, **call} if name == "ddim" else call
    own = loaded(path)(**call, **given, num_inference_steps=pipeline.steps, output_type="pt").images
    images = prior.decode(code)
    assert images.shape == (2, prior.channels, *prior.size) and float(own.std()) > 0.05
    torch.testing.assert_close(images, own, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior.decode(code[1:]), own[1:], rtol=1e-4, atol=1e-4)  # whatever is beside it


@pytest.mark.needs("diffusers")
def test_flow_matching_leads_to_a_gaussians_latents() -> None:
    """In many steps of its scheduler each element of the noise times its standard deviation."""
    import diffusers

    pipeline = known("flow").pipeline
    scheduler, code = diffusers.FlowMatchEulerDiscreteScheduler(), noise(3, 4, 4)
    way = Pipeline(pipeline.net, scheduler, None, Condition({}), steps=400, precision="auto", offload=False)
    torch.testing.assert_close(way.generate(code), VARIANCE.sqrt() * code, rtol=0.02, atol=1e-4)


@pytest.mark.needs("diffusers")
def test_ddpm_takes_few_steps(tmp_path: Path) -> None:
    """Its own scheduler draws noise a thousand times; DDIM's goes the same way in eight steps, without."""
    import diffusers

    path = build(tmp_path, "ddpm")
    pipe, code = loaded(path), noise(3, 16, 16)
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(8)
    x = code
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(pipe.unet(x, t).sample[:, :3], t, x).prev_sample
    torch.testing.assert_close(dgn.load_prior(path).decode(code), (x / 2 + 0.5).clamp(0, 1))


@pytest.mark.needs("diffusers")
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_clean_image_is_the_schedulers_own(kind: str, tmp_path: Path) -> None:
    """At a time of its training, of the same mixture of image and noise."""
    import diffusers

    net, scheduler = unet(), diffusers.DDIMScheduler(prediction_type=kind)
    diffusers.DDIMPipeline(net, scheduler).save_pretrained(tmp_path)
    prior = dgn.load_prior(tmp_path).sampled()
    assert isinstance(prior, LatentPrior)
    scheduler.set_timesteps(1000)
    for time in (20, 400, 900):
        kept = float(scheduler.alphas_cumprod[time])
        x = noise(3, 16, 16)
        with torch.no_grad():
            told = scheduler.step(net.eval()(x, time).sample, time, x).pred_original_sample
        clean = prior.pipeline.denoise(3 * x, 3 * kept**0.5, 3 * (1 - kept) ** 0.5)  # of whatever length
        torch.testing.assert_close(clean, told, rtol=1e-3, atol=1e-3)


@pytest.mark.needs("diffusers")
def test_a_consistency_models_clean_image_is_its_one_step(tmp_path: Path) -> None:
    prior = dgn.load_prior(build(tmp_path, "classes"), options={"class_label": 1})
    assert isinstance(prior, PipelinePrior)
    code, pipeline = noise(3, 16, 16), prior.space.pipeline
    torch.testing.assert_close(pipeline.denoise(code, 0.0, 1.0), pipeline.generate(code), rtol=1e-3, atol=1e-3)
    nearly = pipeline.denoise(0.5 * code, 1.0, 0.002)  # at the least noise it gives what it is given
    torch.testing.assert_close(nearly, (0.5 * code).clamp(-1, 1), rtol=1e-3, atol=1e-3)


@pytest.mark.needs("diffusers")
def test_gradients_are_those_without_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a step's features are not kept for them: a way of eight steps holds as many tensors as one of two."""
    path, held = build(tmp_path, "ddim"), []
    for steps in (2, 8):
        prior = dgn.load_prior(path, options={"steps": steps})
        code, sizes = noise(3, 16, 16).requires_grad_(), []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel() * (tensor.requires_grad or tensor.grad_fn is not None))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            images = prior.decode(code)
        held.append(sum(sizes) / steps / code.numel())
        (slope,) = torch.autograd.grad((images * noise(3, 16, 16)).sum(), code)
    assert max(held) < 8  # of a code's size, a step; a pass of this network keeps hundreds
    model = "dgn.priors.others.pipeline.model"
    with monkeypatch.context() as patched:
        patched.setattr(f"{model}.checkpoint", lambda f, *given, **_: f(*given))
        (plain,) = torch.autograd.grad((prior.decode(code) * noise(3, 16, 16)).sum(), code)
    assert float(plain.norm()) > 0.1
    torch.testing.assert_close(slope, plain)
    monkeypatch.setattr(f"{model}.PIXELS_TOGETHER", 1)  # an image at a time
    (each,) = torch.autograd.grad((prior.decode(code) * noise(3, 16, 16)).sum(), code)
    assert float((each - plain).norm() / plain.norm()) < 0.01


@pytest.mark.needs("diffusers")
def test_units_are_climbed_and_sampled(tmp_path: Path, network: Network) -> None:
    path = build(tmp_path, "dit")
    prior = dgn.load_prior(path, options={"steps": 2}, size=24)
    assert prior.size == (24, 24)
    common = {"prior": prior, "seeds": [0, 1], **STILL}
    climbed = dgn.synthesize(network, ["ant"], steps=15, **common)
    assert climbed.images.shape == (2, 3, 24, 24)
    assert bool((climbed.history[-1] > climbed.history[0]).all())
    assert climbed.codes.flatten(1).norm(dim=1).tolist() == pytest.approx([256**0.5] * 2)
    assert any("names no licence" in note for note in climbed.notes)
    pulled, free = (
        dgn.synthesize(network, ["ant"], rule="sample", steps=8, temperature=heat, **common) for heat in (0.01, 1e6)
    )
    assert bool((pulled.activations > free.activations).all()) and pulled.settings.rule == "sample"


@pytest.mark.needs("diffusers")
def test_own_codes_are_those_of_its_images(tmp_path: Path) -> None:
    """Few, always the same, decoded to the pipeline's own images; pixels are encoded without loss."""
    prior = dgn.load_prior(build(tmp_path, "ddim"), options={"steps": 2})
    space = prior.sampled()
    assert isinstance(space, LatentPrior)
    codes = space.real_codes(128)
    assert codes.shape == (32, 3, 16, 16) and torch.equal(codes[:4], space.real_codes(4))
    torch.testing.assert_close(space.decode(codes[:3]), prior.decode(space.start(3, range(3))), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(space.convert(space.start(2, range(2)), "noise"), codes[:2], rtol=1e-4, atol=1e-4)
    with pytest.raises(DgnError, match="coordinates are none"):
        prior.convert(codes, "latents")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(space.decode(space.encode(images)), images)
    typical = (codes - codes.mean(0)).flatten(1).square().sum(1).mean().sqrt()
    near = (space.within(50 * codes[:2], 1.0) - codes.mean(0)).flatten(1).norm(dim=1)
    assert near.tolist() == pytest.approx([float(typical)] * 2, rel=1e-4)


@pytest.mark.needs("diffusers", "transformers")
def test_a_folder_as_it_is_downloaded(tmp_path: Path) -> None:
    """Weights of 16 bits alone, under their name; a safety checker, of which no file is read; all in one folder."""
    path, half = build(tmp_path, "turbo"), tmp_path / "half"
    pipe = loaded(path).to(torch.float16)
    pipe.save_pretrained(half, variant="fp16")
    index = json.loads((half / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (half / "model_index.json").write_text(json.dumps(index))
    whole, halved = (dgn.load_prior(place, options={"prompt": "cat"}) for place in (path, half))
    code = noise(4, 8, 8)
    images = halved.decode(code)
    assert images.dtype == torch.float32 and float(images.std()) > 0.05
    torch.testing.assert_close(images, whole.decode(code), rtol=0, atol=0.02)
    flat = build(tmp_path / "flat", "ddim")
    before = dgn.load_prior(flat).decode(noise(3, 16, 16))
    for part in ("unet", "scheduler"):
        for file in (flat / part).iterdir():
            file.rename(flat / file.name)
        (flat / part).rmdir()
    assert torch.equal(dgn.load_prior(flat).decode(noise(3, 16, 16)), before)


@pytest.mark.needs("diffusers", "transformers")
def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    plain, dit, classes = (build(tmp_path / name, name) for name in ("ddim", "dit", "classes"))
    stable_path = build(tmp_path / "turbo", "turbo")
    for path, options, expected in [
        (plain, {"prompt": "cat"}, "no text encoder"),
        (plain, {"class_label": 1}, "this pipeline has none"),
        (plain, {"steps": 0}, "options.steps is 0"),
        (plain, {"steps": 2000}, "options.steps is 2000: DDIMScheduler can't"),
        (classes, {"class_label": 1, "guidance": float("inf")}, "expected a scale above 1"),
        (classes, {"class_label": 1, "guidance": True}, "expected a scale above 1"),
        (plain, {"colour": 1}, "does not take these options"),
        (plain, {"precision": "int8"}, "expected auto, fp32"),
        (classes, {}, "give options.class_label=INDEX, from 0 to 4"),
        (classes, {"class_label": 5}, "expected 0 to 4"),
        (dit, {"guidance": 4}, "needs options.class_label"),
        (stable_path, {"class_label": 1}, "this one takes a prompt"),
        (stable_path, {"prompt": "a " * 20}, "22 tokens, the pipeline reads 16"),
    ]:
        with pytest.raises(DgnError) as refused:
            dgn.load_prior(path, options=options)
        assert expected in str(refused.value) and "\n" not in str(refused.value)
    import diffusers

    weights = plain / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DgnError, match="diffusers can't load"):
        dgn.load_prior(plain)
    masked = stable(tmp_path / "turbo", diffusers.DDIMScheduler(), text_unet(in_channels=9))
    masked.save_pretrained(tmp_path / "masked")
    with pytest.raises(DgnError, match="takes 9 channels, of which noise has 4: the others are a mask"):
        dgn.load_prior(tmp_path / "masked")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.place}'",)


@pytest.mark.needs("diffusers", "transformers")
@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_pickled_weights_are_not_opened(part: str, tmp_path: Path) -> None:
    """Tensors alone with ``trust``, anything else never."""
    path = build(tmp_path, "turbo")
    weights, place = path / f"{part}.safetensors", tmp_path / "exploded"
    state = load_file(weights)
    weights.unlink()
    name = "pytorch_model.bin" if part.startswith("text") else "diffusion_pytorch_model.bin"
    torch.save(state, weights.parent / name)
    assert dgn.load_prior(path, trust=True).size == (16, 16)
    torch.save({**state, "bomb": Bomb(place)}, weights.parent / name)
    for trust, expected in ((False, "is pickled: download"), (True, "diffusers can't load")):
        with pytest.raises(DgnError, match=expected):
            dgn.load_prior(path, trust=trust)
    assert not place.exists()


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"offload": True}, {"precision": "fp16", "offload": True}])
def test_on_a_gpu_in_half_precision(options: dict[str, Any], tmp_path: Path) -> None:
    """Near to the CPU's images and gradients; with ``offload`` one part is there at a time."""
    pytest.importorskip("diffusers")
    path = build(tmp_path, "dit")
    shown = []
    for device in ("cpu", "cuda"):
        prior = dgn.load_prior(path, options={"steps": 3, **options}).to(device)
        code = noise(4, 8, 8).to(device).requires_grad_()
        images = prior.decode(code)
        (slope,) = torch.autograd.grad(images.sum(), code)
        shown.append((images.detach().cpu(), slope.cpu()))
    assert isinstance(prior, PipelinePrior)
    pipeline = prior.space.pipeline
    assert pipeline.dtype in (torch.bfloat16, torch.float16)
    places = {next(part.parameters()).device.type for part in (pipeline.net, pipeline.vae)}
    assert places == ({"cpu", "cuda"} if options.get("offload") else {"cuda"})
    torch.testing.assert_close(shown[1][0], shown[0][0], rtol=0, atol=0.05)
    assert float(torch.cosine_similarity(shown[0][1].flatten(), shown[1][1].flatten(), dim=0)) > 0.98


@pytest.mark.needs("diffusers")
def test_the_command(tmp_path: Path, small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Both uses; the licence stands in the manifest."""
    path = build(tmp_path, "ddim")
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    pipe = ["prior=pipeline", f"prior.pipeline.path={path}", "prior.pipeline.options.steps=2", "tracking=off"]
    for rule in ("adam", "sample"):
        out = tmp_path / rule
        words = ["synthesize", *small, *pipe, "units=[1]", "ascent.steps=2", f"ascent.rule={rule}", f"out={out}"]
        assert main(words) == 0
        manifest = json.loads((out / "manifest.json").read_text())
        assert any("'apache-2.0'" in line for line in manifest["warnings"]) and manifest["weights"]
    capsys.readouterr()
    assert main(["synthesize", *small, "prior=pipeline", "units=[1]", "tracking=off"]) == 2
    assert "prior.pipeline.path" in capsys.readouterr().err
