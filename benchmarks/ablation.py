"""Region ablation against Captum's Occlusion at its defaults: python benchmarks/ablation.py [--threads N]

The same network, image, windows and strides, in one process; all take turns, and each one's fastest run counts. A bare
loop of the network's forward pass over as many preloaded images is measured with them, at the batch that is fastest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from captum.attr import Occlusion
from machine import alternate, machine

import dgn
from dgn.analysis.ablation import ablate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[8])
    parser.add_argument("--bare", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = dgn.load_network(options.network, weights=options.weights)
    image = torch.rand(3, *network.input_size, generator=torch.Generator().manual_seed(0))
    prepared = network.prepare(image[None])
    windows = {
        "sliding_window_shapes": (3, options.size, options.size),
        "strides": (3, options.stride, options.stride),
        "target": 0,
    }
    settings = {"size": options.size, "stride": options.stride}
    first = ablate(network, image, 0, **settings)
    count = first.drops.numel()

    def bare(batch: int) -> None:
        images = prepared.repeat(batch, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            for _ in range(count // batch):
                network.module(images)

    theirs = []
    calls = {
        "captum, default": lambda: theirs.append(Occlusion(network.module).attribute(prepared, **windows)),
        **{f"bare forward, batch {batch}": lambda batch=batch: bare(batch) for batch in options.bare},
        **{
            f"dgn, batch {batch}": lambda batch=batch: ablate(network, image, 0, **settings, batch=batch)
            for batch in options.batches
        },
    }
    seconds = alternate(calls, options.rounds, options.minutes)
    captum = seconds["captum, default"]
    fastest = min(value["wall"] for name, value in seconds.items() if name.startswith("bare"))
    result = {
        "machine": machine(), "network": options.network, **settings, "patches": count,
        "seconds": seconds,
        "largest difference from captum": float((first.heat - theirs[0][0, 0]).abs().max()),
        "times captum": {
            name: {key: round(captum[key] / value[key], 2) for key in ("wall", "cpu")}
            for name, value in seconds.items() if name.startswith("dgn")
        },
        "share of the bare forward speed": {
            name: round(fastest / value["wall"], 2) for name, value in seconds.items() if name.startswith("dgn")
        },
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    folder = Path(__file__).parent / "results" / "ablation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{options.network.replace('/', '_')}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
