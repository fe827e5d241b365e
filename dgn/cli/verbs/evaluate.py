"""``dgn evaluate``: how good are a run's or a prior's images? One table; the same command resumes with ``out=``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dgn.analysis.alignment import align
from dgn.analysis.squares import Squares
from dgn.ascent.settings import AscentSettings
from dgn.cli.chosen import choose_device, choose_priors, choose_seeds, load_chosen, settle_batch
from dgn.cli.data import aligned_layers, references
from dgn.cli.judging.blind import scored, write_sheets
from dgn.cli.judging.copies import compare_with_training
from dgn.cli.judging.methods import made_by, read_past, synthesized
from dgn.cli.judging.writing import by_temperature, write_figures
from dgn.cli.manifest import new_manifest, plain, warn
from dgn.cli.sweeps.resume import at_work
from dgn.cli.tracking import check_mode
from dgn.cli.trust import build_units
from dgn.errors import DgnError
from dgn.evaluation.evaluate import assess, load_judges
from dgn.evaluation.real import load_real, most_frequent, real_images_of
from dgn.evaluation.reference import best_examples, look_at
from dgn.files.listing import counted
from dgn.network.steady import steadiness
from dgn.priors import Prior
from dgn.units.unit import Unit, layers_of
from dgn.units.units import parse_units


def run(config: Any) -> None:
    """Make or read the images of each method, look at them with the judges, write the table and its figure."""
    check_mode(str(config.tracking.mode))
    if config.blind is not None and scored(Path(str(config.blind))):
        return
    device = choose_device(config.device, config.threads)
    settle_batch(config, device)
    root, data = Path(str(config.data.root)), config.data
    if data.training is not None and data.photos is None:
        raise DgnError("data.training needs data.photos=FOLDER: photographs that were not trained on, to compare with")
    past, chosen = (None, config.network) if config.run is None else read_past(Path(str(config.run)))
    network = load_chosen(chosen, device, trust=config.trust)
    judges = load_judges(list(config.judges), device, trust=config.trust)
    for judge in judges:
        if not judge.names(network):
            print(
                f"dgn: judge {judge.name} has other classes than {network.name}: no transfer is measured by it",
                file=sys.stderr,
            )
    training = None if data.training is None else Squares(Path(str(data.training)), judges[-1].network.sight)
    climbs: list[tuple[Prior, AscentSettings]] = []
    if past is not None:
        specs: list[Any] = past.column("unit")
        seeds, methods = sorted(map(int, past.column("seed"))), past.column("prior")
    else:
        specs = build_units(plain(config)["units"], trust=config.trust) or most_frequent(root, network, config.classes)
        seeds, climbs = choose_seeds(config), choose_priors(config, network)
        methods = [prior.name for prior, _ in climbs]
    units = parse_units(specs, network)
    layers = aligned_layers(config, network)
    manifest = new_manifest("evaluate", device, network, judges=[judge.name for judge in judges], methods=methods)
    with at_work(config, manifest) as (folder, tracker):
        real = real_images_of(
            units, network, root, per_class=data.per_class, most=data.most_photos, seed=config.seed
        )  # fmt: skip
        passes = len(real.images) * (1 + len(judges))
        with tqdm(total=passes, desc="real images", unit="image", disable=not config.progress) as bar:
            reference = look_at(real, network, judges, units, note=bar.update)
        warn(manifest, counted(real.broken, "images could not be read"))
        warn(manifest, steadiness(network, layers_of(units)).notes(network))
        photos = real
        if data.photos is not None:  # read before anything climbs: a wrong path is told at once
            photos = load_real(Path(str(data.photos)), network.class_names, most=data.most_photos)
        made = [best_examples(reference, units, len(seeds))]
        if past is not None:
            named = dict(zip(specs, units, strict=True))
            made += [made_by(past, method, named) for method in methods]
        counts = references(config)
        for name, count in counts.items():
            few = [
                one.name for one in units if one.class_index is not None and real.classes.count(one.class_index) < count
            ]
            what = f"classes have fewer real images than prior.{name}.references={count}: other classes' stand in"
            warn(manifest, counted(few, what))

        def asked(prior: str) -> list[Unit]:
            """The units as a prior climbs them, with its references."""
            count = counts[prior]
            if not count:
                return units
            best = ((unit, best_examples(reference, [unit], count).images) for unit in units)
            return [align(network, unit, images, layers=layers[prior]) for unit, images in best]

        made += [
            synthesized(folder, config, network, asked(prior.name), seeds, prior, settings)
            for prior, settings in climbs
        ]
        found = assess(network, judges, reference, made, photos, [prior for prior, _ in climbs])
        if training is not None and len(made) > 1:
            copies = compare_with_training(folder, training, judges[-1], made[1:], photos.images, config.progress)
            found.figures += copies.figures
            warn(manifest, copies.warnings)
        if config.blind is not None:
            write_sheets(Path(str(config.blind)), made[1:], photos, config.seed)
        write_figures(folder, found, by_temperature(config, climbs))
        for name in ("panels", "grid"):
            tracker.picture(name, folder.folder / f"{name}.png")
        tracker.table("figures", found.rows())
        tracker.summary({
            "/".join(filter(None, (one.method, one.metric, one.judge))): one.value for one in found.figures
        })  # fmt: skip
    print((folder.folder / "table.md").read_text())
    print(folder.folder / "panels.png")
