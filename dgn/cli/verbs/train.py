"""``dgn train``: train a generator, or a flow of its codes; the same command resumes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dgn.cli.chosen import choose_device, network_facts
from dgn.cli.manifest import plain
from dgn.cli.sweeps.resume import at_work
from dgn.cli.tracking import check_mode
from dgn.errors import DgnError
from dgn.files.folders import read_facts
from dgn.images.reading import list_images
from dgn.runs.run import now
from dgn.runs.surroundings import surroundings
from dgn.training.recipes import settings_of
from dgn.training.settings import TrainSettings
from dgn.training.trainer import train


def run(config: Any) -> None:
    """Train into the run folder; give ``out=`` to be able to resume there."""
    check_mode(str(config.tracking.mode))
    values = plain(config)
    device = choose_device(config.device, config.threads)
    told = [name for name, value in {"weights": config.network.weights, **network_facts(config.network)}.items()
            if value not in (None, {})]  # fmt: skip
    if told:
        raise DgnError(f"a generator's encoder is known by its name alone: leave out network.{told[0]}")
    settings = settings_of(values["training"], config.network.name, config.seed)
    settings.check()
    data = Path(config.data.root)
    for line in list_images(data).warnings:
        print(f"dgn: {line}", file=sys.stderr)
    manifest = {
        "verb": "train", "status": "running", "started": now(), **surroundings(), "device": device,
        "seeds": [config.seed],
    }  # fmt: skip
    with at_work(config, manifest) as (folder, tracker):
        name, caption = "train/samples", "samples without guidance above, guided below"
        if isinstance(settings, TrainSettings):
            name, caption = "train/reconstructions", "held-out images above, reconstructions below"

        def log(step: int, losses: dict[str, float], picture: Path | None) -> None:
            tracker.curves("train", step, losses)
            if picture is not None:
                tracker.picture(name, picture, caption)

        path = train(
            data, folder.folder, settings, device=device, workers=config.data.workers, compile=config.compile,
            checkpoint_minutes=config.checkpoint_minutes, progress=config.progress, log=log,
        )  # fmt: skip
        broken = read_facts(folder.folder / "report.json")["broken"]
        if broken:
            print(f"dgn: {len(broken)} images could not be read and were replaced, the first: {broken[0]!r}")
        manifest["broken_images"] = broken
    print(path)
