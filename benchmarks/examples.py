"""The search for examples against the bare forward pass: python benchmarks/examples.py FOLDER_OR_TAR [--threads N]

The bare loop runs the network, stopped at the deepest layer that is read, over as many preloaded images as the search
decodes, reads and ranks; both take turns in one process, and each one's fastest run counts. Decoding alone is measured
too: on a machine without idle cores it takes its share of the same processor time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from machine import alternate, machine

import dgn
from dgn.analysis.examples import find_examples
from dgn.analysis.squares import Squares
from dgn.units.units import parse_units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = dgn.load_network(options.network, weights=options.weights)
    units = parse_units([*range(100), "0.5*1 + 0.5*2"], network)
    squares = Squares(options.data, network.input_size[0])
    kept = {entry.name for entry in (squares._entries or [])[: options.images]}
    squares = squares.only(lambda entry: entry.name in kept)
    images = squares.tensors(list(range(options.batch)))

    def bare(batch: int) -> None:
        with torch.inference_mode():
            for _ in range(len(squares) // batch):
                network.features(images[:batch], ["output"])

    def search(batch: int) -> None:
        find_examples(network, units, squares, k=9, batch=batch, workers=options.workers, boxes=False)

    calls = {f"bare forward, batch {b}": lambda b=b: bare(b) for b in (8, options.batch)}
    calls["search"] = lambda: search(options.batch)
    calls["search, batch 8"] = lambda: search(8)
    calls["decoding alone"] = lambda: [squares[index] for index in range(len(squares))]
    seconds = alternate(calls, options.rounds, options.minutes)
    fastest = min(value["wall"] for name, value in seconds.items() if name.startswith("bare"))
    best = min((name for name in seconds if name.startswith("search")), key=lambda name: seconds[name]["wall"])
    result = {
        "machine": machine(), "network": options.network, "images": len(squares), "units": len(units),
        "batch": options.batch, "workers": options.workers, "seconds": seconds,
        "images a second": {name: round(len(squares) / value["wall"], 1) for name, value in seconds.items()},
        "share of the bare forward speed": round(fastest / seconds[best]["wall"], 2),
        "share of decoding in the search's processor time": round(
            seconds["decoding alone"]["cpu"] / seconds[best]["cpu"], 2
        ),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    folder = Path(__file__).parent / "results" / "examples"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{options.network.replace('/', '_')}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
