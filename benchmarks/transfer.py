"""One prior, several networks: python benchmarks/transfer.py DATA PHOTOS NETWORK [NETWORK ...]

The shipped prior inverts EfficientNet-Lite0. Does it serve networks that it was not made for (Nguyen et al. 2016,
section 3.3)? For each network under study, images of the same classes are made through it and shown to the others.
Networks are names as for ``network.name``, or ``torch.export`` files. Networks that
``benchmarks/results/transfer`` holds already are left out.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from collect import compose, known, merge, run, strip

from dgn.evaluation.real import most_frequent
from dgn.network.sources import load_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="training images")
    parser.add_argument("photos", help="held-out photographs")
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--classes", type=int, default=24)
    options = parser.parse_args()
    results = Path(__file__).parent / "results" / "transfer"
    stems = [Path(name).name.removesuffix(".pt2") for name in options.networks]
    methods = ["on_" + re.sub(r"\W", "_", stem) for stem in stems]
    for name, method in zip(options.networks, methods, strict=True):
        if method in known(results):
            continue
        out = Path("runs/transfer") / method
        judges = ",".join(f"'{other}'" for other in options.networks if other != name)
        run(
            "evaluate", f"data.root={options.data}", f"data.photos={options.photos}", f"judges=[{judges}]",
            "network=custom", f"network.name='{name}'", "prior=[]",
            f"+prior.{method}={{path: dgn, size: 128, ascent: {{rule: adam}}}}", f"classes={options.classes}",
            "seeds=1", "data.per_class=10", "data.most_photos=100", "batch=12",
            "tracking=off", "trust=true", f"out={out}",
        )  # fmt: skip
        merge(results, out, ["real", *methods])
        strip(results, out, method, max(1, options.classes // 8))
    network = load_network()
    classes = most_frequent(Path(options.data), network, options.classes)[:: max(1, options.classes // 8)]
    names = [network.class_names[int(index)] for index in classes]
    labels = {method: stem.replace("_", " ") for method, stem in zip(methods, stems, strict=True)}
    compose(results, labels, names, "One prior, several networks under study")


if __name__ == "__main__":
    main()
