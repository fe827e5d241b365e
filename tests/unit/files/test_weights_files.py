"""Weights as people have them: fine-tuned heads, wrappers, prefixes, Lightning's and Hugging Face's layouts."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from dgn.errors import DgnError
from dgn.files.weights import Weights, read_weights
from dgn.network.fitting import fill, matched
from dgn.network.sources import load_network

NAME = "timm/test_resnet"
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def tuned() -> nn.Module:
    """A fine-tuned network of seven classes."""
    torch.manual_seed(3)
    return timm.create_model("test_resnet", num_classes=7).eval()


def expected(module: nn.Module, images: Tensor = IMAGES) -> Tensor:
    """What the module itself says of images in [0, 1], normalised by hand."""
    mean, std = (torch.tensor(module.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        return module((images - mean) / std)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


CONTAINERS: dict[str, Any] = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "best": torch.tensor(0.9), "state_dict": s, "optimizer": {"state": {}}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.1},
    "model and its average": lambda s: {"model": s, "model_ema": {key: value + 1 for key, value in s.items()}},
    "the average alone": lambda s: {"state_dict_ema": prefixed(s, "module.")},
    "nested": lambda s: {"state": 1, "net": {"weights": s}},
    "under a name of its own": lambda s: {"student": s, "optimizer": {"state": {0: {"exp.avg": torch.zeros(2)}}}},
    "an optimizer beside": lambda s: {
        "net": s, "opt": torch.optim.Adam([nn.Parameter(torch.zeros(2))]).state_dict(),
    },
    "module": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled, parallel": lambda s: prefixed(s, "module._orig_mod."),
    "parallel, compiled": lambda s: prefixed(s, "_orig_mod.module."),
    "in a task": lambda s: {"state_dict": prefixed(s, "model.net.backbone.")},
    "of any name": lambda s: prefixed(s, "resnet_of_mine."),
    "compiled inside": lambda s: {key.replace("layer1.", "layer1._orig_mod."): value for key, value in s.items()},
    "parallel inside": lambda s: {key.replace("layer1.", "layer1.module."): value for key, value in s.items()},
    "parameters": lambda s: {key: nn.Parameter(v) if v.is_floating_point() else v for key, v in s.items()},
    "half": lambda s: {key: value.double() if value.is_floating_point() else value for key, value in s.items()},
    "lightning": lambda s: {
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(7), "metric.total": torch.zeros(())},
        "epoch": 9, "pytorch-lightning_version": "2.5.0", "callbacks": {"ckpt": {"best": torch.tensor(1.0)}},
        "hyper_parameters": {"lr": 0.1}, "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "lr_schedulers": [], "loops": {"fit": {"state_dict": {}}},
    },
    "a teacher beside": lambda s: {**prefixed(s, "model."), **prefixed({k: v + 1 for k, v in s.items()}, "teacher.")},
    "a head further out": lambda s: {
        f"net.{key}" if key.startswith("fc.") else f"net.backbone.{key}": value for key, value in s.items()
    },
    "a head in a sequence": lambda s: {key.replace("fc.", "fc.1."): value for key, value in s.items()},
    "a head of another name": lambda s: {
        f"classifier{key[2:]}" if key.startswith("fc.") else f"backbone.{key}": value for key, value in s.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_fine_tuned_network_gives_its_own_numbers(container: str, tuned: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "my.ckpt"
    torch.save(CONTAINERS[container](dict(tuned.state_dict())), path)
    network = load_network(NAME, weights=str(path), input_size=32)
    assert network.layers["output"] == (7,) and network.class_names == ()
    torch.testing.assert_close(network(IMAGES), expected(tuned), rtol=1e-4, atol=1e-5)


TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "googlenet", "inception_v3", "maxvit_t", "mobilenet_v2",
    "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "vgg11", "vit_b_16",
)  # fmt: skip
TIMM = (
    "beit_base_patch16_224", "crossvit_9_240", "deit_tiny_distilled_patch16_224", "efficientformer_l1",
    "eva02_tiny_patch14_224", "focalnet_tiny_srf", "ghostnet_050", "levit_128s", "mixer_s16_224", "mobilevit_s",
    "nf_resnet50", "poolformer_s12", "regnetx_002", "resnetv2_50", "swin_tiny_patch4_window7_224", "vgg11",
    "volo_d1_224", "xcit_nano_12_p8_224",
)  # fmt: skip


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.slow
def test_the_heads_of_all_families_are_read_from_the_weights(library: str) -> None:
    """Shapes alone: every head, auxiliary ones included, says seven, and with seven all fits."""
    make = models.get_model if library == "torchvision" else timm.create_model
    for name in TORCHVISION if library == "torchvision" else TIMM:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            usual, theirs = make(name).state_dict(), make(name, num_classes=7).state_dict()
        tensors = prefixed(theirs, "model.module.")
        assert matched(tensors, usual, "file").class_count() == 7, name
        match = matched(tensors, theirs, "file")
        assert not match.extra and match.class_count() is None and match.tensors.keys() == theirs.keys(), name


def test_a_module_that_is_built_without_a_head_gets_one() -> None:
    def build(classes: int | None) -> nn.Module:
        return timm.create_model("test_resnet", num_classes=classes or 0)

    torch.manual_seed(0)
    tuned = timm.create_model("test_resnet", num_classes=3)
    module, count = fill(build, Weights(Path("x"), dict(tuned.state_dict())), "x")
    assert count == 3 and torch.equal(module.fc.weight, tuned.fc.weight)


@pytest.mark.slow
def test_googlenet_keeps_its_own_normalisation_and_may_lack_the_auxiliary_heads(tmp_path: Path) -> None:
    """As torchvision fine-tunes it: images are normalised once more inside, and nothing of the file says so."""
    for aux in (True, False):
        theirs = models.googlenet(num_classes=4, aux_logits=aux, init_weights=False, transform_input=True).eval()
        torch.save(theirs.state_dict(), tmp_path / "w.pth")
        network = load_network("torchvision/googlenet", weights=str(tmp_path / "w.pth"), input_size=64)
        images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(network(images), theirs(network.prepare(images)), rtol=1e-4, atol=1e-5)
        assert network.layers["output"] == (4,) and network.class_names == ()


def test_class_names_stand_beside_the_weights(tuned: nn.Module, tmp_path: Path) -> None:
    names, state = [f"bird {i}" for i in range(7)], tuned.state_dict()
    for key, value in (("class_to_idx", {name: i for i, name in enumerate(names)}), ("classes", names)):
        torch.save({"state_dict": state, key: value}, tmp_path / "w.pth")
        assert load_network(NAME, weights=str(tmp_path / "w.pth")).class_names == tuple(names)
    torch.save({"state_dict": state, "classes": names[:3]}, tmp_path / "w.pth")  # of something else
    assert load_network(NAME, weights=str(tmp_path / "w.pth")).class_names == ()
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    assert load_network(NAME, weights=str(tmp_path / "w.pth")).class_names[1] == "goldfish"


@pytest.mark.parametrize("layout", ["safetensors", "bin", "sharded", "sharded bin"])
def test_hugging_faces_folders(layout: str, tuned: nn.Module, tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in tuned.state_dict().items()}
    half = list(state)[: len(state) // 2]
    shards = [{key: state[key] for key in half}, {key: value for key, value in state.items() if key not in half}]
    suffix = "bin" if "bin" in layout else "safetensors"
    stem = "pytorch_model" if suffix == "bin" else "model"

    def write(name: str, tensors: dict[str, Tensor]) -> None:
        torch.save(tensors, tmp_path / name) if suffix == "bin" else save_file(tensors, tmp_path / name)

    if "sharded" in layout:
        files = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
        for name, shard in zip(files, shards, strict=True):
            write(name, shard)
        table = {key: files[key not in half] for key in state}
        (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": table}))
    else:
        write(f"{stem}.{suffix}", state)
    labels = {str(i): f"bird {i}" for i in reversed(range(7))}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels, "architectures": ["ResNet"]}))
    given = {
        tmp_path,
        next(path for path in tmp_path.glob("*model*") if "sharded" not in layout or "index" in path.name),
    }
    for path in given:
        network = load_network(NAME, weights=str(path), input_size=32)
        assert network.class_names == tuple(f"bird {i}" for i in range(7))
        torch.testing.assert_close(network(IMAGES), expected(tuned), rtol=1e-4, atol=1e-5)
    (tmp_path / "config.json").unlink()
    assert load_network(NAME, weights=str(tmp_path)).class_names == ()


def test_timms_folder_says_size_and_normalisation(tuned: nn.Module, tmp_path: Path) -> None:
    save_file({key: value.contiguous() for key, value in tuned.state_dict().items()}, tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 48, 40], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": cfg, "label_names": list("abcdefg")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = load_network(NAME, weights=str(tmp_path))
    assert network.input_size == (48, 40) and network.mean == (0.1, 0.2, 0.3) and network.std == (0.4, 0.5, 0.6)
    assert network.class_names == tuple("abcdefg")


def test_what_does_not_fit_is_listed_with_three_names_and_a_count(tuned: nn.Module, tmp_path: Path) -> None:
    state = dict(tuned.state_dict())
    lost = [key for key in state if key.startswith("layer2.")]
    kept = {f"model.{key}": value for key, value in state.items() if key not in lost}
    torch.save({"state_dict": {**kept, "model.a": torch.ones(1), "model.b": torch.ones(1)}}, tmp_path / "w.pth")
    count = len([key for key in lost if not key.endswith("num_batches_tracked")])
    with pytest.raises(DgnError) as caught:
        load_network(NAME, weights=str(tmp_path / "w.pth"))
    text = str(caught.value)
    assert f"they lack 'layer2.0.conv1.weight', 'layer2.0.bn1.weight', 'layer2.0.bn1.bias' ({count} such)" in text
    assert "they hold the unknown 'model.a', 'model.b' (2 such)" in text and "\n" not in text
    torch.save({**state, "layer1.0.conv1.weight": torch.ones(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(DgnError, match=r"they misshape .*'layer1\.0\.conv1\.weight'"):
        load_network(NAME, weights=str(tmp_path / "w.pth"))


def test_another_architectures_folder_is_named(tmp_path: Path) -> None:
    save_file({"vit.embeddings.cls_token": torch.zeros(1, 1, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(DgnError, match="they are of ViTForImageClassification"):
        load_network(NAME, weights=str(tmp_path))


def test_two_networks_in_one_file_are_refused(tuned: nn.Module, tmp_path: Path) -> None:
    state = dict(tuned.state_dict())
    torch.save({**prefixed(state, "student."), **prefixed(state, "teacher.")}, tmp_path / "w.pth")
    with pytest.raises(DgnError, match=r"hold several networks, 'student\.' and 'teacher\.'"):
        load_network(NAME, weights=str(tmp_path / "w.pth"))
    torch.save({"student": state, "teacher": state}, tmp_path / "w.pth")
    with pytest.raises(DgnError, match=r"several state dicts \('student', 'teacher'\)"):
        load_network(NAME, weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_pickled_objects_are_refused_with_what_to_do(suffix: str, tuned: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save({"state_dict": tuned.state_dict(), "hyper_parameters": argparse.Namespace(lr=0.1)}, path)
    with pytest.raises(DgnError) as caught:
        load_network(NAME, weights=str(path))
    text = str(caught.value)
    assert "pickled objects such as argparse.Namespace" in text and "'weights.pth')" in text and "\n" not in text
    assert ("weights_only=False" in text) == (suffix == ".ckpt")
    torch.save(tuned, path)
    with pytest.raises(DgnError, match=r"pickled objects such as timm\.\S+, which could run code"):
        load_network(NAME, weights=str(path))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_files_that_are_no_weights(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "s.pt")
    torch.save({"epoch": 3, "loss": [1.0]}, tmp_path / "n.pth")
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in "ab":
        torch.save({"w": torch.ones(1)}, tmp_path / "two" / f"{name}.pth")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    for name, message in (
        ("s.pt", "it is a TorchScript program"), ("n.pth", "holds no state dict of tensors"),
        ("empty", "holds no file of weights"), ("two", r"2 files of weights \(a\.pth, b\.pth\): give one"),
        ("model.safetensors.index.json", "is no list of shards: '../../etc/passwd'"), ("nowhere", "no weights file"),
    ):  # fmt: skip
        with pytest.raises(DgnError, match=message):
            read_weights(tmp_path / name)


def test_weights_of_an_exported_program_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(DgnError, match="holds weights of its own"):
        load_network("net.pt2", weights=str(tmp_path / "w.pth"))
