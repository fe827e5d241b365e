"""What a GPU does with an ascent: python benchmarks/gpu.py [PART ...] [--results FOLDER]

Parts: ``network`` (a network's pass, forwards and backwards: as PyTorch calls it, dgn's fused copy, the same as a CUDA
graph, and how many steps a graph takes to pay for its capture; in bf16), ``loop`` (image-steps a second of whole
ascents, by batch), ``thousand`` (the command that makes an image of each of 1,000 classes). Shares are of the rate of a
matrix product of 8192 x 8192 in bf16. torch.compile: ``compare.py compile``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compare import LAYERS, load, step_flops
from machine import clock, machine, matrix_rate, median
from torch import Tensor

import dgn
from dgn.network.network import Network

CUDA = torch.device("cuda")
Pass = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["network", "loop", "thousand"])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--priors", nargs="+", default=["dgn", "pixel"])
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rate = matrix_rate(CUDA, torch.bfloat16)
    print(f"matrix product, bf16: {rate / 1e12:.0f} TFLOP/s", flush=True)
    for part in options.parts:
        rows = {"network": passes, "loop": loops, "thousand": thousand}[part](options, rate)
        found = {"machine": machine(), "matrix_rate": rate, "rows": rows}
        (options.results / f"{part}.json").write_text(json.dumps(found, indent=1) + "\n")


def step_of(network: Network, layer: str, batch: int) -> Pass:
    """One pass, forwards and backwards."""
    x = torch.rand(batch, 3, *network.input_size, device=CUDA)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def call() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            y = network.features(x, [layer])[layer]
        return torch.autograd.grad(y.float().sum(), x)[0]

    return call


def seconds(call: Callable[[], object], steps: int, repeats: int = 3) -> float:
    """A step, when the device always has the next one waiting; the median of repeats."""
    for _ in range(3):
        call()
    return median([clock(lambda: [call() for _ in range(steps)], CUDA)["wall"] / steps for _ in range(repeats)])


def captured(call: Pass) -> tuple[Callable[[], object], float]:
    """The same as a CUDA graph, and the seconds that its warm-up and capture took."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    torch.cuda.synchronize()
    return graph.replay, time.perf_counter() - began


def passes(options: argparse.Namespace, rate: float) -> list[dict[str, Any]]:
    rows = []
    for name, layers in LAYERS.items():
        network = load(name, CUDA)
        for layer in layers.values():
            each = step_flops(network, layer)
            for batch in options.batches:
                plain, flops = step_of(network, layer, batch), batch * each
                row: dict[str, Any] = {"network": name, "layer": layer, "batch": batch, "gflops": flops / 1e9}
                row["module_ms"] = 1e3 * seconds(plain, options.steps)
                fused = step_of(network.fast([layer]), layer, batch)
                row["fused_ms"] = 1e3 * seconds(fused, options.steps)
                try:
                    replay, cost = captured(fused)
                    row["graph_ms"], row["capture_ms"] = 1e3 * seconds(replay, options.steps), 1e3 * cost
                    gain = row["fused_ms"] - row["graph_ms"]
                    row["break_even_steps"] = row["capture_ms"] / gain if gain > 0 else None
                except Exception as error:
                    row["graph_error"] = str(error).splitlines()[0]
                least = min(value for key, value in row.items() if key in ("module_ms", "fused_ms", "graph_ms"))
                row["share_of_matrix_rate"] = flops / rate / (least / 1e3)
                rows.append({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()})
                print(json.dumps(rows[-1]), flush=True)
                torch.cuda.empty_cache()
    return rows


def loops(options: argparse.Namespace, _rate: float) -> list[dict[str, Any]]:
    """Whole ascents through ``dgn.synthesize``, starts and the last look included."""
    network, rows = dgn.load_network("efficientnet_lite0", device=CUDA), []
    for prior in options.priors:
        for batch in options.batches:
            settings = {"prior": prior, "batch": batch}
            units = [str(index) for index in range(batch)]
            steps = len(dgn.synthesize(network, units, **settings).history)  # what is prepared once is
            torch.cuda.reset_peak_memory_stats()
            wall = clock(lambda: dgn.synthesize(network, units, **settings), CUDA)["wall"]  # noqa: B023
            rows.append(
                {
                    **settings, "seconds": round(wall, 2), "steps": steps,
                    "image_steps_a_second": round(batch * steps / wall), "ms_a_step": round(1e3 * wall / steps, 2),
                    "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
                }
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
            torch.cuda.empty_cache()
    return rows


def thousand(_options: argparse.Namespace, _rate: float) -> list[dict[str, Any]]:
    """The whole command, from its start to its last picture."""
    rows = []
    for prior, more in (
        ("pixel", ["ascent.steps=200", "prior.pixel.size=128"]),
        ("dgn", []),  # its own settings: see loop
    ):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-m", "dgn", "synthesize", "units=all", f"prior={prior}", *more, "batch=500",
                "tracking=off", "progress=false", "device=cuda", f"out={folder}/run",
            ]  # fmt: skip
            began = time.perf_counter()
            ended = subprocess.run(command, capture_output=True, text=True)
            wall = time.perf_counter() - began
            if ended.returncode:
                print(ended.stderr[-2000:], flush=True)
                continue
            manifest = json.loads((Path(folder) / "run" / "manifest.json").read_text())
            made = len(list((Path(folder) / "run" / "images").glob("*.png")))
            rows.append(
                {
                    "prior": prior, "images": made, "seconds": round(wall, 1), "job_seconds": manifest["seconds"],
                    "batch": manifest["batch"] or 500,
                }
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
