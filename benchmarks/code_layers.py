"""Which layer's code? python benchmarks/code_layers.py DATA PHOTOS [judge ...]

Trains one generator for each of several code layers of EfficientNet-Lite0, all with the same images, losses and number
of updates (the paper compares code layers in the same way: Nguyen et al. 2016), and measures their images with
``dgn evaluate``. Both steps resume. Writes into ``benchmarks/results/code_layers``; the trainings are kept below
``runs/code_layers``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from dgn.cli.main import main as dgn

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
    options = parser.parse_args()
    priors = []
    for name, (code, widths, depths) in LAYERS.items():
        out = f"runs/code_layers/{name}-{options.steps}"
        run(
            "train", f"data.root={options.data}", f"out={out}", "training=spatial64", "tracking=off",
            f"training.layer={'bn2' if code == 'pooled' else name}", f"training.code={code}",
            f"training.widths={widths}", f"training.depths={depths}", f"training.steps={options.steps}",
            "training.ascent_share=0", f"training.components={1024 if code == 'spatial' else 0}",
        )  # fmt: skip
        priors.append(f"+prior.{name.replace('.', '_')}={{path: {out}}}")
    evaluated = Path(f"runs/code_layers/evaluated-{options.steps}")
    run(
        "evaluate", f"data.root={options.data}", f"data.photos={options.photos}",
        f"judges=[{','.join(options.judges)}]", "prior=[]", *priors, f"classes={options.classes}",
        f"seeds={options.seeds}", "tracking=off", f"out={evaluated}",
    )  # fmt: skip
    results = Path(__file__).parent / "results" / "code_layers"
    results.mkdir(parents=True, exist_ok=True)
    for file in ("table.md", "figures.csv", "panels.png", "grid.png"):
        shutil.copy(evaluated / file, results / file)


def run(*arguments: str) -> None:
    code = dgn(list(arguments))
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
