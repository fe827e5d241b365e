"""``dgn evaluate``: how good are a run's or a prior's images? One table; the same command resumes with ``out=``."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from dgn.analysis.examples import Squares
from dgn.ascent.settings import AscentSettings
from dgn.cli.chosen import choose_device, choose_priors, choose_seeds, settle_batch
from dgn.cli.judging.blind import scored, write_sheets
from dgn.cli.judging.copies import compare_with_training
from dgn.cli.judging.methods import read_past, synthesized
from dgn.cli.judging.writing import by_temperature, write_figures
from dgn.cli.manifest import new_manifest, plain, warn
from dgn.cli.network import load_chosen
from dgn.cli.sweeps.resume import at_work
from dgn.cli.tracking import check_mode
from dgn.errors import DgnError
from dgn.evaluation.figures import Figure
from dgn.evaluation.instrument import measure, measure_photographs, measure_reconstruction
from dgn.evaluation.judges import Judge, load_judge
from dgn.evaluation.real import class_of, load_real
from dgn.evaluation.reference import Reference, activations_of_all, best_examples
from dgn.files.listing import counted
from dgn.files.storage import digest
from dgn.images.reading import list_images
from dgn.network.network import Network
from dgn.network.steady import steadiness
from dgn.priors import Prior
from dgn.priors.components import ComponentsPrior
from dgn.priors.deep import GeneratorPrior
from dgn.runs.run import now
from dgn.units.units import Unit, layers_of, parse_units


def run(config: Any) -> None:
    """Make or read the images of each method, look at them with the judges, write the table and its figure."""
    check_mode(str(config.tracking.mode))
    if config.blind is not None and scored(Path(str(config.blind))):
        return
    device = choose_device(config.device, config.threads)
    settle_batch(config, device)
    past = None if config.run is None else read_past(Path(str(config.run)))
    network = load_chosen(
        config.network if past is None else OmegaConf.create(past.network), device, trust=config.trust
    )
    judges = _load_judges(config, network, device)
    training = _training_images(config, judges[-1])
    climbs: list[tuple[Prior, AscentSettings]] = []
    if past is not None:
        specs: list[Any] = past.column("unit")
        seeds, methods = sorted(map(int, past.column("seed"))), past.column("prior")
    else:
        specs = plain(config)["units"] or most_frequent(Path(str(config.data.root)), network, config.classes)
        seeds, climbs = choose_seeds(config), choose_priors(config, network)
        methods = [prior.name for prior, _ in climbs]
    units = parse_units(specs, network)
    manifest = new_manifest("evaluate", device, network, judges=[judge.name for judge in judges], methods=methods)
    with at_work(config, manifest) as (folder, tracker):
        reference = _reference(config, network, judges, units)
        photos = reference.real
        warn(manifest, counted(photos.broken, "images could not be read"))
        warn(manifest, steadiness(network, layers_of(units)).notes(network))
        if config.data.photos is not None:  # read before anything climbs: a wrong path is told at once
            photos = load_real(Path(str(config.data.photos)), network.class_names, most=config.data.most_photos)
        made = [best_examples(reference, units, len(seeds))]
        if past is not None:
            named = dict(zip(specs, units, strict=True))
            made += [past.made(method, named) for method in methods]
        made += [synthesized(folder, config, network, units, seeds, *climb) for climb in climbs]
        figures = [figure for one in made for figure in measure(one, network, judges, reference)]
        classes = [unit.class_index for unit in units if unit.class_index is not None]
        figures += measure_photographs(photos, [judge for judge in judges if judge.names(network)], classes)
        figures += _reconstructions([prior for prior, _ in climbs], judges[0], photos.images, device)
        if training is not None and len(made) > 1:
            copies = compare_with_training(folder, training, judges[-1], made[1:], photos.images, config.progress)
            figures += copies.figures
            warn(manifest, copies.warnings)
        if config.blind is not None:
            write_sheets(Path(str(config.blind)), made[1:], photos, config.seed)
        write_figures(folder, figures, made, f"Units of {network.name}", by_temperature(config, climbs))
        folder.write_manifest({**manifest, "status": "done", "finished": now()})
        for name in ("panels", "grid"):
            tracker.picture(name, folder.folder / f"{name}.png")
        tracker.figures([asdict(figure) for figure in figures])
    print((folder.folder / "table.md").read_text())
    print(folder.folder / "panels.png")


def most_frequent(root: Path, network: Network, count: int) -> list[int]:
    """The classes with the most images."""
    entries = list_images(root)
    folders = {Path(entry.name).parent.name: entry for entry in entries}
    labels = {folder: class_of(entry, network.class_names) for folder, entry in folders.items()}
    counts = Counter(labels[Path(entry.name).parent.name] for entry in entries)
    classes = [label for label, _ in counts.most_common() if label >= 0][:count]
    if not classes:
        raise DgnError(f"no image in {str(root)!r} lies in a folder named by WordNet id, class name or index")
    return sorted(classes)


def _load_judges(config: Any, network: Network, device: str) -> list[Judge]:
    judges = [load_judge(str(name), device=device, trust=config.trust) for name in config.judges]
    if not judges:
        raise DgnError("no judge given; try judges=[efficientnet_lite2]")
    for judge in judges:
        if not judge.names(network):
            print(
                f"dgn: judge {judge.name} has other classes than {network.name}: no transfer is measured by it",
                file=sys.stderr,
            )
    return judges


def _training_images(config: Any, judge: Judge) -> Squares | None:
    """Those that copies are looked for among, as the judge sees them."""
    if config.data.training is None:
        return None
    if config.data.photos is None:
        raise DgnError("data.training needs data.photos=FOLDER: photographs that were not trained on, to compare with")
    return Squares(Path(str(config.data.training)), judge.network.sight)


def _reference(config: Any, network: Network, judges: list[Judge], units: list[Unit]) -> Reference:
    """Real images of the evaluated classes, and of all where a hidden unit is among the units; seen by the network and
    the judges."""
    root, sight, seed = Path(str(config.data.root)), network.sight, config.seed
    classes = [unit.class_index for unit in units if unit.class_index is not None]
    real = None
    if classes:
        real = load_real(
            root, network.class_names, sight=sight, classes=classes, per_class=config.data.per_class, seed=seed
        )
    if real is None or len(classes) < len(units):
        every = load_real(root, network.class_names, sight=sight, most=config.data.most_photos, seed=seed)
        real = every if real is None else real.joined(every)
    passes = len(real.images) * (1 + len(judges))
    with tqdm(total=passes, desc="real images", unit="image", disable=not config.progress) as bar:
        activations = activations_of_all(network, real.as_seen, units, note=bar.update)
        verdicts = {judge.name: judge.see(real.images, note=bar.update) for judge in judges}
    return Reference(real, activations, verdicts)


def _reconstructions(priors: list[Prior], judge: Judge, images: Tensor, device: str) -> list[Figure]:
    figures: list[Figure] = []
    known: dict[str, list[Figure]] = {}  # of each generator, however many priors it serves
    for prior in priors:
        base = prior.layout if isinstance(prior, ComponentsPrior) else prior
        if isinstance(base, GeneratorPrior) and base.encoder is not None:
            weights = digest(base.weights())
            if weights not in known:
                known[weights] = measure_reconstruction(prior.name, base.to(device), judge, images)
            figures += [replace(figure, method=prior.name) for figure in known[weights]]
    return figures
