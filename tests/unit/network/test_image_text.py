"""Models of open_clip and transformers: what dgn reads is what the packages compute, from files that they wrote."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from image_text import OPEN_CLIP, TEXT, TEXTS, VISION, write_open_clip, write_transformers
from PIL import Image
from torch import Tensor

import dgn
from dgn.cli.main import main
from dgn.errors import DgnError
from dgn.images.reading import read_image
from dgn.network.facts import assumptions, described

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
IMAGE = torch.from_numpy(np.asarray(PICTURE).copy()).permute(2, 0, 1)[None]
TOLERANCE: dict[str, float] = {"atol": 1e-5, "rtol": 1e-5}


def scores(network: dgn.Network, text: str) -> tuple[float, float]:
    """The cosine with a text and its probability, as units read them."""
    units = dgn.parse_units([text, f"p({text})"], network)
    return tuple(dgn.ablate(network, IMAGE[0], unit, size=32, stride=32).activation for unit in units)  # type: ignore


# open_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("open_clip") / "tiny-clip"
    return folder, write_open_clip(folder)


def by_open_clip(model: Any, folder: Path, texts: list[str]) -> tuple[Tensor, Tensor]:
    """The package's own cosines and logits, with its own reading of the image and the texts."""
    import open_clip

    _, seen = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        image, text = model.encode_image(seen(PICTURE)[None]), model.encode_text(tokens)
        return F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T, model.get_logits(seen(PICTURE)[None], tokens)[
            0
        ]


@pytest.mark.needs("open_clip")
def test_a_model_of_open_clip_by_every_way(clip: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = clip
    cosines, logits = by_open_clip(model, folder, TEXTS[:2])
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": x for key, x in model.state_dict().items()}}, tmp_path / "e.pt"
    )
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    ways: list[tuple[str, Path | None]] = [
        (f"open_clip/{folder}", None),
        ("open_clip/tiny-clip", folder / "open_clip_model.safetensors"),
        ("open_clip/tiny-clip", tmp_path),
        (f"open_clip/{folder}", tmp_path / "e.pt"),
    ]
    for name, weights in ways:
        network = dgn.load_network(name, weights=weights, texts=TEXTS[:2])
        torch.testing.assert_close(network(IMAGE), cosines, **TOLERANCE)
        assert network.class_names == tuple(TEXTS[:2]) and network.name == "open_clip/tiny-clip"
    assert network.scores.startswith("softmax 14.28") and not network.targets.cut
    assert not [key for key in network.module.state_dict() if "token_embedding" in key or "text" in key]
    np.testing.assert_allclose(scores(network, TEXTS[1]), [cosines[0, 1], logits.softmax(1)[0, 1]], rtol=1e-4)
    assert network.layout("transformer.resblocks.1").kind == "tokens, class + 4 x 4"
    bare = dgn.load_network("open_clip/tiny-clip", weights="none")
    assert bare(IMAGE).shape == (1, 24) and bare.scores == "none" and not bare.class_names
    assert (bare(IMAGE) - dgn.load_network(ways[0][0])(IMAGE)).abs().max() > 1e-3  # other random weights


@pytest.mark.needs("open_clip")
def test_the_embedding_is_not_normalised(clip: tuple[Path, Any]) -> None:
    folder, model = clip
    network = dgn.load_network(f"open_clip/{folder}")
    with torch.no_grad():
        own = model.encode_image(network.prepare(IMAGE))
    torch.testing.assert_close(network(IMAGE), own, **TOLERANCE)
    assert abs(float(own.norm()) - 1) > 0.01 and described(network)["mean"]["source"] == "known"


@pytest.mark.needs("open_clip")
def test_a_siglip_of_open_clip(tmp_path: Path) -> None:
    """Its scores are a sigmoid of the scaled and shifted cosine, its images are stretched, and one text will do."""
    vision = {**OPEN_CLIP["vision_cfg"], "image_size": 32}
    changes = {"vision_cfg": vision, "custom_text": True, "init_logit_bias": -10.0}
    model = write_open_clip(tmp_path / "tiny-siglip", **changes)
    path = tmp_path / "tiny-siglip" / "open_clip_config.json"
    path.write_text(path.read_text().replace('"shortest"', '"squash"'))
    network = dgn.load_network(f"open_clip/{path.parent}", texts=TEXTS[0])
    cosines, logits = by_open_clip(model, path.parent, TEXTS[:1])
    torch.testing.assert_close(network(IMAGE), cosines, **TOLERANCE)
    assert network.fit == "stretch" and network.scores == "sigmoid 14.2857 -10"
    np.testing.assert_allclose(scores(network, TEXTS[0])[1], logits.sigmoid()[0, 0], rtol=1e-3)


@pytest.mark.needs("open_clip")
@pytest.mark.parametrize(
    ("name", "mean", "fit"),
    [
        ("RN50", 0.48145466, "crop"), ("ViT-B-16-SigLIP", 0.5, "stretch"), ("MobileCLIP-S1", 0.0, "crop"),
        ("ViT-B-32/openai", 0.48145466, "crop"),
    ],
)  # fmt: skip
def test_published_models_see_images_as_they_were_trained(name: str, mean: float, fit: str) -> None:
    """Random ones, too: a file of weights alone does not say it."""
    network = dgn.load_network(f"open_clip/{name}", weights="none")
    assert network.mean[0] == pytest.approx(mean) and network.fit == fit and network.name == f"open_clip/{name}"
    assert network(torch.rand(1, 3, 32, 32)).dim() == 2
    assert ("QuickGELU" in str(network.module)) == name.endswith("/openai")


@pytest.mark.slow
def test_image_towers_of_timm_give_embeddings() -> None:
    """CLIP's projection is timm's head: its outputs are no classes; a model fine-tuned on ImageNet's has these."""
    tower = dgn.load_network("timm/resnet50_clip.openai", weights="none")
    assert tower.layers["output"] == (1024,) and tower.scores == "none" and tower.mean[0] == pytest.approx(0.48145466)
    assert dgn.load_network("timm/test_vit", weights="none").scores == "softmax"


@pytest.mark.needs("open_clip")
def test_climbing_a_text_raises_its_cosine(clip: tuple[Path, Any]) -> None:
    network = dgn.load_network(f"open_clip/{clip[0]}", texts=TEXTS)
    result = dgn.synthesize(network, TEXTS[:2], prior="pixel", steps=15, rule="adam")
    for text, activation, history in zip(TEXTS, result.activations, result.history.T, strict=False):
        assert activation > 0.5 and float(history[-1]) > float(history[0]) + 0.3, text
    assert [unit.name for unit in result.units] == TEXTS[:2]


@pytest.mark.needs("open_clip")
def test_long_texts_are_cut_and_said(clip: tuple[Path, Any]) -> None:
    long = "a photo of " * 12
    network = dgn.load_network(f"open_clip/{clip[0]}", texts=["a photo of a dog", long, "a cat"])
    assert network.targets.cut == (long.strip(),)
    (line,) = assumptions(network)
    assert "reads the beginning alone of 1 text" in line and repr(long.strip()) in line


@pytest.mark.needs("open_clip")
def test_what_open_clip_does_not_have(clip: tuple[Path, Any], tmp_path: Path) -> None:
    for name, weights, line in (
        ("open_clip/ViT-B-23", None, "open_clip has no model 'ViT-B-23'; did you mean 'ViT-B-32'"),
        (
            "open_clip/ViT-B-32/laion2b_s34b",
            None,
            "no weights 'laion2b_s34b' of 'ViT-B-32'; did you mean 'laion2b_s34b_b79k'",
        ),
        ("open_clip/tiny-clip", None, "open_clip has no weights of 'tiny-clip': give network.weights=FILE or none"),
        ("open_clip/tiny-clip", tmp_path / "gone.pt", "no weights file"),
        ("open_clip/RN50", clip[0], "don't fit 'open_clip/RN50': they lack"),
    ):
        with pytest.raises(DgnError, match=line) as caught:
            dgn.load_network(name, weights=weights)
        assert "\n" not in str(caught.value)


# transformers


def write_clip(folder: Path, kind: str = "CLIP", **settings: Any) -> Any:
    import transformers as library

    model = write_transformers(folder, f"{kind}Model", text_config=TEXT, vision_config=VISION, **settings)
    side = {"height": 32, "width": 32}
    sizes: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": side} if kind == "CLIP" else {"size": side}
    getattr(library, f"{kind}ImageProcessor")(**sizes).save_pretrained(folder)
    return model


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(("kind", "fit"), [("CLIP", "crop"), ("Siglip", "stretch")])
def test_an_image_text_model_of_transformers(kind: str, fit: str, tmp_path: Path) -> None:
    import transformers as library

    model = write_clip(tmp_path / "tiny", kind, **({"projection_dim": 24} if kind == "CLIP" else {}))
    network = dgn.load_network(f"transformers/{tmp_path / 'tiny'}", texts=TEXTS[:2])
    pixels = library.AutoImageProcessor.from_pretrained(tmp_path / "tiny")(images=PICTURE, return_tensors="pt")
    padding: Any = "max_length" if kind == "Siglip" else True
    tokens = library.AutoTokenizer.from_pretrained(tmp_path / "tiny")(
        TEXTS[:2], padding=padding, max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**pixels, **tokens).logits_per_image
    shift = model.logit_bias if kind == "Siglip" else 0.0
    cosines = ((logits - shift) / model.logit_scale.exp()).detach()
    torch.testing.assert_close(network(IMAGE), cosines, **TOLERANCE)
    own = logits.softmax(1) if kind == "CLIP" else logits.sigmoid()
    np.testing.assert_allclose(scores(network, TEXTS[0]), [cosines[0, 0], own[0, 0]], rtol=1e-3)
    assert network.fit == fit and not [key for key in network.module.state_dict() if key.startswith("text")]
    assert not network.targets.cut and dgn.load_network(network_name(tmp_path), texts=TEXTS[2:]).targets.cut == ()
    assert dgn.load_network(network_name(tmp_path), texts="a " * 12).targets.cut == (("a " * 12).strip(),)
    sources = {name: fact["source"] for name, fact in described(network).items()}
    assert sources["mean"] == sources["fit"] == sources["scores"] == "known" and sources["texts"] == "given"
    torch.testing.assert_close(
        dgn.load_network(network_name(tmp_path), texts=TEXTS[0], scores="none")(IMAGE), cosines[:, :1], **TOLERANCE
    )


def network_name(tmp_path: Path) -> str:
    return f"transformers/{tmp_path / 'tiny'}"


@pytest.mark.needs("transformers")
def test_texts_need_a_tokenizer(tmp_path: Path) -> None:
    write_clip(tmp_path / "tiny")
    for path in (tmp_path / "tiny").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(
        DgnError, match=r"the tokenizer of 'transformers/tiny' (knows no part of|could not be had)"
    ) as caught:
        dgn.load_network(network_name(tmp_path), texts=TEXTS)
    assert "\n" not in str(caught.value) and dgn.load_network(network_name(tmp_path))(IMAGE).shape == (1, 512)


NAMES = {0: "ant", 1: "bee", 2: "crane"}
MODELS: list[tuple[str, dict[str, Any], str, str, str]] = [  # class, settings, its answer, a layer, and what that is
    ("ViTForImageClassification", {**VISION, "id2label": NAMES}, "logits", "vit.layernorm", "tokens, class + 4 x 4"),
    ("Dinov2WithRegistersModel", VISION, "pooler_output", "layernorm", "tokens, class + 4 registers + 4 x 4"),
    ("Dinov2Model", VISION, "pooler_output", "layernorm", "tokens, class + 4 x 4"),
    ("CLIPVisionModelWithProjection", {**VISION, "projection_dim": 24}, "image_embeds", "visual_projection", "vector"),
    ("ConvNextForImageClassification", {"hidden_sizes": [8, 12, 16, 24], "depths": [1] * 4, "id2label": NAMES},
     "logits", "convnext.encoder.stages.1", "map"),
    ("ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, "pooler_output",
     "encoder.stages.1", "map"),
]  # fmt: skip


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(("kind", "settings", "answer", "layer", "what"), MODELS, ids=[model[0] for model in MODELS])
def test_image_models_of_transformers(
    kind: str, settings: dict[str, Any], answer: str, layer: str, what: str, tmp_path: Path
) -> None:
    import transformers as library

    model = write_transformers(tmp_path / "tiny", kind, tokens=False, **settings)
    side = {"height": 32, "width": 32}
    library.ViTImageProcessor(size=side, image_mean=[0.4, 0.5, 0.6]).save_pretrained(tmp_path / "tiny")
    pixels = library.AutoImageProcessor.from_pretrained(tmp_path / "tiny")(images=PICTURE, return_tensors="pt")
    with torch.no_grad():
        own = getattr(model(**pixels), answer).flatten(1)
    network = dgn.load_network(network_name(tmp_path))
    torch.testing.assert_close(network(IMAGE), own, rtol=1e-4, atol=1e-4)
    assert network.mean == (0.4, 0.5, 0.6) and network.layout(layer).kind == what
    assert network.class_names == (tuple(NAMES.values()) if "Classification" in kind else ())
    assert network.scores == ("softmax" if "Classification" in kind else "none")
    random = dgn.load_network(network_name(tmp_path), weights="none")
    loaded = dgn.load_network(network_name(tmp_path), weights=tmp_path / "tiny" / "model.safetensors")
    torch.testing.assert_close(loaded(IMAGE), network(IMAGE))
    assert random.class_names == network.class_names and (random(IMAGE) - network(IMAGE)).abs().max() > 1e-3

    Image.fromarray(np.asarray(PICTURE)[::-1].copy()).save(tmp_path / "other one.png")
    PICTURE.save(tmp_path / "one.png")
    near = dgn.load_network(network_name(tmp_path), images=[tmp_path / "one.png", tmp_path / "other one.png"])
    assert near.class_names == ("one", "other one") and near.scores == "none"
    cosines = near(IMAGE)[0]
    assert float(cosines[0]) == pytest.approx(1, abs=1e-5) and float(cosines[1]) < 0.9999
    with pytest.raises(DgnError, match="'transformers/tiny' has no text tower"):
        dgn.load_network(network_name(tmp_path), texts=TEXTS)


@pytest.mark.needs("transformers")
def test_classes_of_a_file(tmp_path: Path) -> None:
    """Fine-tuned weights of another number of classes, as a training saves them, in an architecture from a folder."""
    write_transformers(tmp_path / "tiny", "ViTForImageClassification", tokens=False, **VISION, id2label=NAMES)
    other = write_transformers(tmp_path / "five", "ViTForImageClassification", tokens=False, **VISION, num_labels=5)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "five.pth")
    network = dgn.load_network(network_name(tmp_path), weights=tmp_path / "five.pth")
    with torch.no_grad():
        torch.testing.assert_close(network(IMAGE), other(network.prepare(IMAGE)).logits, rtol=1e-4, atol=1e-5)
    assert network.layers["output"] == (5,) and network.class_names == ()
    assert described(network)["mean"]["source"] == "assumed"  # neither folder has an image processor


@pytest.mark.needs("transformers")
def test_a_pooling_layer_without_weights_is_not_read(tmp_path: Path) -> None:
    """As of DINO's published ViTs: the class token is the embedding, and no random layer behind it."""
    import transformers as library

    model = write_transformers(tmp_path / "tiny", "ViTModel", tokens=False, **VISION)
    library.ViTModel(model.config, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    network = dgn.load_network(f"transformers/{tmp_path / 'bare'}")
    again = dgn.load_network(f"transformers/{tmp_path / 'bare'}")
    torch.testing.assert_close(network(IMAGE), again(IMAGE))
    torch.testing.assert_close(network(IMAGE), network.features(IMAGE, ["layernorm"])["layernorm"][:, 0])
    shutil.rmtree(tmp_path / "bare")


@pytest.mark.needs("transformers")
def test_what_transformers_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DgnError, match="the weights of 'transformers/nobody/nothing' could not be had") as caught:
        dgn.load_network("transformers/nobody/nothing")
    assert "\n" not in str(caught.value)
    write_transformers(tmp_path / "tiny", "BertModel", tokens=False, hidden_size=32, num_hidden_layers=1,
                       num_attention_heads=2, intermediate_size=8, vocab_size=50)  # fmt: skip
    with pytest.raises(DgnError, match=r"BertModel of .* takes no images"):
        dgn.load_network(network_name(tmp_path))


# The command line


@pytest.mark.needs("open_clip")
def test_commands(clip: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PICTURE.save(tmp_path / "my picture.png")
    (tmp_path / "prompts.txt").write_text("a photo of a dog\n\na photo of a cat, asleep\n")
    network = ["network=custom", f"network.name=open_clip/{clip[0]}"]
    assert main(["units", *network, "network.texts=[a photo of a dog,a photo of a cat]", "find=dog"]) == 0
    assert capsys.readouterr().out.split() == ["0", "a", "photo", "of", "a", "dog"]
    assert main(["units", *network, f"network.texts=@{tmp_path}/prompts.txt", "find=asleep"]) == 0
    assert capsys.readouterr().out.split() == ["1", "a", "photo", "of", "a", "cat,", "asleep"]
    words = [f"network.images=[{tmp_path}/my picture.png]", "network.texts=[a photo of a dog]"]
    job = [
        "units=[a photo of a dog,my picture]",
        "prior=pixel",
        "ascent.steps=3",
        f"out={tmp_path / 'run'}",
        "tracking=off",
    ]
    assert main(["synthesize", *network, *words, *job]) == 0
    rows = (tmp_path / "run" / "results.csv").read_text().splitlines()
    assert rows[1].startswith("a photo of a dog,") and rows[2].startswith("my picture,")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["input"]["texts"] == {"value": ["a photo of a dog"], "source": "given"}
    assert manifest["input"]["images"] == {"value": [f"{tmp_path}/my picture.png"], "source": "given"}


@pytest.mark.needs("open_clip")
def test_a_run_tells_the_probability_among_the_texts(clip: tuple[Path, Any], tmp_path: Path) -> None:
    """That of the zero-shot classifier, as computed by hand from the picture that the run wrote."""
    words = ["network=custom", f"network.name=open_clip/{clip[0]}", f"network.texts=[{TEXTS[0]},{TEXTS[1]}]"]
    job = ["prior=pixel", "ascent.steps=5", f"units=[{TEXTS[1]}]", "tracking=off", f"out={tmp_path / 'run'}"]
    assert main(["synthesize", *words, *job]) == 0
    (row,) = csv.DictReader((tmp_path / "run" / "results.csv").open(newline=""))
    network = dgn.load_network(f"open_clip/{clip[0]}", texts=TEXTS[:2])
    cosines = network(read_image(tmp_path / "run" / row["image"])[None])
    probability = (cosines * clip[1].logit_scale.detach().exp()).softmax(1)[0, 1]
    assert float(row["activation"]) == pytest.approx(float(cosines[0, 1]), abs=0.01)
    assert float(row["probability"]) == pytest.approx(float(probability), abs=0.01)
