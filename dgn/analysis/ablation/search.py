"""Where a network can be cut: layers behind which nothing reads what lies before them, and how far each sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dgn.analysis.ablation.cuts import IMAGE, PER_NUMBER, Cut, Pair
from dgn.network import adapt
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network

MOST = 40
"""Layers that are tried, those nearest the root first."""


def find_cuts(network: Network, layers: Sequence[str]) -> tuple[list[Cut], float]:
    """The network's cuts in order, the image first, and the cost of the layers after the last.

    Nothing is assumed of the module: not-a-number tells who reads what, as in :mod:`dgn.analysis.receptive`.

    Args:
        network: under study.
        layers: that will be read; cuts lie before them.
    """
    image = Cut(IMAGE, network.channels, network.input_size)
    order, costs, shapes = _order(network, layers)
    small = (max(32, network.input_size[0] // 2), max(32, network.input_size[1] // 2))
    try:
        valid = _valid(network, order, layers, small)
    except Exception:
        valid = _valid(network, order, layers, network.input_size)
    sizes = [network.channels * network.input_size[0] * network.input_size[1]]
    sizes += [math.prod(shapes[layer]) for layer in valid]
    cuts = [image]
    for layer, (before, size, after) in zip(valid, zip(sizes, sizes[1:], [*sizes[2:], 0], strict=False), strict=True):
        if size > max(before, after):
            continue  # the numbers of a cut are copied: a cut where there are most of them is no gain
        channels, *shape = shapes[layer]
        if any(full % side for full, side in zip(cuts[-1].shape, shape, strict=True)) or min(shape) < 2:
            break
        stride = (cuts[-1].shape[0] // shape[0], cuts[-1].shape[1] // shape[1])
        cost = costs[layer] - (costs[cuts[-1].layer] if cuts[-1].layer else 0.0)
        cuts.append(Cut(layer, channels, (shape[0], shape[1]), stride, cost=cost))
    cuts = [image, *_sights(network, cuts)]
    return cuts, costs[OUTPUT] - (costs[cuts[-1].layer] if cuts[-1].layer else 0.0)


class _Done(Exception):
    """Nothing more is needed of a forward pass."""


@torch.no_grad()
def _order(network: Network, layers: Sequence[str]) -> tuple[list[str], dict[str, float], dict[str, tuple[int, ...]]]:
    """Layers of maps in the order in which they are done, what has been computed by then, and their shapes."""
    modules = {name: part for name, part in adapt.parts(network.module).items() if name}
    costs: dict[str, float] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    outputs: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    total, left = 0.0, {layer for layer in layers if layer in modules}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal total
            if not isinstance(output, Tensor):
                return
            if not list(module.children()):
                weight = getattr(module, "weight", None)
                each = weight[0].numel() if isinstance(weight, Tensor) and weight.dim() > 1 else 0
                total += output.numel() * (each + PER_NUMBER)
            calls[name] = calls.get(name, 0) + 1
            costs[name], shapes[name], outputs[name] = total, tuple(output.shape[1:]), output
            left.discard(name)
            if not left and OUTPUT not in layers:
                raise _Done

        return hook

    images = torch.full((1, network.channels, *network.input_size), 0.5, device=network.device)
    middle = (network.input_size[0] // 2, network.input_size[1] // 2)
    images[:, :, middle[0], middle[1]] = torch.nan
    handles = [adapt.hook(part, watch(name)) for name, part in modules.items()]
    try:
        network.module(network.normalised(images))
    except _Done:
        pass
    finally:
        for handle in handles:
            handle.remove()
    costs[OUTPUT] = total
    before = min((list(outputs).index(layer) for layer in layers if layer in outputs), default=len(outputs))
    named: dict[int, str] = {}
    for name, output in list(outputs.items())[:before]:
        if output.dim() == 4 and calls[name] == 1 and not output.isnan().any(1).all():  # else a patch changes all of it
            named.pop(id(output), None)
            named[id(output)] = name  # of several names of one tensor, the outermost: it is done last
    tried = [name for name in named.values() if list(modules[name].children()) or _in_a_row(network.module, name)]
    tried = [name for name, then in zip(tried, [*tried[1:], ""], strict=True) if _ends(modules, name, then)]
    roots = sorted(tried, key=lambda name: name.count("."))[:MOST]
    return [name for name in tried if name in roots], costs, shapes


def _in_a_row(root: nn.Module, name: str) -> bool:
    """Whether a layer without parts stands in the root or in a sequence, where it may be a cut."""
    parent = name.rpartition(".")[0]
    return not parent or isinstance(root.get_submodule(parent), nn.Sequential)


def _ends(modules: dict[str, nn.Module], name: str, then: str) -> bool:
    """Whether a spatial layer follows, or the layer has parts or is the last; otherwise a later cut is as good."""
    return bool(list(modules[name].children())) or not then or hasattr(modules[then], "kernel_size")


@torch.no_grad()
def _valid(network: Network, order: Sequence[str], layers: Sequence[str], size: Pair) -> list[str]:
    """Those layers that alone decide what is read: the image is not-a-number, the layer what it is for an image."""
    modules = adapt.parts(network.module)
    images = torch.rand(1, network.channels, *size, generator=torch.Generator().manual_seed(0))
    view = network.at(size)
    clean: dict[str, Tensor] = {}
    row = {layer: number for number, layer in enumerate(order)}

    def keep(layer: str) -> Any:
        return lambda _module, _inputs, output: clean.__setitem__(layer, output[:1].clone())

    def swap(layer: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[row[layer]] = clean[layer][0]
            return output

        return hook

    read = []
    for make, count in ((keep, 1), (swap, len(order))):
        handles = [adapt.hook(modules[layer], make(layer)) for layer in order]
        try:
            if count:
                given = images if make is keep else torch.full((count, *images.shape[1:]), torch.nan)
                read.append(view.features(given.to(network.device), layers))
        finally:
            for handle in handles:
                handle.remove()
    if len(read) < 2:
        return []
    return [
        layer
        for layer in order
        if all(torch.allclose(read[1][name][row[layer]], read[0][name][0], rtol=1e-3, atol=1e-5) for name in layers)
    ]


@torch.no_grad()
def _sights(network: Network, cuts: Sequence[Cut]) -> list[Cut]:
    """The cuts behind the first with their pads and fields, up to one that sees all of the cut before it.

    A row and a column of a cut are spoilt, and the next cut tells how far that reaches: one image of a batch for
    each remainder of the row by the stride.
    """
    modules = adapt.parts(network.module)
    trials = [(k, n) for k in range(1, len(cuts)) for n in range(max(cuts[k].stride))]
    reached: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def place(k: int, n: int) -> list[int]:
        return [cuts[k - 1].shape[a] // 2 // cuts[k].stride[a] * cuts[k].stride[a] + n % cuts[k].stride[a]
                for a in (0, 1)]  # fmt: skip

    def spoil(k: int, tensor: Tensor) -> Tensor:
        for row, (at, n) in enumerate(trials):
            if at == k:
                y, x = place(k, n)
                tensor[row, :, y], tensor[row, :, :, x] = torch.nan, torch.nan
        return tensor

    def watch(k: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            for row, (at, _) in enumerate(trials):
                if at == k:
                    spoilt = output[row].isnan().any(0)
                    reached.setdefault(k, []).append((spoilt.all(1).nonzero()[:, 0], spoilt.all(0).nonzero()[:, 0]))
            if k == len(cuts) - 1:
                raise _Done
            return spoil(k + 1, output.nan_to_num(0.0).clone())

        return hook

    if not trials:
        return []
    images = torch.full((len(trials), network.channels, *network.input_size), 0.5, device=network.device)
    handles = [adapt.hook(modules[cut.layer], watch(k)) for k, cut in enumerate(cuts) if k]
    try:
        network.module(network.normalised(spoil(1, images)))
    except _Done:
        pass
    finally:
        for handle in handles:
            handle.remove()
    known: list[Cut] = []
    for k, cut in enumerate(cuts[1:], 1):
        pads, fields = [0, 0], [0, 0]
        for axis in (0, 1):
            stride, edge = cut.stride[axis], cut.shape[axis] - 1
            found = [
                (rows[axis].tolist(), place(k, n)[axis])
                for rows, n in zip(reached[k], range(max(cut.stride)), strict=True)
                if len(rows[axis])
            ]
            if not found or any(rows[0] == 0 or rows[-1] == edge for rows, _ in found):
                return known
            pads[axis] = max(stride * rows[-1] - at for rows, at in found)
            fields[axis] = pads[axis] - min(stride * rows[0] - at for rows, at in found) + 1
        known.append(replace(cut, pad=(pads[0], pads[1]), field=(fields[0], fields[1])))
    return known
