"""What goes into modules, single heads, named tokens, opened attention: compared with hooks written by hand."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import dgn
from dgn.errors import DgnError
from dgn.network.fast.convolution import Convolution
from dgn.units.read import Reader


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    """timm's, with two registers: 16 patches, two blocks, three heads of 64."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, reg_tokens=2, num_classes=5).eval()


@pytest.fixture(scope="module")
def network(vit: nn.Module) -> dgn.Network:
    return dgn.Network(vit, 64)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def taken(module: nn.Module, name: str, images: Tensor, read: Callable[..., Any] = lambda *given: given[0]) -> Any:
    """What goes into a part of a module, by a hook."""
    seen: list[Any] = []
    part = module.get_submodule(name)
    handle = part.register_forward_pre_hook(
        lambda _part, given, named: seen.append(read(*given, *named.values()).clone()), with_kwargs=True
    )
    module((images - 0.5) / 0.5)
    handle.remove()
    return seen[0]


def test_what_goes_into_a_module(vit: nn.Module, network: dgn.Network, images: Tensor) -> None:
    """The residual stream, an MLP's neurons behind GELU, an attention's heads, the classifier's features."""
    for name in ("blocks.1", "blocks.1.norm1", "blocks.0.attn.proj", "blocks.1.mlp.fc2", "head"):
        layer = f"{name}.input"
        read = network.features(images, [layer, "output"])
        torch.testing.assert_close(read[layer], taken(vit, name, images))
        assert network.layer_shape(layer) == tuple(read[layer].shape[1:]) and layer not in network.layers
        kind = network.layout(layer).kind
        assert kind == ("vector" if name == "head" else "tokens, class + 2 registers + 4 x 4"), name


def test_tokens_stand_where_their_names_say(network: dgn.Network, vit: Any, images: Tensor) -> None:
    tokens = network.features(images, ["pos_drop"])["pos_drop"]
    parameters = {"cls": vit.cls_token[0, 0], "reg0": vit.reg_token[0, 0], "reg1": vit.reg_token[0, 1]}
    for name, parameter in parameters.items():
        (unit,) = dgn.parse_units(f"pos_drop:7@{name}", network)
        (at,) = unit.terms[0].position  # type: ignore[misc]
        torch.testing.assert_close(tokens[0, at], parameter + vit.pos_embed[0, at])


def test_nothing_behind_it_is_computed(network: dgn.Network, images: Tensor) -> None:
    network.features(images, ["blocks.1.attn.proj.input"])  # what has to be found out first is found now
    called: list[str] = []
    for name in ("blocks.1.attn.qkv", "blocks.1.attn.proj", "blocks.1.mlp"):
        network.module.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.append(name))
    try:
        network.features(images, ["blocks.1.attn.proj.input"])
    finally:
        for part in network.module.modules():
            part._forward_pre_hooks.clear()
    assert called == ["blocks.1.attn.qkv", "blocks.1.attn.proj"]  # this hook, then the one that reads and stops


def test_units_inside(network: dgn.Network, vit: nn.Module, images: Tensor) -> None:
    """Places, tokens by name, a whole head, a direction: each with its value from the hook."""
    mixed = taken(vit, "blocks.1.attn.proj", images)  # [2, 19, 192]: class, two registers, 4 x 4
    expected = {
        "blocks.1.attn.proj.input:70": mixed[:, :, 70].mean(1),
        "blocks.1.attn.head1:6": mixed[:, :, 70].mean(1),
        "blocks.1.attn.head1:6@cls": mixed[:, 0, 70],
        "blocks.1.attn.head1:6@reg1": mixed[:, 2, 70],
        "blocks.1.attn.head1:6@1,2": mixed[:, 3 + 6, 70],
        "blocks.1.attn.head1:*": mixed[:, :, 64:128].square().mean((1, 2)),
    }
    for unit, values in expected.items():
        reader = Reader(network, dgn.parse_units([unit] * 2, network))
        torch.testing.assert_close(reader(network.features(images, reader.layers)), values, msg=unit)
    along = dgn.direction(network, "blocks.1.attn.head1", torch.ones(64))
    found = dgn.ablate(network, images[0], along, size=64, stride=64)
    assert found.activation == pytest.approx(float(mixed[0, :, 64:128].mean(0).sum()), rel=1e-4)
    assert [unit.name for unit in dgn.select_units("blocks.1.attn.head2:all", network)][-1] == "blocks.1.attn.head2:63"


@pytest.mark.parametrize("unit", [
    "blocks.1.attn.head2:17",
    pytest.param("blocks.1.attn.proj.input:17", marks=pytest.mark.slow),
    pytest.param("blocks.1.attn.attn_drop:1@0,5", marks=pytest.mark.slow),
])  # fmt: skip
def test_what_is_inside_is_climbed(unit: str, network: dgn.Network) -> None:
    result = dgn.synthesize(network, unit, prior="pixel", steps=3, transforms=[])
    assert result.activations[0] > result.history[0, 0]


def test_other_input_sizes_and_copies(vit: nn.Module, images: Tensor) -> None:
    flexible = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, dynamic_img_size=True).eval()
    network = dgn.Network(flexible, 64)
    layers = ["blocks.0.attn.head0", "blocks.0.attn.attn_drop", "blocks.0.mlp.fc2.input"]
    larger = network.at(96)
    assert [larger.layer_shape(layer) for layer in layers] == [(64, 37), (3, 37, 37), (37, 768)]
    read = larger.features(images, layers)
    assert [tuple(read[layer].shape[1:]) for layer in layers] == [larger.layer_shape(layer) for layer in layers]
    before = network.features(images, layers)
    network.to("cpu")
    for layer, values in network.derive("part", network._made(layers[0])).features(images, layers).items():  # type: ignore[arg-type]
        torch.testing.assert_close(values, before[layer])


def test_fused_attention_is_opened_where_it_is_asked_for(network: dgn.Network, vit: nn.Module, images: Tensor) -> None:
    assert vit.blocks[1].attn.fused_attn  # type: ignore[index, union-attr]
    y = taken(vit, "blocks.1.attn", images)
    attn: Any = vit.get_submodule("blocks.1.attn")
    with torch.no_grad():
        q, k, _ = attn.qkv(y).view(2, 19, 3, 3, 64).permute(2, 0, 3, 1, 4)
        expected = (q @ k.transpose(-2, -1) / 8).softmax(-1)  # [2, heads, queries, keys]
    for layer in ("blocks.1.attn.attn_drop", "blocks.1.attn.attn_drop.input"):
        read = network.features(images, [layer, "output"])
        torch.testing.assert_close(read[layer], expected)
        torch.testing.assert_close(read["output"], vit((images - 0.5) / 0.5), rtol=1e-4, atol=1e-5)
        assert network.layout(layer).kind == "array" and network.map_shape(layer) == (3, 19, 19)
    assert [part.fused_attn for part in network.module.modules() if hasattr(part, "fused_attn")] == [True, True]
    opened = network.fast(["blocks.1.attn.attn_drop"]).module
    assert [part.fused_attn for part in opened.modules() if hasattr(part, "fused_attn")] == [True, False]
    assert next(opened.parameters()) is next(network.module.parameters())
    unit = "blocks.1.attn.attn_drop:2@0,5"  # how much the class token takes from token 5
    assert dgn.ablate(network, images[0], unit, size=64, stride=64).activation == pytest.approx(
        float(expected[0, 2, 0, 5]), rel=1e-4
    )


def by_hand(attention: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities ``[N, heads, L, L]`` and what is projected ``[N, L, C]``, of ``nn.MultiheadAttention``."""
    n, length, width = y.shape
    q, k, v = F.linear(y, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    q, k, v = (part.view(n, length, attention.num_heads, -1).transpose(1, 2) for part in (q, k, v))
    probabilities = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return probabilities, (probabilities @ v).transpose(1, 2).reshape(n, length, width)


@torch.no_grad()
def test_pytorchs_attention(images: Tensor) -> None:
    """torchvision's transformer: its attention is one function, of which no part is ever called."""
    torch.manual_seed(2)
    module = VisionTransformer(64, 16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=5).eval()
    nn.init.normal_(module.heads.head.weight)  # type: ignore[union-attr, arg-type]
    network = dgn.Network(module, 64)
    name = "encoder.layers.encoder_layer_1.self_attention"
    probabilities, mixed = by_hand(module.get_submodule(name), taken(module, name, images))
    layers = [f"{name}.out_proj.input", f"{name}.out_proj", f"{name}.attn_drop", f"{name}.head3", "output"]
    read = network.features(images, layers)
    torch.testing.assert_close(read[layers[0]], mixed)
    torch.testing.assert_close(read[layers[1]], module.get_submodule(f"{name}.out_proj")(mixed))
    torch.testing.assert_close(read[layers[2]], probabilities)
    torch.testing.assert_close(read[layers[3]], mixed[..., 24:].movedim(-1, 1))
    torch.testing.assert_close(read["output"], module((images - 0.5) / 0.5))
    assert network.layout(layers[0]).kind == "tokens, class + 4 x 4"
    assert [heads.words for heads in network.heads][1] == f"heads 0 to 3: {name}.head0 ... [8]"
    assert not hasattr(network.module.get_submodule(name), "attn_drop")


class Encoder(nn.Module):
    """Patches, a class token, PyTorch's own layers, which it runs in one function where nobody looks."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.patch, self.cls_token = nn.Conv2d(3, 16, 16, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=first), 2)
        self.head, self.first = nn.Linear(16, 5), first

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch(x).flatten(2).transpose(1, 2)], 1)
        tokens = self.layers(tokens) if self.first else self.layers(tokens.transpose(0, 1)).transpose(0, 1)
        return self.head(tokens[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("first", [True, False])
def test_pytorchs_encoder_with_the_samples_first_and_second(first: bool, images: Tensor) -> None:
    torch.manual_seed(3)
    module = Encoder(first).eval()
    network = dgn.Network(module, 64)
    name = "layers.layers.1.self_attn"
    y = taken(module, name, images)
    probabilities, mixed = by_hand(module.get_submodule(name), y if first else y.transpose(0, 1))
    layers = [f"{name}.out_proj.input", f"{name}.attn_drop", f"{name}.head1", "output"]
    read = network.features(images, layers)
    torch.testing.assert_close(read[layers[0]], mixed if first else mixed.transpose(0, 1))
    torch.testing.assert_close(read[layers[1]], probabilities)
    torch.testing.assert_close(read[layers[2]], mixed[..., 4:8].movedim(-1, 1))
    torch.testing.assert_close(read["output"], module((images - 0.5) / 0.5), rtol=1e-4, atol=1e-5)
    found = dgn.ablate(network, images[0], f"{name}.head1:2@cls", size=64, stride=64)
    assert found.activation == pytest.approx(float(mixed[0, 0, 6]), rel=1e-4)


@pytest.mark.slow
def test_windows_have_heads_too(images: Tensor) -> None:
    torch.manual_seed(4)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(2, 1, 1, 1), embed_dim=24, num_classes=3
    ).eval()
    network, small = dgn.Network(swin, 32), images[:, :, :32, :32].contiguous()
    mixed = taken(swin, "layers.0.blocks.1.attn.proj", small)  # [2 * 4 windows, 16 tokens, 24]
    read = network.features(small, ["layers.0.blocks.1.attn.head2"])["layers.0.blocks.1.attn.head2"]
    torch.testing.assert_close(read, mixed.view(2, 4, 16, 24)[..., 16:].movedim(-1, 1))


class Mixed(nn.Module):
    """Parts that take several tensors, keywords, one tensor twice, a list; that change what they are given in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.both, self.twice, self.listed, self.number, self.spare = Both(), Both(), Listed(), Number(), nn.ReLU()
        self.named = nn.ModuleDict({"input": nn.Conv2d(4, 2, 1)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        x = self.both(x, scale=2 * x)
        x = self.twice(x, scale=x)
        x = self.listed([x, x + 1])
        x = x + self.number(3)
        return self.named["input"](x).mean((2, 3))


class Both(nn.Module):
    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        kept = x * scale
        x.add_(100)
        return kept


class Listed(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[0] - 0.5 * maps[1]


class Number(nn.Module):
    def forward(self, n: int) -> float:
        return float(n)


@torch.no_grad()
def test_arguments_of_all_kinds() -> None:
    torch.manual_seed(5)
    module = Mixed().eval()
    network = dgn.Network(module, 8)
    images = torch.rand(2, 3, 8, 8)
    x = F.relu(module.norm(module.conv((images - 0.5) / 0.5)))
    layers = ["both.input.0", "both.input.scale", "twice.input", "listed.input.0.0", "listed.input.0.1", "output"]
    read = network.features(images, layers)
    torch.testing.assert_close(read["both.input.0"], x)  # as it was, before it was changed in place
    torch.testing.assert_close(read["both.input.scale"], 2 * x)
    torch.testing.assert_close(read["twice.input"], 2 * x * x)  # twice the same tensor is one
    torch.testing.assert_close(read["listed.input.0.1"], read["listed.input.0.0"] + 1)
    assert network.layout("both.input.scale").kind == "map" and network.layer_shape("listed.input.0.1") == (4, 6, 6)
    assert network.seen("named.input").call.input is False  # a module of that name is read by it
    torch.testing.assert_close(network.features(images, ["named.input.input"])["named.input.input"].shape, (2, 4, 6, 6))


@torch.no_grad()
def test_inputs_of_what_is_fused() -> None:
    """The ones between a convolution and what became a part of it are right, and so are those around it."""
    torch.manual_seed(6)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()).eval()
    module[1].running_mean.normal_()  # type: ignore[union-attr, operator]
    network = dgn.Network(module, 12)
    images = torch.rand(2, 3, 12, 12)
    fused = []
    for name in ("0", "1", "2", "3", "4"):
        fast = network.fast([f"{name}.input"])
        fused.append(any(isinstance(part, Convolution) for part in list(fast.module.children())[:1]))
        read = fast.features(images, [f"{name}.input"])[f"{name}.input"]
        torch.testing.assert_close(read, taken(module, name, images), rtol=1e-4, atol=1e-5)
    assert fused == [True, False, False, True, True]


def test_what_comes_first(network: dgn.Network) -> None:
    order = ["patch_embed", "blocks.0.input", "blocks.0.attn.proj.input", "blocks.0.attn.proj", "blocks.0.attn",
             "blocks.0", "blocks.1.attn", "output"]  # fmt: skip
    depths = [network.depth(layer) for layer in order]
    assert depths == sorted(set(depths)) and network.depth("blocks.0.attn.head1") == depths[2]
    assert network.depth("blocks.0.attn.attn_drop") == network.depth("blocks.0.attn")


def test_errors_say_what_there_is(network: dgn.Network) -> None:
    mixed = dgn.Network(Mixed(), 8)
    for which, unit, line in (
        (network, "blocks.1.attn.head3:0", "attention 'blocks.1.attn' has 3 heads, head0 to head2"),
        (network, "blocks.1.attn.head2:64", r"has 64 units, 0 to 63"),
        (network, "blocks.1.attn.head2", "is a layer, write blocks.1.attn.head2:INDEX"),
        (network, "blocks.1.attn.prj.input:0", "did you mean 'blocks.1.attn.proj.input'"),
        (network, "blocks.1:0@reg2", "has no token @reg2; it has @cls, @reg0, @reg1"),
        (network, "patch_embed:0@cls", r"\(tokens, 4 x 4\) has no token @cls"),
        (network, "norm.head0:1", "no layer 'norm.head0'"),
        (network, "blocks.1.attn.attn_drop:1@center", "has no grid of positions"),
        (mixed, "both.input:0", r"several tensors: name one of both\.input\.0 \[4, 6, 6\], both\.input\.scale"),
        (mixed, "number.input:0", "module 'number' .* takes no tensor of the images in the forward pass"),
        (mixed, "spare.input:0", "module 'spare' .* is not called in the forward pass"),
    ):
        with pytest.raises(DgnError, match=line):
            dgn.parse_units(unit, which)


def transformer(kind: str) -> nn.Module:
    """A small random model of Hugging Face's transformers: 4 x 4 patches, two blocks, four heads of eight features."""
    import transformers

    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64, "patch_size": 16,
        **({"mlp_ratio": 2} if kind.startswith("Dinov2") else {"intermediate_size": 64}),
    }  # fmt: skip
    torch.manual_seed(7)
    model: nn.Module = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes))
    return model.eval()


@pytest.mark.needs("transformers")
@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "tokens"),
    [("ViT", "class"), ("CLIPVision", "class"), ("Dinov2WithRegisters", "class + 4 registers")],
)
def test_transformers(kind: str, tokens: str, images: Tensor) -> None:
    module: Any = transformer(kind)
    network = dgn.Network(module, 64)
    heads = network.heads[1]
    projection, name = heads.layer.removesuffix(".input"), heads.attention
    read = network.features(images, [heads.layer, f"{name}.head3", f"{name}.output.1"])
    mixed = taken(module, projection, images)
    torch.testing.assert_close(read[heads.layer], mixed)
    torch.testing.assert_close(read[f"{name}.head3"], mixed[..., 24:].movedim(-1, 1))
    assert network.layout(heads.layer).kind == f"tokens, {tokens} + 4 x 4" and heads.count == 4
    assert module.config._attn_implementation == "sdpa"  # the caller's stays fused
    module.set_attn_implementation("eager")
    found: list[Tensor] = []
    module.get_submodule(name).register_forward_hook(lambda _part, _given, output: found.append(output[1]))
    module((images - 0.5) / 0.5)
    torch.testing.assert_close(read[f"{name}.output.1"], found[0])
    assert network.layout(f"{name}.output.1").kind == "array"


def test_a_dictionary_over_a_head(network: dgn.Network, images: Tensor, tmp_path: Path) -> None:
    """Listed, with the head's places and tokens, and its own name for what can be read already."""
    weights = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    zeros = {"b_enc": torch.zeros(40), "b_dec": torch.zeros(64), "W_dec": weights.T.contiguous()}
    save_file({"W_enc": weights, **zeros}, tmp_path / "sae.safetensors", {"activation": "relu"})
    head = "blocks.1.attn.head1"
    more = network.with_dictionary("sae", head, tmp_path / "sae.safetensors")
    read = more.features(images, ["sae", head])
    assert list(read) == ["sae", head] and more.layers["sae"] == (40, 19)
    torch.testing.assert_close(read["sae"], torch.einsum("ncl,cf->nfl", read[head], weights).relu())
    assert pickle.loads(pickle.dumps(more)).features(images, ["sae"])["sae"].shape == read["sae"].shape
    for taken_name in ("blocks.1.attn.head0", "blocks.0.input", "sae"):
        with pytest.raises(dgn.DgnError, match="is a layer of the network already"):
            more.with_dictionary(taken_name, head, tmp_path / "sae.safetensors")


def test_a_direction_at_a_token(network: dgn.Network, images: Tensor, tmp_path: Path) -> None:
    vector = torch.randn(192, generator=torch.Generator().manual_seed(0))
    save_file({"direction": vector}, tmp_path / "along.safetensors")
    (unit,) = dgn.parse_units([f"blocks.1:{tmp_path / 'along.safetensors'}@cls"], network)
    expected = network.features(images, ["blocks.1"])["blocks.1"][:, 0] @ vector
    torch.testing.assert_close(Reader(network, [unit] * 2)(network.features(images, ["blocks.1"])), expected)
