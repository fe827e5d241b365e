"""What is told of a network: normalisation in any units, classes from any file, and where each fact comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SmallCNN, export_small
from torch import nn

import dgn
from dgn.arguments import normalisation, parse_range
from dgn.cli.chosen import network_facts, network_key
from dgn.errors import DgnError
from dgn.network.facts import FACTS, assumptions, described, read_classes, told
from dgn.network.network import Network

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CAFFE = torch.tensor([104.0, 117.0, 123.0])[:, None, None]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (IMAGES - 0.5) / 0.5),
        ({"mean": [0.4, 0.5, 0.6]}, (IMAGES - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / 0.5),
        ({"range": "0..1"}, IMAGES),
        ({"range": "0..255"}, IMAGES * 255),
        ({"range": (0, 255)}, IMAGES * 255),
        ({"range": "-1..1"}, IMAGES * 2 - 1),
        ({"range": "0..255", "mean": [104, 117, 123]}, IMAGES * 255 - CAFFE),
        ({"range": "0..255", "mean": CAFFE.flatten(), "std": 58}, (IMAGES * 255 - CAFFE) / 58),
        ({"range": "-1..1", "std": [2.0] * 3}, (IMAGES * 2 - 1) / 2),
        ({"mean": 0.1, "std": np.float64(0.2)}, (IMAGES - 0.1) / 0.2),
        ({"mean": np.zeros(3), "std": torch.ones(3)}, IMAGES),
    ],
)
def test_the_module_sees_what_it_expects(options: dict[str, Any], expected: torch.Tensor) -> None:
    network = Network(nn.Identity(), 8, **options)
    torch.testing.assert_close(network.prepare(IMAGES), expected, rtol=1e-5, atol=1e-4)


def test_channels_follow_from_what_is_known() -> None:
    assert Network(SmallCNN(1), 16).channels == 1 and Network(SmallCNN(4), 16, range="0..255").channels == 4
    assert Network(nn.Identity(), 16).channels == 3 and Network(nn.Identity(), 16, [0.5], [0.5]).channels == 1
    assert normalisation(None, 2.0, 2, 3) == ((0.5, 0.5), (2.0, 2.0))


@pytest.mark.parametrize("given", ["0-255", "5", "1..0", "0..0", "a..b", 3, (1, 2, 3), (0, float("inf")), "nan..1"])
def test_ranges_that_are_none(given: Any) -> None:
    with pytest.raises(DgnError, match=r"expected LOW..HIGH, as in 0..1"):
        parse_range(given)


@pytest.mark.parametrize(
    "options",
    [{"mean": [0.5] * 2, "std": [0.5] * 3}, {"std": 0}, {"std": [1, 1, -1]}, {"mean": []}, {"std": float("nan")}],
)
def test_normalisations_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(DgnError, match=r"need one value a channel \(\d\), std above 0"):
        Network(SmallCNN(), 16, **options)
    with pytest.raises(DgnError, match=r"mean red and std .* one value a channel"):
        Network(SmallCNN(), 16, mean="red")


CLASSES = ("tench", "great white shark", "it's: 5")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "tench\ngreat white shark\nit's: 5\n"),
        ("a.txt", "\ufefftench\r\n great white shark \r\nit's: 5\r\n\r\n"),
        ("a.json", json.dumps(CLASSES)),
        ("a.json", json.dumps({"2": CLASSES[2], "0": CLASSES[0], "1": CLASSES[1]})),
        ("a.json", json.dumps({name: index for index, name in enumerate(CLASSES)})),
        ("a.json", json.dumps({str(i): [f"n0144076{i}", name] for i, name in enumerate(CLASSES)})),
        ("config.json", json.dumps({"id2label": dict(enumerate(CLASSES)), "label2id": {}})),
        ("no_suffix", json.dumps(CLASSES)),
        ("synsets.txt", "n01440764 tench, Tinca tinca\nn01484850\tgreat white shark, white shark\nn01491361 it's: 5\n"),
    ],
)
def test_files_of_class_names(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_classes(tmp_path / name) == CLASSES == read_classes(str(tmp_path / name))


def test_classes_as_values() -> None:
    assert read_classes(list(CLASSES)) == CLASSES == read_classes(dict(enumerate(CLASSES)))
    assert read_classes([1, "b"]) == ("1", "b") == read_classes({"1": "b", "0": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"0": "a", "2": "b"}', "not numbered from 0 on"), ('{"a": "b"}', "not numbered from 0 on"),
        ("[]", "no class names"), ("", "no class names"), ("[1,", "is no JSON"),
        ('{"id2label": 3}', "not numbered"), ("[{}]", "no class names"),
    ],
)  # fmt: skip
def test_files_without_class_names(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(DgnError, match=expected):
        read_classes(tmp_path / "a")
    with pytest.raises(DgnError, match="no readable file of class names"):
        read_classes(tmp_path / "gone")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(DgnError, match="no readable file of class names"):
        read_classes(tmp_path / "latin")


def test_a_program_is_told_everything(tmp_path: Path) -> None:
    """An exported program with all keys gives what the bare module gives for an image normalised by hand."""
    path = export_small(tmp_path / "small.pt2")
    torch.manual_seed(0)
    module = SmallCNN().eval()
    network = dgn.load_network(
        str(path),
        mean=[104, 117, 123],
        std=50.0,
        range="0..255",
        classes=list("abcde"),
        fit="stretch",
        scores="sigmoid",
        trust=True,
    )
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(images), module((images * 255 - CAFFE) / 50), rtol=1e-4, atol=1e-5)
    assert network.class_names == tuple("abcde") and network.scores == "sigmoid" and network.fit == "stretch"
    given = {name for name, fact in described(network).items() if fact["source"] == "given"}
    assert given == {"mean", "std", "range", "classes", "fit", "scores"} and set(told(network)) == given - {"range"}
    assert described(network)["input_size"] == {"value": [16, 16], "source": "known"} and not assumptions(network)
    with pytest.raises(DgnError, match="4 class names for 5 outputs of network 'small'"):
        dgn.load_network(str(path), classes=list("abcd"), trust=True)
    with pytest.raises(DgnError, match=r"need one value a channel|are of 1 channels|are of 2 channels"):
        dgn.load_network(str(path), mean=[1, 2], std=[1, 2], trust=True)


def test_what_is_known_and_what_is_assumed(tmp_path: Path) -> None:
    sources = {
        name: fact["source"] for name, fact in described(dgn.load_network("timm/test_vit", weights="none")).items()
    }
    assert sources["mean"] == sources["std"] == sources["input_size"] == "known" and sources["fit"] == "assumed"
    bare = dgn.load_network(str(export_small(tmp_path / "small.pt2", classes=1000)), trust=True)
    assert described(bare)["mean"]["source"] == described(bare)["classes"]["source"] == "assumed" and not told(bare)
    (line,) = assumptions(bare)
    assert "pixels from -1 to 1" in line and "ImageNet's 1000 classes" in line and "network.classes" in line
    half = dgn.load_network(str(tmp_path / "small.pt2"), mean=0.25, trust=True)
    assert half.std == (0.5,) * 3 and described(half)["std"]["source"] == "assumed"
    mine = Network(SmallCNN(), 16, class_names=list("abcde"), mean=0.5)
    assert [described(mine)[name]["source"] for name in ("classes", "mean", "std")] == ["given", "given", "assumed"]


def test_what_a_configuration_says_of_a_network(tmp_path: Path) -> None:
    assert network_facts({"name": "x", "weights": None, "input_size": 32}) == {**dict.fromkeys(FACTS), "input_size": 32}

    class Chosen(dict[str, Any]):
        name, weights = "x", None

    (tmp_path / "names").write_text("a")
    first = network_key(Chosen(classes=str(tmp_path / "names")), "cpu")
    (tmp_path / "names").write_text("a\nb")
    assert first != network_key(Chosen(classes=str(tmp_path / "names")), "cpu") != network_key(Chosen(fit="fit"), "cpu")
