"""Which layer's code? python benchmarks/code_layers.py DATA PHOTOS [judge ...]

Trains one generator for each of several code layers of EfficientNet-Lite0, all with the same images, losses and number
of updates (the paper compares code layers in the same way: Nguyen et al. 2016), and measures their images with
``dgn evaluate``. Both steps resume. Layers that ``benchmarks/results/code_layers`` holds already are left out; the
trainings are kept below ``runs/code_layers``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from collect import compose, known, merge, run, strip

from dgn.evaluation.real import most_frequent
from dgn.network.sources import load_network

LAYERS = {
    "blocks.2": ("spatial", [192, 96], [3, 2]),
    "blocks.4": ("spatial", [320, 192, 96], [3, 3, 2]),
    "blocks.6": ("spatial", [320, 320, 192, 96], [1, 3, 3, 2]),
    "pooled": ("pooled", [320, 320, 192, 96], [1, 3, 3, 2]),
}
"""Code, widths and depths: from the code's resolution up, the stages are the same."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="training images")
    parser.add_argument("photos", help="held-out photographs")
    parser.add_argument("judges", nargs="*", default=["efficientnet_lite2"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--component-images", type=int, default=8000)
    options = parser.parse_args()
    results = Path(__file__).parent / "results" / "code_layers"
    for name, (code, widths, depths) in LAYERS.items():
        method = name.replace(".", "_")
        if method in known(results):
            continue
        out = f"runs/code_layers/{name}-{options.steps}"
        run(
            "train", f"data.root={options.data}", f"out={out}", "training=spatial64", "tracking=off",
            f"training.layer={'bn2' if code == 'pooled' else name}", f"training.code={code}",
            f"training.widths={widths}", f"training.depths={depths}", f"training.steps={options.steps}",
            "training.ascent_share=0", f"training.components={1024 if code == 'spatial' else 0}",
            f"training.component_images={options.component_images}",
        )  # fmt: skip
        evaluated = Path(f"runs/code_layers/{name}-{options.steps}-evaluated")
        run(
            "evaluate", f"data.root={options.data}", f"data.photos={options.photos}",
            f"judges=[{','.join(options.judges)}]", "prior=[]",
            f"+prior.{method}={{path: {out}, ascent: {{rule: adam}}}}", f"classes={options.classes}",
            f"seeds={options.seeds}", "data.most_photos=100", "tracking=off",
            f"out={evaluated}",
        )  # fmt: skip
        merge(results, evaluated, ["real", *(key.replace(".", "_") for key in LAYERS)])
        strip(results, evaluated, method, max(1, options.classes // 8))
    network = load_network()
    classes = most_frequent(Path(options.data), network, options.classes)[:: max(1, options.classes // 8)]
    names = [network.class_names[int(index)] for index in classes]
    compose(results, {name.replace(".", "_"): name for name in LAYERS}, names, "Generators of four code layers")


if __name__ == "__main__":
    main()
