"""Others' generators as priors: DeePSiM, BigGAN, diffusers' autoencoders, exported and one's own modules.

Nothing is downloaded: each loader reads files, says where to get them when they are missing, and unpickles nothing
but tensors; of exported programs, see :mod:`dgn.network.programs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgn.errors import DgnError, nearest
from dgn.files.storage import read_tensors
from dgn.network import adapt
from dgn.network.programs import load_program
from dgn.priors.base import Prior, seeded_normal


class ModulePrior(Prior):
    """Any differentiable module that turns codes into images.

    Args:
        module: ``[n, *code_shape]`` -> images ``[n, 3, H, W]``; frozen here.
        code_shape: of one code.
        low, high: of the pixels that the module gives; they are mapped to [0, 1] and clipped.
        bounds: of each element of the code: ``project`` clips to them; with ``sigmas``, to that many ``spread``.
        spread: standard deviation of the start codes.
        encode: images in [0, 1] -> codes, where there is a way back.
        size: pixels asked of the final image; the module's images are scaled to it. None: as they come.
        family, ascent: see :class:`dgn.priors.base.Prior`.
    """

    def __init__(
        self,
        module: nn.Module,
        code_shape: Sequence[int],
        *,
        name: str = "module",
        low: float = 0.0,
        high: float = 1.0,
        bounds: tuple[float, float] = (-3.0, 3.0),
        spread: float = 1.0,
        encode: Callable[[Tensor], Tensor] | None = None,
        size: int | None = None,
        family: str = "other",
        ascent: Mapping[str, Any] | None = None,
    ) -> None:
        if not code_shape or min(code_shape) < 1 or high <= low or bounds[1] <= bounds[0]:
            raise DgnError(f"code_shape {tuple(code_shape)}, pixels {low} to {high}, bounds {bounds}: these can't work")
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        if isinstance(module, torch.jit.ScriptModule):
            module.eval()
        else:
            for part in module.modules():
                part.training = False  # an exported program refuses eval()
        self.module = module
        self.code_shape, self.name = tuple(int(side) for side in code_shape), name
        self.low, self.high, self.bounds, self.spread, self._encode = low, high, bounds, spread, encode
        self.family, self.ascent = family, ascent or {}
        self._device: torch.device | str = "cpu"
        self._size, self.encodes = size, encode is not None
        self.channels, self.size = 3, (0, 0)
        try:
            with torch.no_grad():
                image = self.decode(self.start(2))
        except DgnError:
            raise
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DgnError(f"prior {name!r} failed on a code {list(self.code_shape)}: {first}") from error
        if image.dim() != 4:
            raise DgnError(f"prior {name!r} gave {list(image.shape)}, expected images [n, 3, H, W]")
        self.channels, self.size = image.shape[1], (image.shape[2], image.shape[3])

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        code = self.spread * seeded_normal(self.code_shape, range(n) if seeds is None else seeds, self._device)
        return self.project(code)

    def decode(self, code: Tensor) -> Tensor:
        image = self.pixels(self.module, code)
        image = ((image.float() - self.low) / (self.high - self.low)).clamp(0, 1)
        if self._size is not None and image.shape[2] != self._size:
            shrinks = image.shape[2] > self._size
            image = F.interpolate(
                image, size=(self._size, self._size), mode="bilinear", antialias=shrinks, align_corners=False
            )
        return image

    def pixels(self, module: nn.Module, code: Tensor) -> Tensor:
        """What the module makes of a code, in its own pixel range."""
        output = module(code)
        if isinstance(output, Mapping):
            output = next(iter(output.values()))
        output = getattr(output, "sample", output)
        return output[0] if isinstance(output, (tuple, list)) else output

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        low, high = self.bounds if sigmas is None else (-sigmas * self.spread, sigmas * self.spread)
        return code.clamp(max(low, self.bounds[0]), min(high, self.bounds[1]))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images) if self._encode is None else self._encode(images)

    def reencode(self, code: Tensor) -> Tensor:
        return super().reencode(code) if self._encode is None else self.encode(self.decode(code))

    def weights(self) -> dict[str, Tensor]:
        return dict(self.module.state_dict())

    def to(self, device: torch.device | str) -> ModulePrior:
        self.module.to(device)
        self._device = device
        return self


# --- Dosovitskiy & Brox 2016 ---------------------------------------------------------------------------------

DEEPSIM_MEAN = (104.0, 117.0, 123.0)
"""Blue, green, red, taken off the pixels in [0, 255] that these generators make."""

_LAYERS = (
    ("deconv5", 4, 256, 256), ("conv5_1", 3, 256, 512), ("deconv4", 4, 512, 256), ("conv4_1", 3, 256, 256),
    ("deconv3", 4, 256, 128), ("conv3_1", 3, 128, 128), ("deconv2", 4, 128, 64), ("deconv1", 4, 64, 32),
    ("deconv0", 4, 32, 3),
)  # fmt: skip


class DeePSiM(nn.Module):
    """The generators of Dosovitskiy & Brox (2016, arXiv 1602.02644), as Nguyen et al. 2016 used them.

    Args:
        layer: whose code it inverts: ``"fc6"``, ``"fc7"`` (``[n, 4096]``), ``"fc8"`` (``[n, 1000]``) or ``"pool5"``
            (``[n, 256, 6, 6]``). Images are ``[n, 3, 256, 256]``, blue first, the mean taken off.
        width: share of the channels and of the 4096 that is built (1: the published size).
    """

    def __init__(self, layer: str = "fc6", width: float = 1.0) -> None:
        super().__init__()
        if layer not in ("fc6", "fc7", "fc8", "pool5"):
            raise DgnError(f"no DeePSiM generator for {layer!r}{nearest(layer, ['fc6', 'fc7', 'fc8', 'pool5'])}")
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
        for index, (name, kernel, _, outputs) in enumerate(_LAYERS):
            inputs = before
            before = wide(outputs)
            stride = 2 if kernel == 4 else 1
            parts[name] = nn.ConvTranspose2d(inputs, before, kernel, stride, 1)
            if index == len(_LAYERS) - 1:
                break
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
    known = ("fc6", "fc7", "fc8", "pool5")
    layer = layer or next((name for name in known if name in path.stem.lower()), "fc6")
    state = {key.replace(".1.", ".").replace("module.", ""): value for key, value in read_tensors(path).items()}
    width = next((value.shape[0] for key, value in state.items() if key.endswith("conv5_1.weight")), 256) / 256
    module = DeePSiM(layer, width)
    own = module.state_dict()
    found = {}
    for key, value in own.items():
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


# --- BigGAN --------------------------------------------------------------------------------------------------


class _BigGanPrior(ModulePrior):
    """Code: the noise, then a class embedding of the same generator, both free to move."""

    def __init__(self, module: nn.Module, truncation: float, noise: int, embedding: int, **more: Any) -> None:
        self.truncation, self.noise, self.embedding = truncation, noise, embedding
        self._classes = module.embeddings.weight.detach().T  # type: ignore[union-attr,operator]
        super().__init__(module, (noise + embedding,), low=-1.0, bounds=(-2.0 * max(truncation, 0.5), 2.0), **more)

    def pixels(self, module: nn.Module, code: Tensor) -> Tensor:
        return module.generator(code, self.truncation)  # type: ignore[union-attr,operator]

    def start(self, n: int, seeds: Sequence[int] | None = None) -> Tensor:
        """Truncated noise, and the mean class embedding with a little of one class, drawn by the seed."""
        seeds = range(n) if seeds is None else seeds
        noise = self.truncation * seeded_normal((self.noise,), seeds, self._device).clamp(-2, 2)
        classes = self._classes.to(self._device)
        place = torch.tensor([seed * 7919 % len(classes) for seed in seeds], device=self._device)
        return torch.cat([noise, (classes.mean(0) + 0.2 * (classes[place] - classes.mean(0)))], 1)

    def project(self, code: Tensor, sigmas: float | None = None) -> Tensor:
        edge = 2 * self.truncation
        classes = self._classes.to(code.device)
        mean, spread = classes.mean(0), classes.std(0) * (3.0 if sigmas is None else sigmas)
        noise, embedding = code.split([self.noise, self.embedding], 1)
        return torch.cat(
            [noise.clamp(-edge, edge), torch.minimum(torch.maximum(embedding, mean - spread), mean + spread)], 1
        )


def load_biggan(path: Path, *, truncation: float = 0.4, size: int | None = None) -> Prior:
    """BigGAN (Brock et al. 2019) as the package ``pytorch-pretrained-biggan`` builds it.

    Args:
        path: a folder with ``config.json`` and ``pytorch_model.bin`` (or ``model.safetensors``), of biggan-deep-128,
            -256 or -512.
        truncation: of the noise, above 0 up to 1.
        size: pixels of the images; None for the generator's own.
    """
    if not 0 < truncation <= 1:
        raise DgnError(f"truncation is {truncation}, expected above 0, at most 1")
    weights = next(
        (path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()), None
    )
    if weights is None or not (path / "config.json").is_file():
        raise DgnError(
            f"no BigGAN in {str(path)!r}; put config.json and pytorch_model.bin of biggan-deep-128 "
            "(s3.amazonaws.com/models.huggingface.co/biggan) there and give prior.NAME.weights=FOLDER"
        )
    try:
        from pytorch_pretrained_biggan import BigGAN, BigGANConfig
    except ImportError as error:
        raise DgnError("BigGAN needs its package; run: pip install pytorch-pretrained-biggan") from error
    try:
        config = BigGANConfig.from_json_file(str(path / "config.json"))
        module = BigGAN(config)
    except Exception as error:
        raise DgnError(f"{str(path / 'config.json')!r} describes no BigGAN: {str(error).splitlines()[0]}") from error
    try:
        found = module.load_state_dict(read_tensors(weights), strict=False)
    except RuntimeError as error:
        raise DgnError(
            f"the weights {str(weights)!r} don't fit their config.json: {str(error).splitlines()[-1]}"
        ) from error
    if found.missing_keys:
        raise DgnError(f"{str(weights)!r} is no BigGAN of its config.json: it lacks {found.missing_keys[0]!r}")
    return _BigGanPrior(
        module, truncation, config.z_dim, config.z_dim, name="biggan", size=size,
        family="biggan",
    )  # fmt: skip


# --- diffusers, exported programs, one's own -----------------------------------------------------------------


def load_autoencoder(path: Path, *, size: int | None = None) -> Prior:
    """The decoder of a diffusers autoencoder (``AutoencoderKL``, ``AutoencoderTiny``, ``VQModel``, ...).

    Args:
        path: the autoencoder's folder, with ``config.json`` and its ``.safetensors`` weights.
        size: pixels of the images, a multiple of a latent cell's; None for 128.
    """
    if not (path / "config.json").is_file():
        raise DgnError(
            f"no diffusers autoencoder in {str(path)!r}; download one (for example stabilityai/sd-vae-ft-mse) into a "
            "folder and give prior.NAME.weights=FOLDER"
        )
    try:
        import diffusers
    except ImportError as error:
        raise DgnError("an autoencoder needs diffusers; run: pip install diffusers") from error
    import json

    try:
        kind = json.loads((path / "config.json").read_text()).get("_class_name", "AutoencoderKL")
    except (ValueError, AttributeError):
        raise DgnError(f"{str(path / 'config.json')!r} is no configuration of diffusers") from None
    if not str(kind).startswith(("Autoencoder", "VQModel", "ConsistencyDecoderVAE")) or not hasattr(diffusers, kind):
        raise DgnError(f"{str(path)!r} holds a {kind!r}, not an autoencoder that diffusers knows")
    try:
        model = getattr(diffusers, kind).from_pretrained(str(path), use_safetensors=True, local_files_only=True)
    except Exception as error:
        raise DgnError(f"diffusers can't load {str(path)!r}: {str(error).splitlines()[0]}") from error
    model = model.eval().requires_grad_(False)
    size = size or 128
    with torch.no_grad():
        latent = _latent(model.encode(torch.zeros(1, 3, size, size)))
        spread = 1.0 / float(getattr(model.config, "scaling_factor", None) or 1.0)

    def encode(images: Tensor) -> Tensor:
        return _latent(model.encode(images.float() * 2 - 1))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, code: Tensor) -> Tensor:
            return self.model.decode(code).sample  # type: ignore[no-any-return]

    edge = 4 * spread
    return ModulePrior(
        Decoder(), latent.shape[1:], name="autoencoder", low=-1.0, bounds=(-edge, edge), spread=0.3 * spread,
        encode=encode, size=size,
        ascent={"lr": 0.05 * spread},
    )  # fmt: skip


def _latent(output: Any) -> Tensor:
    if hasattr(output, "latent_dist"):
        return output.latent_dist.mode()  # type: ignore[no-any-return]
    return output.latents if hasattr(output, "latents") else output[0]  # type: ignore[no-any-return]


def load_exported(
    path: Path, code_shape: Sequence[int], *, size: int | None = None, trust: bool = False, **options: Any
) -> Prior:
    """A generator as a ``torch.export`` program (``.pt2``) or TorchScript (``.pt``, ``.ts``).

    Args:
        path: the file.
        code_shape: of one code, without the batch axis.
        size, options: see :class:`ModulePrior`.
        trust: whether it may be opened, see :mod:`dgn.network.programs`.
    """
    program = load_program(path, trust=trust)
    module = program.module() if isinstance(program, torch.export.ExportedProgram) else program
    return ModulePrior(module, code_shape, name=path.stem, size=size, **options)


KINDS = ("deepsim", "biggan", "autoencoder", "exported", "module")
"""Names under which ``load_prior`` finds these."""


def load_hub(
    kind: str,
    weights: str | None,
    options: Mapping[str, Any],
    *,
    size: int | None,
    module: nn.Module | None,
    trust: bool,
) -> Prior:
    """One of :data:`KINDS`, from its configuration.

    Args:
        kind: which.
        weights: file or folder.
        options: of its loader, ``code_shape`` above all for exported and one's own modules.
        size: pixels of the images.
        module: one's own, already built.
        trust: whether a program may be opened.
    """
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        if kind == "module":
            if module is None:
                raise DgnError("prior=module needs module._target_=PACKAGE.CLASS and options.code_shape=[...]")
            return ModulePrior(adapt.copied(module), _code_shape(kind, given), size=size, **given)
        if weights is None:
            raise DgnError(f"the prior {kind!r} needs its weights; give prior.NAME.weights=PATH")
        path = Path(weights)
        if kind == "exported":
            return load_exported(path, _code_shape(kind, given), size=size, trust=trust, **given)
        loaders: dict[str, Callable[..., Prior]] = {
            "deepsim": load_deepsim, "biggan": load_biggan, "autoencoder": load_autoencoder,
        }  # fmt: skip
        return loaders[kind](path, size=size, **given)
    except KeyError as error:
        raise DgnError(f"the files of prior {kind!r} lack {error}: are they of another model?") from error
    except TypeError as error:
        raise DgnError(
            f"the prior {kind!r} does not take these options: {str(error).split(')', 1)[-1].strip()}"
        ) from None


def _code_shape(kind: str, options: dict[str, Any]) -> Any:
    if "code_shape" not in options:
        raise DgnError(f"the prior {kind!r} needs options.code_shape=[...], the shape of one code")
    return options.pop("code_shape")
