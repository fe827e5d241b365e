"""Which settings of the ascent? python benchmarks/ascent_sweep.py DATA PHOTOS [judge ...]

Changes one thing at a time in the ascent of the shipped prior, shortened, and measures each variant with
``dgn evaluate``: the same 50 classes, the same seed. Variants that
``benchmarks/results/ascent_sweep`` holds already are left out; ``--variants`` chooses some. Killed, it goes on with
the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from collect import known, merge, run

HALF = "rule: adam, starts: 1, steps: 60, refine_steps: 40"
"""What is changed one thing at a time: the first default's steps, halved to afford many variants."""

RANDOM = f"{HALF}, screen: 0"
"""The same from random codes."""

PAPER = (
    "rule: nguyen2016, lr: .5, lr_end: 1e-10, decay: .99, sigmas: 3, steps: 100, refine_steps: 0, starts: 1, "
    "jitter: 0, scale: 0, noise: 0, input_size: 128, reencode: 0, screen: 0"
)
"""The rule of 2016, in the encoder's own code at the final size; its rate of 8 belongs to CaffeNet's fc6."""

VARIANTS = {
    "random_start": RANDOM,
    "random_start_sizes_128_to_224": f"{RANDOM}, input_size: [128, 160, 192, 224]",
    "random_start_input_224": f"{RANDOM}, input_size: 224",
    "mean_start": f"{RANDOM}, start_scale: 0",
    "half": HALF,
    "screen_128": f"{HALF}, screen: 128",
    "screen_all": f"{HALF}, screen: 10000",
    "starts_4": f"{HALF}, starts: 4, race_steps: 15",
    "steps_90_and_80": "rule: adam, starts: 1, steps: 90, refine_steps: 80",
    "start_scale_half": f"{HALF}, start_scale: .5",
    "sizes_128_to_224": f"{HALF}, input_size: [128, 160, 192, 224]",
    "input_224": f"{HALF}, input_size: 224",
    "no_transformations": f"{HALF}, jitter: 0, scale: 0, noise: 0",
    "wide_transformations": f"{HALF}, jitter: .08, scale: .25, noise: .1",
    "lr_half": f"{HALF}, lr: .05",
    "lr_double": f"{HALF}, lr: .2",
    "decay_99": f"{HALF}, decay: .99",
    "box_2_sigmas": f"{HALF}, sigmas: 2",
    "no_reencoding": f"{HALF}, reencode: 0",
    "no_refinement": "rule: adam, starts: 1, steps: 100, refine_steps: 0",
    "refine_radius_half": f"{HALF}, refine_radius: .5",
    "refine_radius_2": f"{HALF}, refine_radius: 2",
    "rule_nguyen2016": PAPER,
    "default": "rule: adam",
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
    left = [name for name in options.variants if name not in known(results)]
    if not left:
        return
    out = Path("runs/ascent_sweep")  # keeps each variant's images: what was killed goes on
    run(
        "evaluate", f"data.root={options.data}", f"data.photos={options.photos}",
        f"judges=[{','.join(options.judges)}]", "prior=[]",
        *(f"+prior.{name}={{path: dgn, size: 128, ascent: {{{VARIANTS[name]}}}}}" for name in left),
        f"classes={options.classes}", f"seeds={options.seeds}", "data.per_class=10", "data.most_photos=100",
        "tracking=off", f"out={out}",
    )  # fmt: skip
    merge(results, out, ["real", *VARIANTS])


if __name__ == "__main__":
    main()
