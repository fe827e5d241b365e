"""Dictionaries over a layer: their latents are units; files in every layout, and what is wrong with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

import dgn
from dgn.cli.chosen import network_key
from dgn.cli.main import main
from dgn.cli.words import positional
from dgn.network.dictionaries.dictionary import Dictionary
from dgn.network.dictionaries.reading import DictionaryFile
from dgn.network.facts import described, told

C, F = 4, 6


@pytest.fixture
def network() -> dgn.Network:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, C, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, 3))
    return dgn.Network(body, 16)


@pytest.fixture
def parts() -> dict[str, Tensor]:
    """As SAELens and ViT-Prisma name them."""
    torch.manual_seed(1)
    shapes = {"W_enc": (C, F), "b_enc": (F,), "W_dec": (F, C), "b_dec": (C,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def before(parts: dict[str, Tensor], x: Tensor) -> Tensor:
    return (x - parts["b_dec"]) @ parts["W_enc"] + parts["b_enc"]


def top(values: Tensor, k: int) -> Tensor:
    """By hand: whatever is below the k-th highest of its row is 0, and so is whatever is not above 0."""
    kth = values.sort(dim=-1, descending=True).values[..., k - 1 : k]
    return torch.where(values >= kth, values, torch.zeros(())).clamp(min=0)


def test_a_plain_file_over_a_map(network: dgn.Network, parts: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(parts, tmp_path / "sae.safetensors")
    more = network.with_dictionary("sae", "0", tmp_path / "sae.safetensors", activation="topk", k=2)
    assert more.layers["sae"] == (F, 8, 8) and "sae" not in network.layers
    images = torch.rand(3, 3, 16, 16)
    read = more.features(images, ["0", "sae"])
    expected = top(before(parts, read["0"].movedim(1, -1)), 2).movedim(-1, 1)
    assert torch.allclose(read["sae"], expected, atol=1e-5)
    assert 0 < (expected > 0).float().mean() <= 2 / F
    units = dgn.select_units(["sae:all", "sae:1@max", "sae:1@2,3"], more)
    assert len(units) == F + 2
    found = dgn.find_examples(more, ["sae:1", "sae:1@max"], list(images), k=1)
    means, peaks = expected[:, 1].mean((1, 2)), expected[:, 1].amax((1, 2))
    assert found.units[0].top[0].activation == pytest.approx(float(means.max()), abs=1e-5)
    assert found.units[1].top[0].activation == pytest.approx(float(peaks.max()), abs=1e-5)
    best = expected[int(peaks.argmax()), 1]
    example = found.units[1].top[0]
    assert best[example.position] == best.max()
    whole = dgn.find_examples(more, "0:1", [images[example.index]], k=1)  # the same field as the layer's own
    if whole.units[0].top[0].position == example.position:
        assert whole.units[0].top[0].box == example.box
    assert example.box is not None and example.box[2] - example.box[0] <= 3


def test_the_options_of_a_plain_file(parts: dict[str, Tensor], tmp_path: Path) -> None:
    file, x = tmp_path / "sae.safetensors", torch.randn(50, C)
    save_file(parts, file)
    relu = DictionaryFile("0", file, "relu").read()[0](x)
    assert torch.allclose(relu, before(parts, x).relu(), atol=1e-5)
    uncentred = DictionaryFile("0", file, "relu", center=False).read()[0](x)
    assert torch.allclose(uncentred, (x @ parts["W_enc"] + parts["b_enc"]).relu(), atol=1e-5)
    jump = DictionaryFile("0", file, "jumprelu", threshold=1.5).read()[0](x)
    assert torch.allclose(jump, torch.where(relu > 1.5, relu, torch.zeros(())), atol=1e-5)
    save_file(parts, file, {"activation": "topk", "k": "3"})  # notes, which what is told overrides
    assert torch.allclose(DictionaryFile("0", file).read()[0](x), top(before(parts, x), 3), atol=1e-5)
    assert torch.allclose(DictionaryFile("0", file, k=1).read()[0](x), top(before(parts, x), 1), atol=1e-5)


PRISMA: list[dict[str, Any]] = [
    {"activation_fn_str": "relu", "normalize_activations": "layer_norm"},
    {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}, "normalize_activations": "layer_norm"},
    {"activation_fn_str": "tanh-relu", "normalize_activations": "constant_norm_rescale"},
    {"activation_fn_str": "relu", "architecture": "gated", "normalize_activations": "none"},
]


@pytest.mark.parametrize("options", PRISMA, ids=str)
def test_vit_prisma(options: dict[str, Any], parts: dict[str, Tensor], tmp_path: Path) -> None:
    """``weights.pt`` and ``config.json`` as its ``save_config`` writes it; its formulas are written out here."""
    torch.manual_seed(2)
    if options.get("architecture") == "gated":
        parts |= {name: torch.randn(F) for name in ("b_gate", "r_mag", "b_mag")}
    config = {"model_class_name": "HookedViT", "vit_model_cfg": None, "hook_point_layer": 9, "d_in": C, "d_sae": F,
              "activation_fn_kwargs": {}, "architecture": "standard", "cls_token_only": False,
              "dtype": {"__type__": "torch.dtype", "value": "torch.float32"}, **options}  # fmt: skip
    torch.save(parts, tmp_path / "weights.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    x = torch.randn(7, C, 5) * 3 + 1  # five tokens
    rows = x.movedim(1, -1)
    if options["normalize_activations"] == "layer_norm":
        rows = rows - rows.mean(-1, keepdim=True)
        rows = rows / (rows.std(-1, keepdim=True) + 1e-5)
    elif options["normalize_activations"] == "constant_norm_rescale":
        rows = rows * C**0.5 / rows.norm(dim=-1, keepdim=True)
    hidden = before(parts, rows)
    if "r_mag" in parts:
        own = (rows - parts["b_dec"]) @ parts["W_enc"]
        expected = (own + parts["b_gate"] > 0) * (own * parts["r_mag"].exp() + parts["b_mag"]).relu()
    elif options["activation_fn_str"] == "topk":
        expected = top(hidden, 2)
    else:
        expected = hidden.relu().tanh() if options["activation_fn_str"] == "tanh-relu" else hidden.relu()
    dictionary, encoder = DictionaryFile("blocks.9", tmp_path).read()
    assert encoder.package == "ViT-Prisma"
    assert torch.allclose(dictionary(x), expected.movedim(-1, 1), atol=1e-4)
    assert 0 < (expected > 0).float().mean() < 1


def test_sae_lens_before_version_six(parts: dict[str, Tensor], tmp_path: Path) -> None:
    config = {"d_in": C, "d_sae": F, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2},
              "apply_b_dec_to_input": False, "normalize_activations": False}  # fmt: skip
    save_file(parts, tmp_path / "sae_weights.safetensors")
    save_file({"sparsity": torch.zeros(F)}, tmp_path / "sparsity.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    x = torch.randn(20, C)
    expected = top(x @ parts["W_enc"] + parts["b_enc"], 2)
    assert torch.allclose(DictionaryFile("3", tmp_path).read()[0](x), expected, atol=1e-5)
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "normalize_activations": "expected_average_only_in"}))
    with pytest.raises(dgn.DgnError, match=r"are to be scaled .* normalize=none"):
        DictionaryFile("3", tmp_path).read()
    assert torch.allclose(DictionaryFile("3", tmp_path, normalize="none").read()[0](x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu", "abs_topk", "tanh_relu"])
def test_a_silent_latent_has_the_gradient_of_its_pre_activation(kind: str) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(F, C), torch.randn(2, C, 3, 3, requires_grad=True)
    dictionary = Dictionary(weight, torch.full((F,), -9.0), kind, k=2, threshold=1.0)
    latents = dictionary(x)
    assert torch.equal(latents, dictionary(x.detach()))  # the value is what it is without a gradient
    if kind != "abs_topk":
        assert not latents.any()
    (gradient,) = torch.autograd.grad(latents[:, 3].sum(), x)
    assert torch.allclose(gradient, weight[3][None, :, None, None].expand_as(x))


def test_non_negative_codes() -> None:
    """Of orthogonal directions they are projections; else what scipy's solver finds."""
    torch.manual_seed(0)
    nnls = pytest.importorskip("scipy.optimize").nnls
    weight, x = torch.rand(3, C), torch.randn(8, C) + 0.5
    codes = Dictionary(weight, None, "nnls")(x)
    rows = [nnls(weight.T.double().numpy(), row.double().numpy())[0] for row in x]
    expected = torch.stack([torch.from_numpy(row) for row in rows])
    assert torch.allclose(codes, expected.float(), atol=1e-4) and bool((expected == 0).any())


def test_climbing_begins_where_the_latent_is_silent(network: dgn.Network, tmp_path: Path) -> None:
    """A grey image excites nothing of this dictionary; a latent that can't fire is told."""
    weight = torch.eye(C)
    low = {"W_enc": weight, "b_enc": torch.tensor([-1.0, -1.0, -1.0, -1e6]), "b_dec": torch.zeros(C)}
    save_file(low, tmp_path / "sae.safetensors")
    more = network.with_dictionary("sae", "0", tmp_path / "sae.safetensors", activation="relu")
    grey = torch.full((1, 3, 16, 16), 0.5)
    assert not more.features(grey, ["sae"])["sae"].any()
    result = dgn.synthesize(more, ["sae:1", "sae:2@max", "sae:3"], prior="pixel", steps=60, start=grey[0], lr=0.05)
    assert (result.history[0] == 0).all()
    assert result.activations[1] > 0.05 and result.activations[2] == 0
    assert sum("never fired in 60 steps" in line for line in result.warnings) == 1


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("sae", {"layer": "4"}, "over 4 features, layer '4' has 3"),
        ("sae", {"layer": "9"}, "no layer '9'"),
        ("1", {}, "'1' is no|no layer can be called '1'"),
        ("output", {}, "'output' is a layer of the network already"),
        ("sae", {"activation": "tokp"}, "did you mean 'topk'"),
        ("sae", {"activation": None}, "does not say the activation: give activation=relu"),
        ("sae", {"k": 7}, "k is 7, expected 1 to 6"),
        ("sae", {"activation": "batch_topk"}, "needs a threshold: its file holds none"),
        ("sae", {"file": "gone.safetensors"}, "no weights file"),
        ("sae", {"treshold": 1}, "no key 'treshold' of dictionary 'sae'; did you mean 'threshold'"),
    ],
)
def test_refusals(
    name: str, change: dict[str, Any], says: str, network: dgn.Network, parts: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(parts, tmp_path / "sae.safetensors")
    told_of = {"layer": "0", "file": tmp_path / "sae.safetensors", "activation": "topk", "k": 2, **change}
    with pytest.raises(dgn.DgnError, match=says):
        network.with_dictionary(name, **told_of)


def test_other_files(network: dgn.Network, parts: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"cfg": Path("x"), "state_dict": parts}, tmp_path / "legacy.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save({"encoder.weight": torch.zeros(F, C), "decoder.weight": torch.zeros(C, F)}, tmp_path / "ae.pt")
    for file, says in [("legacy.pt", "are not opened"), ("other.pt", "no known dictionary"), ("ae.pt", "config.json")]:
        with pytest.raises(dgn.DgnError, match=says):
            network.with_dictionary("sae", "0", tmp_path / file)
    for wrong in ({"b_dec": torch.zeros(C + 1)}, {"W_enc": torch.zeros(F)}, {"b_enc": torch.zeros(1, F)}):
        save_file({**parts, **wrong}, tmp_path / "wrong.safetensors")
        with pytest.raises(dgn.DgnError, match=r"makes no sense|has weights"):
            network.with_dictionary("sae", "0", tmp_path / "wrong.safetensors", activation="relu")
    save_file(parts, tmp_path / "sae.safetensors")
    more = network.with_dictionary("sae", "0", tmp_path / "sae.safetensors", activation="relu")
    with pytest.raises(dgn.DgnError, match="'sae' is computed from '0'"):
        more.with_dictionary("again", "sae", tmp_path / "sae.safetensors", activation="relu")


def test_what_jobs_are_told_apart_by(network: dgn.Network, parts: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "sae.safetensors"
    save_file(parts, file)
    first, second = (network.with_dictionary("sae", "0", file, activation="topk", k=k) for k in (2, 3))
    assert described(first)["dictionaries"]["value"] == {"sae": "dictionary, 6 latents over 0 (plain: topk, k 2)"}
    assert told(first) != told(second) and "derived" not in told(network)
    entry = {"layer": "0", "file": str(file), "activation": "topk", "k": 2}
    config = OmegaConf.create({"name": "timm/test_resnet", "weights": "none", "dictionaries": {"sae": entry}})
    key = network_key(config, "cpu")
    config.dictionaries.sae.k = 3
    assert network_key(config, "cpu") != key
    config.dictionaries.sae.k = 2
    assert network_key(config, "cpu") == key
    os.utime(file, (1, 1))
    assert network_key(config, "cpu") != key


@pytest.mark.slow
def test_the_command_line(
    parts: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({**parts, "W_enc": torch.randn(32, F), "b_dec": torch.randn(32)}, "sae.safetensors")
    words = ["network=custom", "network.name=timm/test_resnet", "network.weights=none"]
    told_of = "network.dictionaries.sae={layer:layer1,file:sae.safetensors,activation:topk,k:2}"
    assert positional("units", [told_of]) == [f"++{told_of}"]
    assert main(["units", *words, told_of]) == 0
    assert "map, dictionary, 6 latents over layer1\n" in capsys.readouterr().out
    whole = told_of.replace(".sae=", "={sae:") + "}"
    assert main(["units", *words, whole]) == 0
    assert "map, dictionary, 6 latents over layer1\n" in capsys.readouterr().out
    assert main(["units", *words, "network.dictionaries.sae=layer:layer1"]) == 2
    assert "quoted for the shell" in capsys.readouterr().err
    job = ["units=[sae:1,sae:2@max]", "prior=pixel", "ascent.steps=3", "tracking=off", "out=run", "progress=false"]
    assert main(["synthesize", *words, told_of, *job]) == 0
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert len(manifest["weights"]["network.dictionaries.sae"]) == 64
    assert main(["synthesize", *words, told_of.replace("k:2", "k:3"), *job]) == 2
    assert "holds another job" in capsys.readouterr().err
