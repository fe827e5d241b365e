"""Networks: frozen copies, layers, where the forward pass stops, weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import SmallCNN
from torch import nn

from dgn.errors import DgnError
from dgn.network import Network, load_network


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


def test_no_hook_is_left_behind(network: Network) -> None:
    network.features(torch.rand(1, 3, 16, 16), ["stem", "output"])
    _ = network.layers
    with pytest.raises(DgnError):
        network.features(torch.rand(1, 1, 16, 16), ["stem"])
    assert hooks(network.module) == 0


def test_forward_stops_at_the_deepest_layer(network: Network) -> None:
    calls: list[str] = []
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
    assert list(network.layers)[0] == "stem" and list(network.layers)[-1] == "output"
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
    with pytest.raises(DgnError, match="unknown fit"):
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


def test_timm_vit_reads_tokens() -> None:
    network = load_network("timm/test_vit", weights="none")
    layer = next(name for name, shape in network.layers.items() if name.endswith("blocks.0"))
    assert len(network.layers[layer]) == 2


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
    network = load_network(str(tmp_path / "net.pt2"))
    assert network.input_size == (16, 16) and list(network.layers) == ["output"]
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(network(images), Network(cnn, 16)(images))
