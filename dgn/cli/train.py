"""``dgn train``: train a generator; the same command resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dgn.cli.common import choose_device, plain
from dgn.cli.resume import at_work
from dgn.errors import DgnError
from dgn.images import list_images
from dgn.runs import now, surroundings
from dgn.tracking import check_mode
from dgn.training.settings import TrainSettings
from dgn.training.trainer import train


def run(config: Any) -> None:
    """Train into the run folder; give ``out=`` to be able to resume there."""
    check_mode(str(config.tracking.mode))
    values = plain(config)
    device = choose_device(config.device, config.threads)
    chosen = {key: value for key, value in values["training"].items() if value is not None}
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}
    if config.network.weights is not None or config.network.input_size is not None:
        raise DgnError("a generator's encoder is known by its name alone: leave out network.weights and input_size")
    settings = TrainSettings(network=config.network.name, seed=config.seed, **chosen)
    settings.check()
    data = Path(config.data.root)
    list_images(data)
    manifest = {
        "verb": "train", "status": "running", "started": now(), **surroundings(), "device": device,
        "seeds": [config.seed],
    }  # fmt: skip
    with at_work(config, manifest) as (folder, tracker):

        def log(step: int, losses: dict[str, float], picture: Path | None) -> None:
            if losses:
                tracker.curves("train", step, losses)
            if picture is not None:
                tracker.picture("train/reconstructions", picture, "held-out images above, reconstructions below")

        path = train(
            data, folder.folder, settings, device=device, workers=config.data.workers,
            compile=device.startswith("cuda") if config.compile is None else config.compile,
            checkpoint_minutes=config.checkpoint_minutes, progress=config.progress, log=log,
        )  # fmt: skip
        broken = json.loads((folder.folder / "report.json").read_text())["broken"]
        if broken:
            print(f"dgn: {len(broken)} images could not be read and were replaced, the first: {broken[0]!r}")
        folder.write_manifest({**manifest, "status": "done", "finished": now(), "broken_images": broken})
    print(path)
