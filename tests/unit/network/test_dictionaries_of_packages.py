"""Dictionaries that the packages themselves wrote, read and compared with their own encoders."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dgn.network.dictionaries.reading import DictionaryFile

C, F, N = 12, 40, 200
pytestmark = pytest.mark.slow  # SAELens takes seconds to be imported
NEEDED = pytest.mark.needs("overcomplete")
"""The others ask for other versions of much: they are compared with where somebody has them."""


def package(name: str) -> Any:
    """A module of a package, or a skip where it is not installed."""
    plt = importlib.import_module("matplotlib.pyplot")
    colormaps = importlib.import_module("matplotlib").colormaps
    plt.cm.get_cmap = colormaps.get_cmap  # gone since 3.9; overcomplete 0.3 calls it when it is imported
    if name.startswith("dictionary_learning") and "nnsight" not in sys.modules:
        pytest.importorskip("einops")
        if importlib.util.find_spec("nnsight") is None:  # which only its buffers of language models use
            sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=object)  # type: ignore[assignment]
    return pytest.importorskip(name, exc_type=ImportError)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(N, C) * 2 + torch.linspace(-1, 1, C)


def shaken(module: Any) -> Any:
    """All parameters away from where they begin: no bias is 0, no decoder the encoder's transpose."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def same(asked: DictionaryFile, x: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    """Read as a map ``[1, C, 10, 20]``: each place is a row of ``x``; some latents fire, and not all."""
    maps = x.T.reshape(1, C, 10, 20)
    latents = asked.read()[0](maps)
    assert latents.shape == (1, F, 10, 20)
    fires = (expected != 0).float().mean()
    assert 0 < fires < 0.9
    assert torch.allclose(latents.reshape(F, N).T, expected, atol=atol)


ENCODERS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda sae: sae,
    "tied": lambda sae: sae.tied(bias=True),
    "untied": lambda sae: sae.untied(),
}


@NEEDED
@pytest.mark.parametrize("encoder", ENCODERS)
def test_overcomplete_topk(encoder: str, x: Tensor, tmp_path: Path) -> None:
    module = package("overcomplete.sae")
    sae = shaken(ENCODERS[encoder](module.TopKSAE(C, nb_concepts=F, top_k=5))).eval()
    torch.save(sae.state_dict(), tmp_path / "sae.pt")
    same(DictionaryFile("layer", tmp_path / "sae.pt", "topk", k=5), x, sae.encode(x)[1])


@NEEDED
def test_overcomplete_batch_norm(x: Tensor, tmp_path: Path) -> None:
    module = package("overcomplete.sae")
    sae = shaken(module.TopKSAE(C, nb_concepts=F, top_k=5, encoder_module="mlp_bn_1"))
    sae(x)  # its statistics
    torch.save(sae.eval().state_dict(), tmp_path / "sae.pt")
    same(DictionaryFile("layer", tmp_path / "sae.pt", "topk", k=5), x, sae.encode(x)[1])


@NEEDED
def test_overcomplete_batch_topk_and_jumprelu(x: Tensor, tmp_path: Path) -> None:
    module = package("overcomplete.sae")
    batch = shaken(module.BatchTopKSAE(C, nb_concepts=F, top_k=5 * N))
    batch(x), batch.eval()
    torch.save(batch.state_dict(), tmp_path / "batch.pt")
    level = float(batch.running_threshold) - 1e-6  # which it reaches: the package keeps what is not below
    same(DictionaryFile("layer", tmp_path / "batch.pt", "batch_topk", threshold=level), x, batch.encode(x)[1])
    jump = shaken(module.JumpSAE(C, nb_concepts=F)).eval()
    torch.save(jump.state_dict(), tmp_path / "jump.pt")
    same(DictionaryFile("layer", tmp_path / "jump.pt"), x, jump.encode(x)[1])


@NEEDED
@pytest.mark.parametrize("kind", ["NMF", "SemiNMF"])
def test_overcomplete_factorisations(kind: str, x: Tensor, tmp_path: Path) -> None:
    """Fewer latents than features: the codes are unique, and the package's solver goes towards them."""
    module = package("overcomplete.optimization")
    model = getattr(module, kind)(nb_concepts=6)
    torch.manual_seed(0)
    model.fit(x.abs() if kind == "NMF" else x)
    torch.save(model.state_dict(), tmp_path / "codes.pt")
    given = x.abs() if kind == "NMF" else x
    codes = model.encode(given, max_iter=5000, tol=1e-8)
    own = DictionaryFile("layer", tmp_path / "codes.pt").read()[0](given)
    assert torch.allclose(own, codes, atol=5e-3) and bool((own == 0).any())

    def error(z: Tensor) -> float:
        return float((z @ model.D - given).square().sum())

    assert error(own) <= error(codes) * (1 + 1e-5)


@pytest.mark.parametrize("kind", ["standard", "topk", "abstopk", "jumprelu", "gated"])
@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_sae_lens(kind: str, normalize: str, x: Tensor, tmp_path: Path) -> None:
    package("sae_lens.saes")
    registry = package("sae_lens.registry")
    cls, config = registry.get_sae_class(kind)
    more = {"k": 5, "rescale_acts_by_decoder_norm": normalize == "none"} if "topk" in kind else {}
    sae = shaken(cls(config(d_in=C, d_sae=F, normalize_activations=normalize, **more)))
    sae.save_model(tmp_path)
    same(DictionaryFile("layer", tmp_path), x, sae.encode(x))
    sae.cfg.apply_b_dec_to_input = False
    sae.save_model(tmp_path)
    same(DictionaryFile("layer", tmp_path), x, sae.encode(x))


def test_sae_lens_batch_topk_as_it_is_saved_for_inference(x: Tensor, tmp_path: Path) -> None:
    saes = package("sae_lens.saes")
    base = package("sae_lens.saes.sae")
    training = shaken(saes.BatchTopKTrainingSAE(saes.BatchTopKTrainingSAEConfig(d_in=C, d_sae=F, k=5)))
    training.topk_threshold += 1.5
    training.save_inference_model(tmp_path)
    same(DictionaryFile("layer", tmp_path), x, base.SAE.load_from_disk(tmp_path).encode(x))


DICTIONARIES = {
    "AutoEncoder": {}, "AutoEncoderNew": {}, "GatedAutoEncoder": {}, "JumpReluAutoEncoder": {},
    "AutoEncoderTopK": {"k": 5}, "BatchTopKSAE": {"k": 5}, "MatryoshkaBatchTopKSAE": {"k": 5, "group_sizes": [10, 30]},
}  # fmt: skip


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_dictionary_learning(kind: str, x: Tensor, tmp_path: Path) -> None:
    homes = [
        package(f"dictionary_learning.{name}") for name in ("dictionary", "trainers.top_k", "trainers.batch_top_k")
    ]
    homes.append(package("dictionary_learning.trainers.matryoshka_batch_top_k"))
    cls = next(getattr(home, kind) for home in homes if hasattr(home, kind))
    made = shaken(cls(C, F, **DICTIONARIES[kind]))
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        made.threshold += 2.0  # from -1
    torch.save({name: tensor.cpu() for name, tensor in made.state_dict().items()}, tmp_path / "ae.pt")
    trainer = {"dict_class": kind, "trainer_class": "Trainer", "k": DICTIONARIES[kind].get("k")}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    same(DictionaryFile("layer", tmp_path), x, cls.from_pretrained(tmp_path / "ae.pt").encode(x))
