"""Region ablation against Captum's Occlusion at its defaults: python benchmarks/ablation.py [--threads N]

The same network, image, windows and strides, in one process; each is run twice and the faster run counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from captum.attr import Occlusion

import dgn
from dgn.ablation import ablate


def best(call: Callable[[], object], repeats: int = 2) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--stride", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = dgn.load_network(options.network)
    image = torch.rand(3, *network.input_size, generator=torch.Generator().manual_seed(0))
    prepared = network.prepare(image[None])
    windows = {
        "sliding_window_shapes": (3, options.size, options.size),
        "strides": (3, options.stride, options.stride),
        "target": 0,
    }
    found = {
        f"dgn, batch {batch}": best(
            lambda batch=batch: ablate(network, image, 0, size=options.size, stride=options.stride, batch=batch)
        )
        for batch in (4, 16, 64)
    }  # fmt: skip
    found["captum, default"] = best(lambda: Occlusion(network.module).attribute(prepared, **windows))
    result = {"threads": options.threads, "network": options.network, "seconds": found}
    print(json.dumps(result, indent=1))
    folder = Path(__file__).parent / "results" / "ablation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{options.network.replace('/', '_')}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
