"""Which settings of the ascent? python benchmarks/ascent_sweep.py DATA PHOTOS [judge ...]

Changes one thing at a time in the ascent of the shipped prior and measures each variant with ``dgn evaluate``: the same
50 classes, the same seed. Variants that ``benchmarks/results/ascent_sweep`` holds already are left out;
``--variants`` chooses some.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from collect import known, merge, run

ONE = "starts: 1, steps: 120"
"""A single start, with the steps that the winner of a race has."""

PAPER = (
    "rule: nguyen2016, lr_end: 1e-10, decay: .99, sigmas: 3, steps: 200, refine_steps: 0, starts: 1, jitter: 0, "
    "scale: 0, noise: 0, input_size: 128, reencode: 0"
)
"""The rule of 2016, in the code itself at the final size; the rate of 8 belongs to CaffeNet's fc6."""

VARIANTS = {
    "default": "",
    "one_start": ONE,
    "mean_start": f"{ONE}, start_scale: 0",
    "wide_starts": "start_scale: 3",
    "rule_nguyen2016": f"{PAPER}, lr: 8",
    "rule_nguyen2016_slow": f"{PAPER}, lr: .5",
    "no_transformations": "jitter: 0, scale: 0, noise: 0",
    "lr_half": "lr: .05",
    "lr_double": "lr: .2",
    "decay_.99": "decay: .99",
    "box_2_sigmas": "sigmas: 2",
    "no_reencoding": "reencode: 0",
    "no_refinement": "steps: 170, refine_steps: 0",
    "refine_radius_2": "refine_radius: 2",
    "refine_radius_.5": "refine_radius: .5",
    "input_128": "input_size: 128",
    "input_192": "input_size: 192",
    "steps_double": "steps: 180, refine_steps: 160",
    "starts_8": "starts: 8",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="training images")
    parser.add_argument("photos", help="held-out photographs")
    parser.add_argument("judges", nargs="*", default=["efficientnet_lite2"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    results = Path(__file__).parent / "results" / "ascent_sweep"
    for name in options.variants:
        method = name.replace(".", "")  # a sign of Hydra's grammar can't stand in a key
        if method in known(results):
            continue
        out = Path("runs/ascent_sweep") / method
        run(
            "evaluate", f"data.root={options.data}", f"data.photos={options.photos}",
            f"judges=[{','.join(options.judges)}]", "prior=[]",
            f"+prior.{method}={{path: dgn, size: 128, ascent: {{{VARIANTS[name]}}}}}",
            f"classes={options.classes}", f"seeds={options.seeds}", "data.per_class=10", "data.most_photos=100",
            "tracking=off", f"out={out}",
        )  # fmt: skip
        merge(results, out, ["real", *(key.replace(".", "") for key in VARIANTS)])


if __name__ == "__main__":
    main()
