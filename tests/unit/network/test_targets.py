"""Texts and images as outputs, without an image-text model: cosines, their scores, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SmallCNN, SmallTokens
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

import dgn
from dgn.cli.chosen import network_key
from dgn.cli.words import parse
from dgn.errors import DgnError
from dgn.images.reading import read_image
from dgn.network.facts import Targets, described
from dgn.network.network import Network
from dgn.network.scores import log_probabilities
from dgn.network.sources.known import Known, TextTower
from dgn.network.targets import embed, read_texts, scores_of, towards
from dgn.report.table import target_cells

CLIP = TextTower(lambda texts: torch.rand(len(texts), 3), lambda text: False, "softmax", 100.0, 0.0)
SIGLIP = TextTower(CLIP.embed, CLIP.cut, "sigmoid", 10.0, -5.0)


def picture(path: Path, seed: int) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
    return path


def test_images_are_directions_in_what_the_last_layer_reads(tmp_path: Path) -> None:
    """Of a classifier: cosines of its pooled features, its layers called as ever, and the loop as fast as ever."""
    paths = [picture(tmp_path / "one.png", 0), picture(tmp_path / "the other.png", 1)]
    torch.manual_seed(0)
    plain = Network(SmallCNN(), 16)
    near = towards(Network(plain.module, 16), Known(plain.module, {}, classifier=True), (), paths, scores=None)
    assert near.class_names == ("one", "the other") and near.scores == "none"
    assert (
        set(near.layers) == {*plain.layers, "cosines"}
        and near.layers["head"] == (12,)
        and plain.module.head.out_features == 5
    )
    pooled = plain.features(torch.stack([read_image(path, plain.sight) for path in paths]), ["late"])["late"]
    pooled = F.normalize(torch.tanh(pooled).mean((2, 3)), dim=1)
    images = torch.stack([read_image(path, plain.sight) for path in paths])
    torch.testing.assert_close(near(images), pooled @ pooled.T)
    units = dgn.parse_units(["the other", "1", "0.5*one + 0.5*the other"], near)
    assert units[0].terms == units[1].terms and len(units[2].terms) == 2
    (cell,) = target_cells(near, [{"unit": "the other"}, {"unit": "late:3"}])
    assert cell.unit == "the other" and cell.image.size == (16, 16)
    fast = near.fast(["output"])
    assert fast.module is not near.module
    torch.testing.assert_close(fast(images), near(images))
    torch.testing.assert_close(Network(near.module, 16)(images), near(images))  # a copy of the copy


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_cosines_are_of_images_as_the_network_sees_them(fit: str, tmp_path: Path) -> None:
    path = picture(tmp_path / "one.png", 0)
    near = dgn.load_network("timm/test_vit", weights="none", images=path, fit=fit, input_size=160)
    image = read_image(path, near.sight)
    assert float(near(image[None])[0, 0]) == pytest.approx(1, abs=1e-5)
    other = torch.rand(3, 160, 160)
    vectors = near.features(torch.stack([image, other]), ["head"])["head"]
    expected = F.cosine_similarity(vectors[:1], vectors)[:, None]
    torch.testing.assert_close(near(torch.stack([image, other])), expected)
    assert described(near)["images"] == {"value": [str(path)], "source": "given"}
    array = dgn.load_network("timm/test_vit", weights="none", images=[image, Image.open(path)], fit=fit)
    assert array.class_names == ("image 0", "image 1")


def test_of_what_is_no_classifier_the_output_is_the_embedding() -> None:
    for classifier, features in ((False, 5), (True, 12)):
        network = Network(SmallCNN(), 16)
        embed(network, classifier=classifier)
        assert network.layers["output"] == (features,)
    softmax = Network(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Softmax(1)), 2)
    embed(softmax, classifier=True)  # its last linear layer does not give the output
    assert softmax.layers["output"] == (4,)
    tokens = Network(SmallTokens(), 16)
    embed(tokens, classifier=True)
    assert tokens.layers["output"] == (6,)
    with pytest.raises(DgnError, match=r"need one vector an image, network 'maps' gives \[4, 7, 7\]"):
        embed(Network(nn.Conv2d(3, 4, 2), 8, name="maps"), classifier=True)


def test_a_program_is_compared_with_images_too(exported: Path, tmp_path: Path) -> None:
    path = picture(tmp_path / "one.png", 0)
    near = dgn.load_network(exported, images=[path, picture(tmp_path / "two.png", 1)], trust=True)
    plain = dgn.load_network(exported, trust=True)
    images = torch.rand(2, 3, 16, 16)
    targets = plain(torch.stack([read_image(tmp_path / f"{name}.png", plain.sight) for name in ("one", "two")]))
    expected = F.normalize(plain(images), dim=1) @ F.normalize(targets, dim=1).T
    torch.testing.assert_close(near(images), expected, rtol=1e-4, atol=1e-5)


def test_texts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa dog, running\n\n  it's a cat \n", encoding="utf-8")
    assert read_texts([f"@{file}", "a bird"]) == ("a dog, running", "it's a cat", "a bird")
    assert read_texts("a bird") == ("a bird",) and read_texts([1, True]) == ("1", "True")
    word = "network.texts=[a photo of a dog,a photo of a cat]"
    assert parse(word).value() == ["a photo of a dog", "a photo of a cat"]
    assert parse(f"network.texts=@{file.name}").value() == f"@{file.name}"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], "there is no text"), (["a", " "], "text 2 of 2 is empty"), ([None], "text 1 of 1 is empty"),
        ("@gone.txt", "no readable file of texts 'gone.txt'"),
    ],
)  # fmt: skip
def test_texts_that_are_none(given: Any, line: str) -> None:
    with pytest.raises(DgnError, match=line):
        read_texts(given)


def test_images_of_one_name_are_told_apart() -> None:
    files = ("here/x.png", "y.png", "there/x.webp", "x-2.png", "a.png")
    assert Targets(("a",), files).names == ("a", "x", "y", "x-2", "x-2-2", "a-2")


def test_scores_of_cosines() -> None:
    two, one, mixed = Targets(("a", "b")), Targets(("a",)), Targets(("a",), ("b.png",))
    assert scores_of(CLIP, two, None, "x") == "softmax 100 0" and scores_of(SIGLIP, one, None, "x") == "sigmoid 10 -5"
    assert {scores_of(CLIP, one, None, "x"), scores_of(CLIP, mixed, None, "x"), scores_of(CLIP, two, "none", "x"),
            scores_of(None, Targets((), ("b.png",)), None, "x")} == {"none"}  # fmt: skip
    assert scores_of(CLIP, mixed, "softmax", "x") == "softmax 100 0"
    for tower, told in ((None, "softmax"), (CLIP, "probabilities")):
        with pytest.raises(DgnError, match=f"network.scores={told}: .* are no scores of 'x'"):
            scores_of(tower, mixed, told, "x")
    cosines = torch.tensor([[0.3, 0.25], [0.1, 0.2]])
    own = (100 * cosines).log_softmax(1)
    torch.testing.assert_close(log_probabilities(cosines, "softmax 100 0"), own)
    torch.testing.assert_close(log_probabilities(cosines, "sigmoid 10 -5"), F.logsigmoid(10 * cosines - 5))


def test_what_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("open_clip", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    for name, more, line in (
        ("timm/test_vit", {"texts": ["a dog"]}, "'timm/test_vit' has no text tower: .* open_clip or transformers"),
        (exported, {"texts": ["a dog"], "trust": True}, "'small' has no text tower"),
        ("timm/test_vit", {"images": ["gone.png"]}, "no image 'gone.png'"),
        ("timm/test_vit", {"images": []}, "there is no image: give network.images"),
        ("timm/test_vit", {"images": [torch.rand(3, 9, 9)], "classes": ["a"]}, "leave out classes"),
        ("timm/test_vit", {"images": [torch.rand(3, 9, 9)], "scores": "softmax"}, "are no scores of 'timm/test_vit'"),
        ("open_clip/ViT-B-32", {}, r"open_clip can't be imported .* run: pip install 'dgn\[clip\]'"),
        ("transformers/x", {}, r"transformers can't be imported .* run: pip install 'dgn\[transformers\]'"),
        ("openclip/ViT-B-32", {}, "no network 'openclip/ViT-B-32'; expected .* open_clip/NAME, transformers/NAME"),
    ):
        options: dict[str, Any] = {"weights": "none" if "timm" in str(name) else None, **more}
        with pytest.raises(DgnError, match=line) as caught:
            dgn.load_network(name, **options)
        assert "\n" not in str(caught.value)


def test_a_changed_file_is_another_network(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a dog")
    picture(tmp_path / "a.png", 0)
    chosen = OmegaConf.create(
        {"name": "x", "weights": None, "texts": f"@{tmp_path}/a.txt", "images": [f"{tmp_path}/a.png"]}
    )
    keys = [network_key(chosen, "cpu")]
    (tmp_path / "a.txt").write_text("a dog\na cat")
    keys.append(network_key(chosen, "cpu"))
    picture(tmp_path / "a.png", 1).write_bytes((tmp_path / "a.png").read_bytes() + b"0")
    keys.append(network_key(chosen, "cpu"))
    assert len(set(keys)) == 3 == len({*keys, network_key(chosen, "cpu")})
