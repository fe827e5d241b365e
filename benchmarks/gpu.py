"""What a GPU does with dgn, in at most eight minutes: python benchmarks/gpu.py [PART ...] [--minutes 8] [--results OUT]

Parts, in this order, each a process of its own that is stopped when its share of the minutes is over:

    ``pass``       a network's pass, forwards and backwards to the image, in bf16, as PyTorch calls the module (channels
                   last), compiled, dgn's fused copy, that as a CUDA graph, that compiled, and lucent's step (float32),
                   beside its roofline
    ``kernels``    which kernels the fused pass of ResNet-50 spends its time in, by kind
    ``busy``       the share of an ascent's time that the GPU spends in kernels
    ``thousand``   the command that makes an image of each of 1,000 classes, from its start to its last picture
    ``precision``  bf16 beside float32: activations of the same units, paired
    ``training``   images a second of the decoder's and the flow's trainers, and their share of the matrix rate

A row is written (``rows.jsonl``) as soon as it is measured, so that a part that is cut short loses nothing;
``gpu.json`` and ``table.md`` hold all that there is. A part that is run again replaces its rows.

Roofline: floating-point operations over the measured rate of a matrix product (8192 x 8192, bf16), bytes over the
measured rate of a copy; the larger is the least time that a pass can take. Bytes are what the fused copy's operations
have to read and write.

    python benchmarks/gpu.py --device cpu --tiny    # a rehearsal: small networks, few steps
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import clock, machine, matrix_rate, median, memory_rate
from PIL import Image
from rivals import load, lucent
from rooflines import measure
from torch import Tensor

import dgn
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.training.decoder import GeneratorTraining
from dgn.training.flow import FlowTraining
from dgn.training.recipes import recipe, settings_of
from dgn.training.state import Machine

Rows = Iterator[dict[str, Any]]
SHARES = {"pass": 0.32, "kernels": 0.06, "busy": 0.08, "thousand": 0.34, "precision": 0.1, "training": 0.1}
"""Of the minutes; what a part leaves over goes to those after it."""
NETWORKS = ("torchvision/resnet50", "efficientnet_lite0", "torchvision/vit_b_16")
KINDS = {
    "layout copies and casts": r"nchwto|nhwcto|copy|transpose|cast|convert",
    "matrix products and convolutions": r"gemm|cutlass|conv|wgrad|dgrad|nvjet|xmma|fmha|flash",
    "pooling and reductions": r"pool|reduce|softmax|norm",
    "elementwise": r"elementwise|vectorized|triton",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(SHARES), metavar="PART")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    strays = [part for part in options.parts if part not in SHARES]
    if strays:
        parser.error(f"no part {strays[0]!r}; there are {', '.join(SHARES)}")
    if options.child:
        return measure_part(options)
    options.results.mkdir(parents=True, exist_ok=True)
    kept = options.results / "rows.jsonl"
    rows = [row for row in read(kept) if row["part"] not in options.parts]
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ends = time.monotonic() + 60 * options.minutes
    for index, part in enumerate(options.parts):
        left = sum(SHARES[later] for later in options.parts[index:])
        limit = max(1.0, (ends - time.monotonic()) * SHARES[part] / left)
        ended = run_part(part, options, limit)
        if ended:
            with kept.open("a") as file:
                file.write(json.dumps({"part": part, "ended": ended}) + "\n")
        write(options.results, read(kept))


def run_part(part: str, options: argparse.Namespace, limit: float) -> str:
    """Why it did not come to its end; empty where it did."""
    words = ["--device", options.device, "--results", str(options.results), *(["--tiny"] if options.tiny else [])]
    command = [sys.executable, __file__, part, "--child", *words]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and what it started
        process.wait()
        return f"stopped after {limit:.0f} s"
    return f"failed with exit code {code}" if code else ""


def measure_part(options: argparse.Namespace) -> None:
    part = options.parts[0]
    parts = {"pass": passes, "kernels": kernels, "busy": busy, "thousand": thousand, "precision": precision}
    made = {**parts, "training": training}[part]
    torch.manual_seed(0)
    options.device = torch.device(options.device)
    with (options.results / "rows.jsonl").open("a") as file:
        for row in made(options):
            row = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}
            file.write(json.dumps({"part": part, **row}) + "\n")
            file.flush()
            print(json.dumps(row), flush=True)


# --- the pass ------------------------------------------------------------------------------------------------


def passes(options: argparse.Namespace) -> Rows:
    matrix = matrix_rate(options.device, torch.bfloat16 if options.device.type == "cuda" else torch.float32)
    memory = memory_rate(options.device)
    yield {"matrix_rate": matrix, "memory_rate": memory, **machine()}
    cases = [(NETWORKS[1], 1)] if options.tiny else [(name, batch) for batch in (64, 1, 256) for name in NETWORKS]
    for compiled in (False, True):  # what takes minutes to compile comes last, the most wanted first
        for name, batch in cases:
            network = opened(name, options)
            x, fast = canvas(network, batch), network.fast([OUTPUT]).module
            cost = measure(partial(backward, fast, x))
            limit = max(cost.flops / matrix, cost.bytes / memory)
            sizes = {"gflops": cost.flops / 1e9, "gbytes": cost.bytes / 1e9, "limit_ms": 1e3 * limit}
            found = compiled_ways(network, fast, name, batch) if compiled else ways(network, fast, batch)
            for way, prepare in found.items():
                row: dict[str, Any] = {"network": name, "batch": batch, "way": way, **sizes}
                try:
                    began = time.perf_counter()
                    call = prepare(x)
                    call()
                    row["first_s"] = time.perf_counter() - began
                    row["ms"] = 1e3 * seconds(call, options)
                    row["share_of_limit"] = limit / row["ms"] * 1e3
                except Exception as error:
                    row["error"] = next(iter(str(error).splitlines()), type(error).__name__)[:200]
                yield row


def opened(name: str, options: argparse.Namespace) -> Network:
    network = load(name, options.device)
    return network.at((64, 64)) if options.tiny else network


def canvas(network: Network, batch: int) -> Tensor:
    x = torch.rand(batch, 3, *network.input_size, device=network.device)
    return x.contiguous(memory_format=torch.channels_last)


def backward(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """One pass in bf16, forwards and back to the image."""
    leaf = x.detach().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda", cache_enabled=False):
        y = module(leaf)
    y.float().sum().backward()  # the weights are frozen; torch.autograd.grad can't be counted
    assert leaf.grad is not None
    return leaf.grad


Way = Callable[[Tensor], Callable[[], object]]
"""Prepares the pass for these images."""


def ways(network: Network, fast: Any, batch: int) -> dict[str, Way]:
    made = {"PyTorch": plain(channels_last(network)), "dgn": plain(fast)}
    if batch <= 64 and network.device.type == "cuda":
        made["dgn, CUDA graph"] = lambda x: captured(partial(backward, fast, x))
    if batch <= 64:
        made["lucent, float32"] = lambda x: lucent_step(network, len(x))
    return made


def compiled_ways(network: Network, fast: Any, name: str, batch: int) -> dict[str, Way]:
    """On a CPU without a compiler's code: that its graphs can be made is all that a rehearsal shows."""
    torch._dynamo.config.recompile_limit = 256  # one forward of the fused copy serves convolutions of all sizes
    settings: dict[str, Any] = {"dynamic": False} | ({"backend": "eager"} if network.device.type == "cpu" else {})
    module = channels_last(network)
    made = {"dgn, compiled": plain(torch.compile(fast, **settings))}
    made["compiled"] = plain(torch.compile(module, **settings))
    if (name, batch) == (NETWORKS[0], 64):
        made["compiled, max-autotune"] = plain(torch.compile(module, mode="max-autotune", **settings))
    return made


def channels_last(network: Network) -> Any:
    module: Any = network.module
    return module.to(memory_format=torch.channels_last)


def plain(module: Callable[[Tensor], Tensor]) -> Way:
    return lambda x: partial(backward, module, x)


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """The same as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def lucent_step(network: Network, batch: int) -> Callable[[], object]:
    run = lucent(network, OUTPUT, list(range(batch)))
    return lambda: run(1)  # its canvas is made and its hooks are set each time, which a long render does once


def seconds(call: Callable[[], object], options: argparse.Namespace) -> float:
    """A call, when the device always has the next one waiting; the median of three runs."""
    steps = 1 if options.tiny else 10
    return median([clock(lambda: [call() for _ in range(steps)], options.device)["wall"] / steps for _ in range(3)])


# --- where the time goes -------------------------------------------------------------------------------------


def profiled(call: Callable[[], object], device: torch.device) -> tuple[dict[str, float], float]:
    """Seconds by kernel (on a CPU: by operation), and seconds on the wall."""
    from torch.profiler import ProfilerActivity, profile

    kind = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as found:
        wall = clock(call, device)["wall"]
    spent: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        spent[event.key] += time_of(event, device) / 1e6
    return {key: value for key, value in spent.items() if value}, wall


def time_of(event: Any, device: torch.device) -> float:
    """Microseconds that an event itself took; on a GPU of kernels alone: calls that wait are listed, too."""
    if device.type == "cpu":
        return float(event.self_cpu_time_total)
    return float(event.self_device_time_total) if event.device_type == torch.autograd.DeviceType.CUDA else 0.0


def kind_of(kernel: str) -> str:
    return next((kind for kind, words in KINDS.items() if re.search(words, kernel, re.IGNORECASE)), "other")


def kernels(options: argparse.Namespace) -> Rows:
    name = NETWORKS[1] if options.tiny else NETWORKS[0]
    network = opened(name, options)
    for batch in (1,) if options.tiny else (64, 256):
        x, fast = canvas(network, batch), network.fast([OUTPUT]).module
        for _ in range(3):
            backward(fast, x)
        spent, wall = profiled(lambda fast=fast, x=x: backward(fast, x), options.device)
        kinds: dict[str, float] = defaultdict(float)
        for kernel, value in spent.items():
            kinds[kind_of(kernel)] += value
        for kind, value in sorted(kinds.items(), key=lambda one: -one[1]):
            yield {"network": name, "batch": batch, "kind": kind, "ms": 1e3 * value, "wall_ms": 1e3 * wall}
        for kernel, value in sorted(spent.items(), key=lambda one: -one[1])[:12]:
            yield {"network": name, "batch": batch, "kernel": kernel[:120], "kind": kind_of(kernel), "ms": 1e3 * value}


def busy(options: argparse.Namespace) -> Rows:
    network = dgn.load_network("efficientnet_lite0", device=options.device)
    for prior in ("pixel",) if options.tiny else ("pixel", "dgn"):
        for batch in (2,) if options.tiny else (64, 256):
            settings: dict[str, Any] = {"prior": prior, "steps": 2 if options.tiny else 30}
            units = [str(index) for index in range(batch)]
            dgn.synthesize(network, units[:1], **settings)  # what is prepared once
            climb = partial(dgn.synthesize, network, units, **settings)
            spent, wall = profiled(climb, options.device)
            yield {"prior": prior, "batch": batch, "seconds": wall, "share_in_kernels": sum(spent.values()) / wall}


# --- whole jobs ----------------------------------------------------------------------------------------------


def thousand(options: argparse.Namespace) -> Rows:
    units = "units=[0,1]" if options.tiny else "units=all"
    for prior in ("pixel",) if options.tiny else ("dgn", "fourier", "pixel"):
        more = ["ascent.steps=2", "batch=2"] if options.tiny else ["batch=256"]
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-m", "dgn", "synthesize", units, f"prior={prior}", f"prior.{prior}.size=128", *more,
                "seeds=1", "tracking=off", "progress=false", f"device={options.device}", f"out={folder}/run",
            ]  # fmt: skip
            began = time.perf_counter()
            ended = subprocess.run(command, capture_output=True, text=True)
            row: dict[str, Any] = {"prior": prior, "seconds": time.perf_counter() - began}
            if ended.returncode:
                row["error"] = ended.stderr.strip().splitlines()[-1][:200]
            else:
                manifest = json.loads((Path(folder) / "run" / "manifest.json").read_text())
                row |= {"images": len(list((Path(folder) / "run" / "images").glob("*.png")))}
                row["job_seconds"] = manifest["seconds"]
            yield row


def precision(options: argparse.Namespace) -> Rows:
    """bf16 is of the network; generators decode in float32."""
    network = dgn.load_network("efficientnet_lite0", device=options.device)
    units = [str(index) for index in range(0, 1000, 500 if options.tiny else 10)]
    for prior in ("pixel",) if options.tiny else ("dgn", "pixel", "fourier"):
        found = {}
        for kind in ("fp32", "bf16"):
            settings: dict[str, Any] = {"steps": 2} if options.tiny else {}
            began = time.perf_counter()
            made = dgn.synthesize(network, units, prior=prior, precision=kind, **settings)
            found[kind] = made.activations.double(), time.perf_counter() - began
        (full, slow), (half, quick) = found["fp32"], found["bf16"]
        apart = (half - full) / full.mean()
        yield {
            "prior": prior, "units": len(units), "bf16_higher_by": float(apart.mean()),
            "standard_error": float(apart.std() / len(apart) ** 0.5), "fp32_seconds": slow, "bf16_seconds": quick,
        }  # fmt: skip


def training(options: argparse.Namespace) -> Rows:
    rate = matrix_rate(options.device, torch.bfloat16 if options.device.type == "cuda" else torch.float32)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images" / "a"
        images.mkdir(parents=True)
        for index in range(24 if options.tiny else 1024):
            pixels = rng.integers(0, 255, (18, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((144, 144)).save(images / f"{index}.jpg")
        for kind, make in (("decoder", GeneratorTraining), ("flow", FlowTraining)):
            changes: dict[str, Any] = {"batch": 4, "held_out": 4} if options.tiny else {}
            if kind == "decoder":  # with its adversary, as nine tenths of its steps are
                changes |= {"adversary_start": 0.0, **({"statistics_images": 8} if options.tiny else {})}
            values = recipe("spatial128_gpu8" if kind == "decoder" else "flow_gpu8")
            settings = settings_of({**values, **changes}, "efficientnet_lite0", seed=0)
            place = Machine(str(options.device), 0 if options.tiny else 8, compile=options.device.type == "cuda")
            run: Any = make(settings, images.parent, Path(folder) / kind, place)
            batches = iter(run.batches())
            updates = 1 if options.tiny else 20

            def update(times: int, run: Any = run, batches: Iterator[Any] = batches) -> None:
                for _ in range(times):
                    run.update(next(batches))

            cost = measure(partial(update, 1))
            update(updates // 4)
            each = clock(partial(update, updates), options.device)["wall"] / updates
            row = {"kind": kind, "batch": settings.batch, "ms": 1e3 * each, "images_a_second": settings.batch / each}
            yield row | {"gflops": cost.flops / 1e9, "share_of_matrix_rate": cost.flops / each / rate}


# --- what is kept --------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    """Whole lines; one that was being written when its part was stopped is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write(results: Path, rows: list[dict[str, Any]]) -> None:
    (results / "gpu.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    text = []
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [{key: value for key, value in row.items() if key != "part"} for row in rows if row["part"] == part]
        text.append(f"## {part}\n")
        for columns in dict.fromkeys(tuple(row) for row in mine):
            text.append("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
            text += [
                "| " + " | ".join(str(row[key]) for key in columns) + " |" for row in mine if tuple(row) == columns
            ]
            text.append("")
    (results / "table.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
