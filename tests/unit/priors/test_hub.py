"""Others' generators, from files of the published form with random weights: loaded, decoded, climbed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dgn
from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.priors.hub import load_exported
from dgn.priors.others.autoencoder import load_autoencoder
from dgn.priors.others.biggan import load_biggan
from dgn.priors.others.deepsim import DEEPSIM_MEAN, DeePSiM, load_deepsim

STILL = {"jitter": 0.0, "scale": 0.0, "noise": 0.0, "precision": "fp32"}
"""No chance inside the loop."""


def vivid(module: DeePSiM) -> DeePSiM:
    """Weights under which the code makes a difference of many grey values."""
    torch.manual_seed(0)
    for name, part in module.parts.items():
        nn.init.kaiming_normal_(part.weight, 0.3)  # type: ignore[arg-type]
        if name == "deconv0":
            part.weight.data *= 40  # type: ignore[operator,union-attr]
    return module


def published(layer: str, width: float = 1 / 64) -> tuple[DeePSiM, dict[str, Tensor]]:
    """A narrow generator, and its weights under the names of the published files."""
    module = vivid(DeePSiM(layer, width))
    state = {}
    for key, value in module.state_dict().items():
        name, kind = key.removeprefix("parts.").rsplit(".", 1)
        state[f"G.{name}.1.{kind}" if name.startswith("conv") else f"G.{name}.{kind}"] = value
    return module, state


def test_deepsim_is_the_published_architecture() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in DeePSiM("fc6").parameters()) == 56_097_891
        assert DeePSiM("pool5")(torch.empty(1, 256, 6, 6)).shape == (1, 3, 256, 256)
        assert DeePSiM("fc8")(torch.empty(1, 1000)).shape == (1, 3, 256, 256)


@pytest.mark.parametrize("layer", ["fc6", "pool5"])
def test_deepsim_from_published_names(layer: str, tmp_path: Path, network: Network) -> None:
    """Renamed keys are matched; blue comes first and the mean is added; the paper's rule climbs it."""
    if layer == "pool5":
        module = vivid(DeePSiM(layer, 1.0 / 64))
        state = {key.replace("parts.", "generator."): value for key, value in module.state_dict().items()}
    else:
        module, state = published(layer)
    path = tmp_path / f"upconvGAN_{layer}.pt"
    torch.save(state, path)
    prior = load_deepsim(path, size=32)
    full = load_deepsim(path)
    code = prior.start(2)
    assert float(code.min()) >= 0 and full.size == (256, 256) and prior.size == (32, 32)
    bgr = module(code)
    rgb = torch.stack([bgr[:, 2] + DEEPSIM_MEAN[2], bgr[:, 1] + DEEPSIM_MEAN[1], bgr[:, 0] + DEEPSIM_MEAN[0]], 1)
    assert torch.allclose(full.decode(code), (rgb / 255).clamp(0, 1), atol=1e-5)
    result = dgn.synthesize(network, "ant", prior=prior, steps=8, lr=1.0)
    assert result.prior == f"deepsim-{layer}" and result.settings.rule == "nguyen2016"
    assert result.history[-1] > result.history[0]


def test_deepsim_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DgnError, match="download upconvGAN"):
        load_deepsim(tmp_path / "upconvGAN_fc6.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "fc6.pt")
    with pytest.raises(DgnError, match="no DeePSiM generator"):
        load_deepsim(tmp_path / "fc6.pt")


@pytest.mark.needs("pytorch_pretrained_biggan")
def test_biggan(tmp_path: Path, network: Network) -> None:
    import pytorch_pretrained_biggan as biggan

    torch.manual_seed(0)
    config = {
        "output_dim": 16, "z_dim": 8, "class_embed_dim": 8, "channel_width": 4, "num_classes": 10,
        "layers": [[False, 16, 16], [True, 16, 8], [True, 8, 4], [False, 4, 2], [False, 2, 1]],
        "attention_layer_position": 99, "eps": 1e-4,
        "n_stats": 51,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    module = biggan.BigGAN(biggan.BigGANConfig.from_dict(config))
    module.generator.bn.weight.data.fill_(0.1)  # the package leaves these two uninitialised
    module.generator.bn.bias.data.zero_()
    for _ in range(30):  # the spectral norms are found while it trains
        module.train()(torch.randn(2, 8), torch.eye(10)[:2], 0.5)
    module.eval()
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    prior = load_biggan(tmp_path, truncation=0.5)
    code = prior.start(3)
    assert float(code[:, :8].abs().max()) <= 1.0
    one_hot = torch.nn.functional.one_hot(torch.tensor([3]), 10).float()
    embedding = module.embeddings(one_hot)
    exact = torch.cat([code[:1, :8], embedding], 1)
    expected = module.eval()(code[:1, :8], one_hot, 0.5)
    assert torch.allclose(prior.decode(exact), (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)
    result = dgn.synthesize(network, "ant", prior=prior, steps=25, lr=0.05, starts=1, **STILL)
    assert result.history[-3:].mean() > result.history[0]
    with pytest.raises(DgnError, match="truncation is 2"):
        load_biggan(tmp_path, truncation=2.0)
    torch.save({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DgnError, match="it lacks"):
        load_biggan(tmp_path)
    with pytest.raises(DgnError, match="put config"):
        load_biggan(tmp_path / "none")


@pytest.mark.needs("diffusers")
def test_autoencoder(tmp_path: Path, network: Network) -> None:
    import diffusers

    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=32,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "vae")
    prior = load_autoencoder(tmp_path / "vae", size=32)
    assert prior.size == (32, 32) and prior.start(2).shape == (2, 4, 16, 16)
    images = torch.rand(2, 3, 32, 32)
    code = prior.encode(images)
    assert torch.allclose(code, model.encode(images * 2 - 1).latent_dist.mode(), atol=1e-5)
    assert torch.allclose(prior.decode(code), (model.decode(code).sample / 2 + 0.5).clamp(0, 1), atol=1e-5)
    result = dgn.synthesize(network, "ant", prior=prior, steps=10, lr=0.5, start=images[0], **STILL)
    assert result.history[-2:].mean() > result.history[0]
    with pytest.raises(DgnError, match="download one"):
        load_autoencoder(tmp_path)
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(DgnError, match="not an autoencoder"):
        load_autoencoder(tmp_path / "vae")


class Painter(nn.Module):
    def __init__(self, side: int = 12) -> None:
        super().__init__()
        self.paint = nn.Linear(5, 3 * side * side)
        self.side = side

    def forward(self, code: Tensor) -> Tensor:
        return torch.tanh(self.paint(code)).unflatten(1, (3, self.side, self.side))


def test_exported_and_scripted(tmp_path: Path, network: Network) -> None:
    module = Painter().eval()
    code = torch.randn(2, 5)
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(module, (code,), dynamic_shapes={"code": {0: batch}}), tmp_path / "painter.pt2"
    )
    torch.jit.trace(module, code).save(str(tmp_path / "painter.ts"))
    for name in ("painter.pt2", "painter.ts"):
        prior = load_exported(tmp_path / name, (5,), low=-1.0, trust=True)
        assert torch.allclose(prior.decode(code), module(code) / 2 + 0.5, atol=1e-6)
        result = dgn.synthesize(network, ["ant", "bee"], prior=prior, steps=10, **STILL)
        assert (result.history[-2:].mean(0) > result.history[0]).all()
    with pytest.raises(DgnError, match="failed on a code"):
        load_exported(tmp_path / "painter.pt2", (6,), trust=True)
    for name, kind in (("bad.pt2", r"no torch\.export"), ("bad.ts", "no TorchScript")):
        (tmp_path / name).write_bytes(b"no")
        with pytest.raises(DgnError, match=kind):
            load_exported(tmp_path / name, (5,), trust=True)


class Lacking(Painter):
    """Looks for what it was not given."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        raise KeyError("z_dim")


def test_what_files_lack_is_not_taken_for_an_option() -> None:
    with pytest.raises(DgnError, match="files of prior 'module' lack 'z_dim'"):
        dgn.load_prior("module", module=Lacking(), options={"code_shape": [5]})


def test_one_by_name_and_configuration(network: Network) -> None:
    prior = dgn.load_prior("module", module=Painter(), options={"code_shape": [5], "low": -1.0}, size=24)
    assert prior.size == (24, 24) and prior.decode(prior.start(1)).shape == (1, 3, 24, 24)
    with pytest.raises(DgnError, match="code_shape"):
        dgn.load_prior("module", module=Painter())
    with pytest.raises(DgnError, match="_target_"):
        dgn.load_prior("module", options={"code_shape": [5]})
    with pytest.raises(DgnError, match="needs its weights"):
        dgn.load_prior("deepsim")
    with pytest.raises(DgnError, match="does not take these options"):
        dgn.load_prior("module", module=Painter(), options={"code_shape": [5], "colour": 1})
