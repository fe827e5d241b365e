"""Fifty architectures of torchvision and timm (random weights), and what a hand-written hook reads of their layers.

``python -m tests.architectures`` prints the table of ``docs/results/architectures.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import torch
from torch import Tensor, nn

import dgn
from dgn.analysis.ablation import ablate
from dgn.analysis.examples import find_examples
from dgn.analysis.facets import late_features
from dgn.network.network import Network
from dgn.priors.pixel import PixelPrior


@dataclass(frozen=True)
class Read:
    """A layer and its axes, written down by hand from the architecture's source.

    Attributes:
        layer: its name.
        axes: ``NCHW``, ``NHWC``, ``NLC`` or ``NC``.
        grid, before: of tokens, the grid of patches and the number of others in front of it.
    """

    layer: str
    axes: str
    grid: tuple[int, int] = (0, 0)
    before: int = 0

    def count(self, output: Tensor) -> int:
        """Features of the layer."""
        return output.shape[self.axes.index("C")]

    def maps(self, output: Tensor, unit: int) -> Tensor:
        """The unit at all places, ``[N, ...]``."""
        return output.select(self.axes.index("C"), unit)

    def mean(self, output: Tensor, unit: int) -> Tensor:
        """The unit's mean over all places, ``[N]``."""
        return self.maps(output, unit).reshape(len(output), -1).mean(1)

    def at(self, output: Tensor, unit: int, y: int, x: int) -> Tensor:
        """The unit at one place, ``[N]``."""
        maps = self.maps(output, unit)
        return maps[:, self.before + y * self.grid[1] + x] if self.axes == "NLC" else maps[:, y, x]

    def cells(self, output: Tensor) -> tuple[int, int]:
        """Height and width of the grid of places."""
        if self.axes == "NLC":
            return self.grid
        height, width = self.axes.index("H"), self.axes.index("W")
        return output.shape[height], output.shape[width]

    def peak(self, output: Tensor, unit: int, image: int) -> tuple[int, int]:
        """Where in the grid the unit is highest."""
        height, width = self.cells(output)
        maps = self.maps(output, unit)[image].flatten()[self.before :][: height * width]
        return tuple(divmod(int(maps.argmax()), width))  # type: ignore[return-value]


def m(layer: str) -> Read:
    """A map ``[N, C, H, W]``."""
    return Read(layer, "NCHW")


def last(layer: str) -> Read:
    """A map ``[N, H, W, C]``."""
    return Read(layer, "NHWC")


def t(layer: str, side: int, before: int = 0) -> Read:
    """Tokens: a square grid behind some others."""
    return Read(layer, "NLC", (side, side), before)


OUT = Read("output", "NC")

ARCHITECTURES: dict[str, tuple[int, Sequence[Read]]] = {
    "torchvision/swin_t": (96, [last("features.1"), last("features.5.3.mlp.0"), last("features.7"), OUT]),
    "torchvision/swin_v2_t": (96, [last("features.3"), last("features.7.1"), last("norm")]),
    "torchvision/convnext_tiny": (96, [m("features.3"), last("features.5.4.block.3"), m("features.7")]),
    "torchvision/vit_b_32": (224, [m("conv_proj"), t("encoder.layers.encoder_layer_5", 7, 1), t("encoder.ln", 7, 1)]),
    "torchvision/maxvit_t": (224, [m("stem"), m("blocks.1"), m("blocks.3.layers.1")]),
    "torchvision/regnet_y_400mf": (96, [m("trunk_output.block3"), m("trunk_output"), OUT]),
    "torchvision/resnet18": (96, [m("layer2.1.conv2"), m("layer4"), OUT]),
    "torchvision/resnext50_32x4d": (96, [m("layer3.2"), m("layer4"), OUT]),
    "torchvision/densenet121": (96, [m("features.denseblock2"), m("features"), OUT]),
    "torchvision/inception_v3": (128, [m("Mixed_5d"), m("Mixed_7c"), OUT]),
    "torchvision/googlenet": (96, [m("inception4a"), m("inception5b"), OUT]),
    "torchvision/vgg11_bn": (96, [m("features.8"), m("features"), OUT]),
    "torchvision/squeezenet1_1": (96, [m("features.8"), m("features"), OUT]),
    "torchvision/alexnet": (96, [m("features.3"), m("features"), OUT]),
    "torchvision/mobilenet_v3_small": (96, [m("features.6"), m("features"), OUT]),
    "torchvision/mnasnet0_5": (96, [m("layers.9"), m("layers"), OUT]),
    "torchvision/shufflenet_v2_x0_5": (96, [m("stage3"), m("conv5"), OUT]),
    "torchvision/efficientnet_b0": (96, [m("features.5"), m("features"), OUT]),
    "timm/tf_efficientnet_lite0": (96, [m("blocks.4.2"), m("bn2"), OUT]),
    "timm/vit_tiny_patch16_224": (224, [t("patch_embed", 14), t("blocks.5", 14, 1), t("blocks.8.mlp.fc1", 14, 1), OUT]),
    "timm/vit_small_patch16_dinov3": (128, [t("blocks.2", 8, 5), t("blocks.11.mlp.fc2", 8, 5), t("norm", 8, 5)]),
    "timm/vit_base_patch32_clip_224": (224, [t("norm_pre", 7, 1), t("blocks.6.attn.proj", 7, 1)]),
    "timm/deit_tiny_distilled_patch16_224": (224, [t("blocks.3", 14, 2), t("norm", 14, 2), OUT]),
    "timm/beit_base_patch16_224": (224, [t("blocks.2", 14, 1), t("blocks.4.mlp", 14, 1)]),
    "timm/eva02_tiny_patch14_224": (224, [t("blocks.4", 16, 1), t("norm", 16, 1)]),
    "timm/cait_xxs24_224": (224, [t("blocks.5", 14), t("blocks.7.mlp.fc1", 14), t("norm", 14, 1)]),
    "timm/xcit_nano_12_p16_224": (224, [t("blocks.3", 14), t("blocks.11.mlp", 14), t("norm", 14, 1)]),
    "timm/convnextv2_atto": (96, [m("stages.1"), m("stages.3.blocks.1"), OUT]),
    "timm/maxvit_rmlp_pico_rw_256": (128, [m("stem"), last("stages.1.blocks.0.attn_grid"), m("stages.3")]),
    "timm/coatnet_pico_rw_224": (224, [m("stages.0"), m("stages.1"), m("stages.3")]),
    "timm/mobilevit_xxs": (128, [m("stages.2.1"), m("stages.4.1"), m("final_conv")]),
    "timm/mobilevitv2_050": (128, [m("stages.2.1"), m("stages.4"), OUT]),
    "timm/mixer_s32_224": (224, [t("blocks.0.norm1", 7), t("blocks.2", 7), t("blocks.5.mlp_channels.fc1", 7)]),
    "timm/resmlp_12_224": (224, [t("blocks.2", 14), t("blocks.9.mlp_channels", 14), OUT]),
    "timm/gmlp_ti16_224": (224, [t("blocks.4", 14), t("norm", 14), OUT]),
    "timm/poolformer_s12": (96, [m("stages.1"), m("stages.3.blocks.1"), OUT]),
    "timm/caformer_s18": (96, [m("stages.1"), t("stages.2.blocks.3.mlp.fc1", 6), OUT]),
    "timm/efficientformer_l1": (224, [m("stages.1"), t("stages.3.blocks.4", 7), OUT]),
    "timm/nfnet_l0": (96, [m("stages.1"), m("stages.3.2"), OUT]),
    "timm/ghostnet_050": (96, [m("blocks.3"), m("blocks.8.0"), OUT]),
    "timm/hrnet_w18_small": (96, [m("stage2.output.1"), m("stage4.output.0"), m("incre_modules.3"), OUT]),
    "timm/swin_tiny_patch4_window7_224": (
        224,
        [last("layers.0"), t("layers.1.blocks.0.mlp.fc1", 28), last("layers.3")],
    ),
    "timm/swinv2_tiny_window8_256": (256, [last("layers.1"), last("layers.3.blocks.1"), OUT]),
    "timm/pvt_v2_b0": (96, [m("stages.0"), t("stages.2.blocks.1", 6), m("stages.3")]),
    "timm/edgenext_xx_small": (96, [m("stages.1"), last("stages.2.blocks.1.mlp.fc1"), m("stages.3")]),
    "timm/levit_128s": (224, [m("stem"), t("stages.0.blocks.1", 14), t("stages.1.blocks.2", 7)]),
    "timm/twins_svt_small": (224, [t("blocks.0.1", 56), t("blocks.2.4", 14), OUT]),
    "timm/mvitv2_tiny": (224, [t("stages.0.blocks.0", 56), t("stages.2.blocks.3", 14)]),
    "timm/davit_tiny": (224, [m("stages.0"), m("stages.2"), OUT]),
    "timm/focalnet_tiny_srf": (96, [m("layers.0"), m("layers.2"), OUT]),
    "timm/repvgg_a0": (96, [m("stages.1"), m("stages.3"), OUT]),
    "timm/fastvit_t8": (96, [m("stages.1"), m("final_conv"), OUT]),
    "timm/convmixer_768_32": (96, [m("stem"), m("blocks.5"), OUT]),
}
"""Name -> pixels, layers."""

TABLE_ALONE = {
    "torchvision/vit_b_32", "timm/swinv2_tiny_window8_256", "timm/swin_tiny_patch4_window7_224", "timm/davit_tiny",
    "timm/mvitv2_tiny", "timm/twins_svt_small", "timm/coatnet_pico_rw_224", "timm/convmixer_768_32",
    "timm/focalnet_tiny_srf", "timm/gmlp_ti16_224", "torchvision/maxvit_t", "timm/resmlp_12_224",
    "timm/vit_small_patch16_dinov3", "timm/vit_base_patch32_clip_224", "torchvision/swin_v2_t", "timm/nfnet_l0",
    "torchvision/vgg11_bn", "torchvision/resnext50_32x4d", "torchvision/mnasnet0_5", "torchvision/efficientnet_b0",
    "timm/poolformer_s12", "timm/repvgg_a0", "timm/ghostnet_050", "timm/mobilevitv2_050", "torchvision/alexnet",
}  # fmt: skip
"""Of the table alone, not of the tests: of each a relative is in these."""


SHORTER: dict[str, dict[str, int]] = {
    "vit_small_patch16_dinov3": {"img_size": 128},
    "maxvit_rmlp_pico_rw_256": {"img_size": 128},
    "vit_base_patch32_clip_224": {"depth": 7},
    "cait_xxs24_224": {"depth": 8, "depth_token_only": 2},
    "beit_base_patch16_224": {"depth": 5, "embed_dim": 192, "num_heads": 3},
}
"""Arguments that make large ones quick to try; their code is the same."""


def build(name: str, size: int) -> nn.Module:
    """The architecture with random weights that do something: some start with scales near zero."""
    source, _, kind = name.partition("/")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if source == "torchvision":
            import torchvision

            module = torchvision.models.get_model(kind, weights=None)
        else:
            import timm

            module = timm.create_model(kind, pretrained=False, **SHORTER.get(kind, {}))
    for key, parameter in module.named_parameters():
        if (parameter.dim() <= 1 and key.rpartition(".")[2] in ("gamma", "layer_scale")) or ".ls" in key:
            nn.init.uniform_(parameter, 0.2, 0.6)
    return module.eval()


def hooked(module: nn.Module, read: Read, images: Tensor, network: Network) -> Tensor:
    """What the layer gives, by a hook of one's own on the module as its library made it."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (network.mean, network.std))
    got: list[Tensor] = []
    name, _, part = read.layer.partition(".output.")
    if read.layer == "output":
        with torch.no_grad():
            return module((images - mean) / std)
    hook = module.get_submodule(name).register_forward_hook(
        lambda _m, _i, out: got.append((out[int(part or 0)] if isinstance(out, (tuple, list)) else out).clone())
    )
    with torch.no_grad():
        module((images - mean) / std)
    hook.remove()
    return got[0]


def compare(name: str) -> list[tuple[str, str]]:
    """Every way in which dgn reads the layers of an architecture, against the hook.

    Returns:
        Each layer with what ``dgn units`` says of it.

    Raises:
        AssertionError: a number differs.
    """
    size, reads = ARCHITECTURES[name]
    module = build(name, size)
    network = Network(module, size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    images = (images * 255).round() / 255  # data sets keep 8 bits
    said = []
    for read in reads:
        layout = network.layout(read.layer)
        said.append((read.layer, layout.kind))
        output = hooked(module, read, images, network)
        count, unit = read.count(output), min(5, read.count(output) - 1)
        assert len(dgn.select_units(f"{read.layer}:all", network)) == count, (read.layer, count)
        specs, expected = [f"{read.layer}:{unit}"], [read.mean(output, unit)]
        if read.axes != "NC":
            height, width = read.cells(output)
            y, x = height - 1, width // 3
            specs += [f"{read.layer}:{unit}@{y},{x}", f"{read.layer}:{unit}@center"]
            expected += [read.at(output, unit, y, x), read.at(output, unit, height // 2, width // 2)]
        result = dgn.synthesize(
            network, specs, prior=PixelPrior(size), steps=1, start=images[0], fit="resize", precision="fp32"
        )
        close(result.activations, torch.stack([values[0] for values in expected]), f"{specs}")
        found, _, _ = find_examples(network, dgn.parse_units(specs, network), list(images), k=3, boxes=False)
        for one, spec, values in zip(found, specs, expected, strict=True):
            close(torch.tensor([example.activation for example in one.top]), values.sort(descending=True).values, spec)
        if read.axes != "NC":
            best = found[0].top[0]
            assert best.position == read.peak(output, unit, best.index), (spec, best.position)
        close(late_features(network, images, read.layer)[:, unit], expected[0], f"facets of {read.layer}")
        patch = size // 2
        result = ablate(network, images[0], specs[-1], size=patch, stride=patch, fill="grey")
        covered = images[:1].clone()
        covered[:, :, :patch, :patch] = 0.5
        without = hooked(module, read, covered, network)
        last_of = read.mean(without, unit) if read.axes == "NC" else read.at(without, unit, height // 2, width // 2)
        close(torch.tensor([result.activation]), expected[-1][:1], f"ablation of {specs[-1]}")
        close(result.drops[0, 0][None], expected[-1][:1] - last_of, f"ablation of {specs[-1]}", float(output.std()))
    return said


def close(got: Tensor, expected: Tensor, what: str, scale: float = 0.0) -> None:
    """Equal within float error: the fused copy adds in another order."""
    room = 2e-3 * (expected.abs() + scale) + 1e-5
    assert bool(((got - expected).abs() <= room).all()), f"{what}: {got.tolist()}, by hand {expected.tolist()}"


HEAD = """# Units of {count} architectures, against hooks written by hand

`python -m tests.architectures > docs/results/architectures.md` made this
({date}, {versions}); the slow tests run 28 of them.
The weights are random. A hook of one's own on the module, as its library made it, gives a layer's number of features, a
unit's mean over all positions, one position, the centre, the place of the peak, the facets' features, and what covering
a quarter of the image takes away. *Equal*: synthesis, examples, facets and ablation give the same within float error.

| architecture | pixels | layers, as `dgn units` says | |
|---|---|---|---|"""


def main() -> None:
    """Print the page."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    print(HEAD.format(count=len(ARCHITECTURES), date=datetime.now(UTC).date(), versions=versions), flush=True)
    for name, (size, _) in ARCHITECTURES.items():
        try:
            said, equal = compare(name), "equal"
        except (AssertionError, dgn.DgnError) as error:
            said, equal = [], f"**{error}**"
        layers = "; ".join(f"`{layer}` {kind}" for layer, kind in said)
        print(f"| {name} | {size} | {layers} | {equal} |", flush=True)


if __name__ == "__main__":
    main()
