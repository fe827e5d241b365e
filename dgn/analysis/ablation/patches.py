"""Layers of images that differ from one image in a rectangle only: what a rectangle can't change isn't computed."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgn.analysis.ablation.cuts import Cut, Pair, changed, choose_cuts, find_cuts, needed
from dgn.network import adapt
from dgn.network.layout.survey import pick
from dgn.network.network import Network

Place = tuple[int, int]
"""Top and left of a patch in pixels of the network's input."""

MOST_WORKERS = 8
"""Threads that share the patches; more cores than that work together on each."""

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


class _Done(Exception):
    """Everything that was asked for has been read."""


class _Misfit(Exception):
    """A layer's map of a part of the image doesn't have the size that it should."""


@dataclass(frozen=True)
class _Span:
    """One patch along one axis: at each cut, the rows that it changes and the rows that are computed on."""

    touched: tuple[Pair, ...]
    crops: tuple[Pair, ...]


class PatchReader:
    """Reads layers for copies of an image in which one patch is covered.

    A patch changes only a small region of early maps. The network runs on a crop of the image around it; at layers
    where it can be cut (:mod:`dgn.analysis.ablation.cuts`) the crop's map is put into that of the whole image, from
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
        first = _Worker(self, base.module)
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
        worker = _Worker(self, self.module)
        try:
            with worker.hooked():
                found = worker.run([self._spans(self.places[at]) for at in tried])
            expected = network.features(images, self.layers)
            return all(_close(found[layer].float(), expected[layer].float()) for layer in self.layers)
        except (_Misfit, RuntimeError):
            return False

    def _spans(self, place: Place) -> tuple[_Span, _Span]:
        return self._span(0, place[0]), self._span(1, place[1])

    def _span(self, axis: int, at: int) -> _Span:
        touched = [(at, at + self.size[axis])]
        crops = []
        for before, cut in zip(self.chain, self.chain[1:], strict=False):
            touched.append(changed(cut, axis, touched[-1]))
            crops.append(needed(cut, before, axis, touched[-1]))
        return _Span(tuple(touched), tuple(crops))

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
        with self.turn, _workers(self, min(self.threads, MOST_WORKERS, len(parts))) as submit:

            def work(worker: _Worker, part: list[int]) -> tuple[list[int], list[float]]:
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


def _classes(spans: dict[int, _Span]) -> dict[int, int]:
    """Places along an axis in a few classes by the size of their crops, which are then as large as the class's largest.

    Near the border a patch changes less. Few classes, for each size of a map has to be prepared by oneDNN.
    """
    size = {at: sum(high - low for low, high in span.crops) for at, span in spans.items()}
    order = sorted(size, key=lambda at: (size[at], at))
    classes = {at: rank * CLASSES // len(order) for rank, at in enumerate(order)}
    first = {size[at]: classes[at] for at in reversed(order)}  # the same size, the same class
    return {at: first[size[at]] for at in order}


def _widen(spans: dict[int, _Span], classes: dict[int, int]) -> None:
    """Make the crops of each class equally large."""
    for chosen in set(classes.values()):
        inside = [at for at in spans if classes[at] == chosen]
        sides = [
            max(high - low for low, high in level) for level in zip(*(spans[at].crops for at in inside), strict=True)
        ]
        for at in inside:
            crops = tuple((low, low + side) for (low, _), side in zip(spans[at].crops, sides, strict=True))
            spans[at] = _Span(spans[at].touched, crops)


@contextmanager
def _workers(reader: PatchReader, count: int) -> Iterator[Any]:
    """A function that gives parts to so many threads, each with its own copy of the module, but for the weights."""
    shared = {id(tensor): tensor for tensor in [*reader.module.parameters(), *reader.module.buffers()]}
    try:
        modules = [reader.module, *(adapt.copied(reader.module, dict(shared)) for _ in range(count - 1))]
    except Exception:
        modules = [reader.module]
    if len(modules) == 1:
        alone = _Worker(reader, reader.module)
        with alone.hooked(), torch.no_grad():
            yield lambda work, parts: (work(alone, part) for part in parts)
        return
    before = torch.get_num_threads()
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(
        len(modules), initializer=torch.set_num_threads, initargs=(max(1, before // len(modules)),)
    )
    opened = []

    def submit(work: Callable[[_Worker, Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        def one(part: Any) -> Any:
            worker = idle.get()
            try:
                with torch.no_grad():
                    return work(worker, part)
            finally:
                idle.put(worker)

        for future in as_completed([pool.submit(one, part) for part in parts]):
            yield future.result()

    try:
        for module in modules:
            worker = _Worker(reader, module)
            opened.append(worker.hooked())
            opened[-1].__enter__()
            idle.put(worker)
        yield submit
    finally:
        pool.shutdown(cancel_futures=True)
        for context in opened:
            context.__exit__(None, None, None)
        torch.set_num_threads(before)


class _Worker:
    """One thread's module with the hooks that put maps together."""

    def __init__(self, reader: PatchReader, module: nn.Module) -> None:
        self.reader, self.module = reader, module
        self.spans: list[tuple[_Span, _Span]] | None = None
        self.starts: list[tuple[int, int]] = []
        self.expected: Pair = (0, 0)
        self.read: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()

    @contextmanager
    def hooked(self) -> Iterator[None]:
        modules = adapt.parts(self.module)
        handles = []
        for level, cut in enumerate(self.reader.chain):
            if level:
                handles.append(adapt.hook(modules[cut.layer], self._join(level)))
        for module in {source.module for source in self.reader.sources.values()} - {""}:
            handles.append(adapt.hook(modules[module], self._tap(module)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, spans: list[tuple[_Span, _Span]] | None) -> dict[str, Tensor]:
        """The layers for patches; for None those of the image, whose maps are kept."""
        self.spans, self.read, self.calls = spans, {}, Counter()
        with suppress(_Done):
            self._take("", self.module(self.reader.image if spans is None else self._build(0, None)))
        return self.read

    def _tap(self, module: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._take(module, output)
            if len(self.read) == len(self.reader.layers):
                raise _Done

        return hook

    def _take(self, module: str, output: Any) -> None:
        """Keep what is read of this call of a module."""
        self.calls[module] += 1
        for layer, source in self.reader.sources.items():
            if (source.module, source.call) == (module, self.calls[module]):
                self.read[layer] = pick(output, source.path).clone()

    def _join(self, level: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            if self.spans is None:
                self.reader.maps.append(output.clone())
                return None
            return self._build(level, output)

        return hook

    def _build(self, level: int, fresh: Tensor | None) -> Tensor:
        """The input of what follows a cut: crops of the clean map (behind the last cut, all of it) with what is new."""
        assert self.spans is not None
        reader, spans, count = self.reader, self.spans, len(self.spans)
        clean = reader.maps[level]
        cut = reader.chain[level]
        last = level == len(reader.chain) - 1
        size, starts = cut.shape, [(0, 0)] * count
        if not last:
            sides = [max(span[axis].crops[level][1] - span[axis].crops[level][0] for span in spans) for axis in (0, 1)]
            size = (sides[0], sides[1])
            starts = [
                (min(y.crops[level][0], cut.shape[0] - size[0]), min(x.crops[level][0], cut.shape[1] - size[1]))
                for y, x in spans
            ]
        if fresh is not None and (fresh.shape[2], fresh.shape[3]) != self.expected:
            raise _Misfit
        built = clean.new_empty((count, clean.shape[1], *size)).contiguous(memory_format=reader.memory_format)
        for n, ((rows, columns), (y, x)) in enumerate(zip(spans, starts, strict=True)):
            built[n] = clean[0, :, y : y + size[0], x : x + size[1]]
            (top, bottom), (left, right) = rows.touched[level], columns.touched[level]
            top, bottom = max(top, y), min(bottom, y + size[0])
            left, right = max(left, x), min(right, x + size[1])
            if top >= bottom or left >= right:
                continue
            if fresh is None:
                new = reader.cover[0, :, top:bottom, left:right]
            else:
                above, before = (start // step for start, step in zip(self.starts[n], cut.stride, strict=True))
                new = fresh[n, :, top - above : bottom - above, left - before : right - before]
            built[n, :, top - y : bottom - y, left - x : right - x] = new
        self.starts = starts
        if not last:
            step = reader.chain[level + 1].stride
            self.expected = (size[0] // step[0], size[1] // step[1])
        return built
