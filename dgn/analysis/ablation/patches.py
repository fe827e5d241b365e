"""Layers of images that differ from one image in a rectangle only: what a rectangle can't change isn't computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dgn.analysis.ablation.crops import Misfit, Span, Worker, workers
from dgn.analysis.ablation.cuts import Cut, Pair, changed, choose_cuts, needed
from dgn.analysis.ablation.search import find_cuts
from dgn.network.network import Network

Place = tuple[int, int]
"""Top and left of a patch in pixels of the network's input."""

FEW = 48
"""For fewer patches, looking for cuts takes longer than it saves."""

CLASSES = 3
"""Sizes of crops along an axis."""

WORTH = 1.15
"""How much cheaper a patch has to be than an image, by the count of multiplications, for cuts to be used."""


TOLERANCE = 2e-5
"""Largest difference, as a share of the largest number of a layer, that a change of the order of sums may make."""


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two computations of a layer agree within :data:`TOLERANCE`."""
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())  # false for not-a-number


class PatchReader:
    """Reads layers for copies of an image in which one patch is covered.

    A patch changes only a small region of early maps. The network runs on a crop of the image around it; at layers
    where it can be cut (:mod:`dgn.analysis.ablation.search`) the crop's map is put into that of the whole image, from
    which the next crop is taken, and the last into the whole map. Every number is computed by the network itself, so
    the result is that of covering the whole image, but for the order of sums. A few patches are computed both ways;
    where they differ, all are computed on whole images.

    Args:
        network: under study.
        layers: that are read.
        image, cover: ``[C, H, W]`` in [0, 1] at the network's input size; what patches are covered with.
        places, size: of all patches.

    Attributes:
        how: ``"crops"``, or ``"whole images"``.
        clean: the layers of the image itself, each ``[1, ...]``.
    """

    def __init__(
        self, network: Network, layers: Sequence[str], image: Tensor, cover: Tensor, places: Sequence[Place], size: Pair
    ) -> None:
        self.layers, self.size, self.places = tuple(layers), size, list(places)
        self.sources = {layer: network.source(layer) for layer in layers}
        self.turn = network.turn
        with self.turn, torch.no_grad():
            if "batches" not in network.known:  # so that it is known how the module takes them
                network.features(torch.stack([image, cover]), self.layers)
                network.known["batches"] = True
            self.image, self.cover = network.prepare(image[None]), network.prepare(cover[None])
            self.memory_format = network.memory_format
            for base, chain in self._ways(network):
                self._set(base, chain)
                if (base is network and len(chain) == 1) or self._agrees(network, image, cover):
                    break
        self.how = "crops" if len(self.chain) > 1 else "whole images"

    def _ways(self, network: Network) -> Iterator[tuple[Network, list[Cut]]]:
        """What can be tried, fastest first; the last is the network itself on whole images."""
        start = [Cut("", network.channels, network.input_size)]
        key = ("cuts", network.device, network.input_size, self.layers)
        if len(self.places) >= FEW or key in network.known:
            if (
                key not in network.known
            ):  # at the price of some twenty images; each image's check says if it still holds
                network.known[key] = _cuts(network, self.layers)
            cuts, rest = network.known[key]
            fast = network.fast(self.layers)
            spans = [[(at, at + self.size[axis]) for at in sorted({place[axis] for place in self.places})]
                     for axis in (0, 1)]  # fmt: skip
            chain, gain = choose_cuts(cuts, rest, (spans[0], spans[1])) if cuts else (start, 1.0)
            if gain >= WORTH:
                yield fast, chain
            yield fast, start
        yield network, start

    def _set(self, base: Network, chain: list[Cut]) -> None:
        self.chain = chain
        threads = torch.get_num_threads() if base.device.type == "cpu" else 1
        self.module, self.threads = base.module, threads
        self.maps: list[Tensor] = [self.image]
        first = Worker(self, base.module)
        with first.hooked():
            self.clean = {layer: tensor.clone() for layer, tensor in first.run(None).items()}

    def _agrees(self, network: Network, image: Tensor, cover: Tensor) -> bool:
        """Whether patches at a corner, an edge, the other corner and the middle give what they give on whole images."""
        row = len({left for _, left in self.places})
        tried = sorted({0, row // 2, len(self.places) - 1, len(self.places) // 2})
        images = image.repeat(len(tried), 1, 1, 1)
        for number, at in enumerate(tried):
            top, left = self.places[at]
            where = (slice(None), slice(top, top + self.size[0]), slice(left, left + self.size[1]))
            images[number][where] = cover[where]
        worker = Worker(self, self.module)
        try:
            with worker.hooked():
                found = worker.run([self._spans(self.places[at]) for at in tried])
            expected = network.features(images, self.layers)
            return all(_close(found[layer].float(), expected[layer].float()) for layer in self.layers)
        except (Misfit, RuntimeError):
            return False

    def _spans(self, place: Place) -> tuple[Span, Span]:
        return self._span(0, place[0]), self._span(1, place[1])

    def _span(self, axis: int, at: int) -> Span:
        touched = [(at, at + self.size[axis])]
        crops = []
        for before, cut in zip(self.chain, self.chain[1:], strict=False):
            touched.append(changed(cut, axis, touched[-1]))
            crops.append(needed(cut, before, axis, touched[-1]))
        return Span(tuple(touched), tuple(crops))

    def read(
        self, value: Callable[[dict[str, Tensor], int], Tensor], batch: int, note: Callable[[int], object] | None = None
    ) -> Tensor:
        """One number a patch, ``[places]``, in their order.

        Args:
            value: from the layers' outputs for N images, and N, to numbers ``[N]``; called in several threads.
            batch: patches a forward pass.
            note: called with the number of patches done.
        """
        spans = [{at: self._span(axis, at) for at in sorted({place[axis] for place in self.places})} for axis in (0, 1)]
        classes = [_classes(spans[axis]) for axis in (0, 1)]
        for axis in (0, 1):
            _widen(spans[axis], classes[axis])
        together: dict[tuple[int, int], list[int]] = {}
        for n, (top, left) in enumerate(self.places):
            together.setdefault((classes[0][top], classes[1][left]), []).append(n)
        parts = [part.tolist() for group in together.values()
                 for part in torch.tensor(group).tensor_split(-(-len(group) // batch))]  # fmt: skip
        values = torch.zeros(len(self.places))
        done = 0
        with self.turn, workers(self, min(self.threads, len(parts))) as submit:

            def work(worker: Worker, part: list[int]) -> tuple[list[int], list[float]]:
                places = [self.places[n] for n in part]
                read = worker.run([(spans[0][top], spans[1][left]) for top, left in places])
                return part, value(read, len(part)).float().tolist()

            for part, numbers in submit(work, parts):
                values[part] = torch.tensor(numbers)
                done += len(part)
                if note:
                    note(done)
        return values


def _cuts(network: Network, layers: Sequence[str]) -> tuple[list[Cut], float]:
    """The cuts; none where the module can't be watched (an exported program)."""
    try:
        return find_cuts(network, layers)
    except Exception:
        return [], 0.0


def _classes(spans: dict[int, Span]) -> dict[int, int]:
    """Places along an axis in a few classes by the size of their crops, which are then as large as the class's largest.

    Near the border a patch changes less. Few classes, for each size of a map has to be prepared by oneDNN.
    """
    size = {at: sum(high - low for low, high in span.crops) for at, span in spans.items()}
    order = sorted(size, key=lambda at: (size[at], at))
    classes = {at: rank * CLASSES // len(order) for rank, at in enumerate(order)}
    first = {size[at]: classes[at] for at in reversed(order)}  # the same size, the same class
    return {at: first[size[at]] for at in order}


def _widen(spans: dict[int, Span], classes: dict[int, int]) -> None:
    """Make the crops of each class equally large."""
    for chosen in set(classes.values()):
        inside = [at for at in spans if classes[at] == chosen]
        sides = [
            max(high - low for low, high in level) for level in zip(*(spans[at].crops for at in inside), strict=True)
        ]
        for at in inside:
            crops = tuple((low, low + side) for (low, _), side in zip(spans[at].crops, sides, strict=True))
            spans[at] = Span(spans[at].touched, crops)
