"""A network that runs on crops of an image, and threads that do so side by side."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dgn.analysis.ablation.cuts import Pair
from dgn.network import adapt
from dgn.network.layout.survey import pick

if TYPE_CHECKING:
    from dgn.analysis.ablation.patches import PatchReader

MOST_WORKERS = 8
"""Threads that share the patches; more cores than that work together on each."""


class Done(Exception):
    """Everything that was asked for has been read."""


class Misfit(Exception):
    """A layer's map of a part of the image doesn't have the size that it should."""


@dataclass(frozen=True)
class Span:
    """One patch along one axis: at each cut, the rows that it changes and the rows that are computed on."""

    touched: tuple[Pair, ...]
    crops: tuple[Pair, ...]


@contextmanager
def workers(reader: PatchReader, count: int) -> Iterator[Any]:
    """A function that gives parts to so many threads, each with its own copy of the module, but for the weights."""
    shared = {id(tensor): tensor for tensor in [*reader.module.parameters(), *reader.module.buffers()]}
    try:
        modules = [
            reader.module,
            *(adapt.copied(reader.module, dict(shared)) for _ in range(min(count, MOST_WORKERS) - 1)),
        ]
    except Exception:
        modules = [reader.module]
    if len(modules) == 1:
        alone = Worker(reader, reader.module)
        with alone.hooked(), torch.no_grad():
            yield lambda work, parts: (work(alone, part) for part in parts)
        return
    before = torch.get_num_threads()
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(
        len(modules), initializer=torch.set_num_threads, initargs=(max(1, before // len(modules)),)
    )
    opened = []

    def submit(work: Callable[[Worker, Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
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
            worker = Worker(reader, module)
            opened.append(worker.hooked())
            opened[-1].__enter__()
            idle.put(worker)
        yield submit
    finally:
        pool.shutdown(cancel_futures=True)
        for context in opened:
            context.__exit__(None, None, None)
        torch.set_num_threads(before)


class Worker:
    """One thread's module with the hooks that put maps together."""

    def __init__(self, reader: PatchReader, module: nn.Module) -> None:
        self.reader, self.module = reader, module
        self.spans: list[tuple[Span, Span]] | None = None
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

    def run(self, spans: list[tuple[Span, Span]] | None) -> dict[str, Tensor]:
        """The layers for patches; for None those of the image, whose maps are kept."""
        self.spans, self.read, self.calls = spans, {}, Counter()
        with suppress(Done):
            self._take("", self.module(self.reader.image if spans is None else self._build(0, None)))
        return self.read

    def _tap(self, module: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._take(module, output)
            if len(self.read) == len(self.reader.layers):
                raise Done

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
            raise Misfit
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
