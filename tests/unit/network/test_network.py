"""Networks: frozen copies, layers, where the forward pass stops, weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SmallCNN
from safetensors.torch import save_file
from torch import Tensor, nn

from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.network.sources import load_network


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_callers_module_stays_as_it_was(cnn: SmallCNN) -> None:
    cnn.train()
    cnn.block.norm.running_mean.fill_(0.25)
    network = Network(cnn, 16)
    images = torch.rand(2, 3, 20, 20, requires_grad=True)
    network.features(images, ["late"])["late"].sum().backward()
    assert cnn.training and cnn.block.relu.inplace
    assert all(parameter.requires_grad and parameter.grad is None for parameter in cnn.parameters())
    assert all(parameter.grad is None for parameter in network.module.parameters())
    assert not network.module.training and images.grad is not None
    assert torch.equal(cnn.block.norm.running_mean, torch.full((8,), 0.25))


def test_callers_hooks_stay(cnn: SmallCNN) -> None:
    cnn.stem.register_forward_hook(lambda *_: None)
    network = Network(cnn, 16)
    network.features(torch.rand(1, 3, 16, 16), ["stem", "late"])
    assert hooks(cnn) == 1
    network.module.head.weight.zero_()
    assert float(cnn.head.weight.detach().abs().sum()) > 0


def test_no_hook_is_left_when_the_module_fails(network: Network) -> None:
    """The error comes from the middle of the forward pass, with hooks before and behind it."""

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    handle = network.module.late.register_forward_pre_hook(fail)
    with pytest.raises(DgnError, match="failed on an image of 16 x 16 px: in the middle"):
        _ = network.layers
    assert hooks(network.module) == 0
    handle.remove()
    assert "late" in network.layers
    handle = network.module.late.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        network.features(torch.rand(1, 3, 16, 16), ["stem", "late"])
    assert hooks(network.module) == 0
    handle.remove()
    assert network.features(torch.rand(1, 3, 16, 16), ["late"])["late"].shape == (1, 12, 4, 4)


def test_a_layer_that_never_runs_is_an_error(cnn: SmallCNN) -> None:
    cnn.spare = nn.Linear(2, 2)
    network = Network(cnn, 16)
    assert "spare" not in network.layers
    with pytest.raises(DgnError, match="layer 'spare' of network 'custom' gave no tensor"):
        network.features(torch.rand(1, 3, 16, 16), ["spare"])


class SharedReLU(nn.Module):
    """One module called twice, and an in-place functional change of what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.act(x)
        first.mul_(-1)
        return self.head(self.act(first))


def test_a_module_called_twice_is_read_at_its_first_call() -> None:
    network = Network(SharedReLU(), 8)
    images = torch.rand(1, 3, 8, 8)
    expected = (images * 2 - 1).relu()
    torch.testing.assert_close(network.features(images, ["act"])["act"], expected)
    torch.testing.assert_close(network.features(images, ["act", "head"])["act"], expected)


def test_no_hook_is_left_behind(network: Network) -> None:
    network.features(torch.rand(1, 3, 16, 16), ["stem", "output"])
    _ = network.layers
    with pytest.raises(DgnError):
        network.features(torch.rand(1, 1, 16, 16), ["stem"])
    assert hooks(network.module) == 0


def test_forward_stops_at_the_deepest_layer(network: Network) -> None:
    calls: list[str] = []
    assert network.layers  # found by whole passes, once
    for name, part in network.module.named_modules():
        part.register_forward_pre_hook(lambda _m, _i, name=name: calls.append(name))
    network.features(torch.rand(1, 3, 16, 16), ["stem", "block.conv"])
    assert "block.conv" in calls and "block.norm" not in calls and "late" not in calls and "head" not in calls


def test_layers_are_read_before_in_place_changes(network: Network) -> None:
    images = torch.rand(2, 3, 16, 16)
    read = network.features(images, ["stem", "block.norm", "output"])
    module = network.module
    stem = module.stem(network.prepare(images))
    norm = module.block.norm(module.block.conv(stem))
    torch.testing.assert_close(read["stem"], stem)
    torch.testing.assert_close(read["block.norm"], norm)
    torch.testing.assert_close(read["output"], network(images))


def test_layers_list_shapes_in_order(network: Network) -> None:
    assert next(iter(network.layers)) == "stem" and list(network.layers)[-1] == "output"
    assert network.layers["stem"] == (8, 8, 8) and network.layers["output"] == (5,)
    assert network.at(32).layers["stem"] == (8, 16, 16) and network.layers["stem"] == (8, 8, 8)


def test_unknown_layer_names_the_nearest(network: Network) -> None:
    with pytest.raises(DgnError, match=r"no layer 'block.nrm'.*'block.norm'"):
        network.features(torch.rand(1, 3, 16, 16), ["block.nrm"])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_channel_count(channels: int) -> None:
    network = Network(SmallCNN(channels), (16, 24), [0.1] * channels, [0.2] * channels)
    assert network(torch.rand(2, channels, 9, 40)).shape == (2, 5)
    with pytest.raises(DgnError, match="takes images"):
        network(torch.rand(2, channels + 1, 9, 9))


def test_resize_and_crop(network: Network) -> None:
    images = torch.rand(1, 3, 20, 24)
    cropped = network.prepare(images, "crop")
    torch.testing.assert_close(cropped, (images[:, :, 2:18, 4:20] - 0.5) / 0.5)
    assert network.prepare(images, "resize").shape == network.prepare(torch.rand(1, 3, 5, 9), "crop").shape
    enlarged = nn.functional.interpolate(images[:, :, :10, :12], size=(16, 19), mode="bilinear")
    torch.testing.assert_close(network.prepare(images[:, :, :10, :12], "crop"), enlarged[..., 1:17] * 2 - 1)
    flat = torch.full((1, 3, 33, 47), 0.75)
    torch.testing.assert_close(network.prepare(flat), torch.full((1, 3, 16, 16), 0.5))
    stripes = (torch.arange(64) % 4 == 0).float().expand(1, 3, 64, 64)
    middle = network.prepare(stripes)[..., 4:-4]  # antialiased: a quarter of white, where plain sampling sees black
    torch.testing.assert_close(middle, torch.full_like(middle, -0.5), atol=0.15, rtol=0)
    with pytest.raises(DgnError, match="expected one of resize, crop"):
        network.prepare(images, "stretch")  # type: ignore[arg-type]


def test_weights_none_path_and_misfit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = load_network("torchvision/squeezenet1_1", weights="none", input_size=64)
    path = tmp_path / "weights.pt"
    torch.save(network.module.state_dict(), path)
    again = load_network("torchvision/squeezenet1_1", weights=str(path), input_size=64)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network(images), again(images))
    with pytest.raises(DgnError, match="don't fit 'squeezenet1_0'"):
        load_network("torchvision/squeezenet1_0", weights=str(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DgnError, match="not a readable file of weights"):
        load_network("torchvision/squeezenet1_1", weights=str(path))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_state_dicts_that_lack_or_add_a_tensor(suffix: str, tmp_path: Path) -> None:
    """Wrapped and prefixed state dicts fit; one tensor too few, too many or misshapen is named."""
    name = "timm/test_resnet"
    network = load_network(name, weights="none", input_size=32)
    state, path = network.module.state_dict(), tmp_path / f"w{suffix}"

    def write(tensors: dict[str, Tensor]) -> None:
        if suffix == ".safetensors":
            save_file({key: value.contiguous() for key, value in tensors.items()}, path)
        else:
            torch.save({"state_dict": {f"module.{key}": value for key, value in tensors.items()}}, path)

    write(state)
    again = load_network(name, weights=str(path), input_size=32)
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(network(images), again(images))
    for changed, message in (
        ({key: value for key, value in state.items() if key != "fc.bias"}, "they lack 'fc.bias'"),
        ({**state, "extra": torch.zeros(1)}, "they hold the unknown 'extra'"),
        ({**state, "fc.bias": torch.zeros(3)}, "they misshape 'fc.bias'"),
    ):
        write(changed)
        with pytest.raises(DgnError, match=message):
            load_network(name, weights=str(path))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DgnError, match="not a readable file of weights"):
        load_network(name, weights=str(path))


def test_weights_never_run_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/exploded",)

    path = tmp_path / "bomb.pth"
    torch.save({"state_dict": Bomb()}, path)
    with pytest.raises(DgnError, match="not a readable file of weights"):
        load_network("timm/test_resnet", weights=str(path))
    assert not (tmp_path / "exploded").exists()


def test_efficientnet_lite0_with_its_own_weights_named_by_path(tmp_path: Path) -> None:
    network = load_network("efficientnet_lite0", weights="none", input_size=32)
    assert network.input_size == (32, 32) and network.class_names[1] == "goldfish"
    state = {key: value.contiguous() for key, value in network.module.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    again = load_network("efficientnet_lite0", weights=str(tmp_path / "w.safetensors"), input_size=32)
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(network(images), again(images))
    trained = load_network("efficientnet_lite0", input_size=32)
    assert not torch.allclose(network(images), trained(images))


@pytest.mark.parametrize(
    "options", [{"input_size": 0}, {"mean": [0.5], "std": [0.0]}, {"mean": [0.5] * 2, "std": [0.5] * 3}]
)
def test_sizes_and_normalisation_that_make_no_sense(options: dict[str, Any], cnn: SmallCNN) -> None:
    with pytest.raises(DgnError, match=r"expected pixels above 0|one value a channel"):
        Network(cnn, **{"input_size": 16, **options})


def test_timm_vit_reads_tokens() -> None:
    network = load_network("timm/test_vit", weights="none")
    patches = network.module.patch_embed.num_patches + 1  # and the class token
    assert network.layers["blocks.0"] == (patches, network.module.embed_dim)
    kept: list[Tensor] = []
    images = torch.rand(2, 3, *network.input_size)
    handle = network.module.get_submodule("blocks.0").register_forward_hook(lambda _m, _i, y: kept.append(y))
    network(images)
    handle.remove()
    torch.testing.assert_close(network.features(images, ["blocks.0"])["blocks.0"], kept[0])


@pytest.mark.parametrize(
    ("name", "hint"),
    [("efficientnet_lite9", "efficientnet_lite0"), ("torchvision/resnet5", "resnet50"), ("timm/resnet5", "resnet50"),
     ("nothing", "torchvision/NAME"), ("missing.pt2", "no file")],
)  # fmt: skip
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(DgnError, match=hint):
        load_network(name)


def test_exported_program(tmp_path: Path, cnn: SmallCNN) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(cnn.eval(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    network = load_network(str(tmp_path / "net.pt2"), trust=True)
    assert network.input_size == (16, 16) and list(network.layers) == ["output"]
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(network(images), Network(cnn, 16)(images))
