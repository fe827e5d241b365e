"""The images that a job looks through, as its configuration names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dgn.analysis.alignment import align
from dgn.analysis.examples import find_examples, search_warnings
from dgn.analysis.results import Examples, UnitExamples
from dgn.analysis.squares import Squares
from dgn.cli.chosen import LOOKED_AT
from dgn.cli.manifest import plain, warn
from dgn.errors import DgnError, first_line, nearest
from dgn.network.network import Network
from dgn.units.unit import Unit

_PICKLED = ("LSUN", "LSUNClass")
"""Data sets that unpickle unchecked files (those of CIFAR are pickles too, but torchvision checks their digests)."""


def paths(given: Any) -> list[Path]:
    """What a key names that takes one path or a list of them."""
    return [Path(str(entry)) for entry in (given if isinstance(given, list) else [given]) if entry is not None]


def counting(bar: tqdm[Any]) -> Callable[[int, int], None]:
    """What tells a bar how many of how many things are done."""

    def note(done: int, count: int) -> None:
        bar.total = count
        bar.update(done - bar.n)

    return note


def open_data(config: Any, network: Network) -> Squares:
    """The images: a folder, tar files, or a data set of torchvision."""
    if config.torchvision is None:
        if config.root is None:
            raise DgnError("no images given; give data.root=FOLDER, or data.torchvision=NAME with data.root=ITS_FOLDER")
        return Squares(Path(str(config.root)), network.sight)
    import torchvision.datasets as known

    name = str(config.torchvision)
    if name not in known.__all__:
        raise DgnError(f"torchvision has no data set {name!r}{nearest(name, known.__all__)}")
    if name in _PICKLED:
        raise DgnError(f"torchvision's {name} unpickles a file beside its images: give data.root=FOLDER instead")
    try:
        source = getattr(known, name)(**{"root": str(config.root or "."), **plain(config.options)})
    except Exception as error:
        raise DgnError(f"torchvision's {name} can't be opened: {first_line(error)} (options: data.options)") from error
    return Squares(source, network.sight)


def references(config: Any) -> dict[str, int]:
    """Of each prior, how many real examples of a unit are to be aligned with; 0: none."""
    return {str(name): int(entry.get("references") or 0) for name, entry in config.prior.items()}


def aligned_layers(config: Any, network: Network) -> dict[str, list[str]]:
    """The layers in which each prior aligns; empty: the usual ones."""
    layers = {str(name): [str(layer) for layer in entry.get("layers") or ()] for name, entry in config.prior.items()}
    for layer in (layer for each in layers.values() for layer in each):
        network.layout(layer)  # an unknown one is told before images are looked through
    return layers


def refuse_references(config: Any, verb: str) -> None:
    """An error where a prior is to be aligned by a verb that climbs activations alone."""
    for name, count in references(config).items():
        if count:
            raise DgnError(f"dgn {verb} aligns nothing: leave out prior.{name}.references, or use dgn synthesize")


def aligned(config: Any, network: Network, units: list[Unit], manifest: dict[str, Any]) -> dict[str, list[Unit]]:
    """The units as each prior is to climb them: with ``references``, by the distributions of their best real examples,
    for which the images are looked through once."""
    counts, layers = references(config), aligned_layers(config, network)
    most = max(counts.values(), default=0)
    if not most:
        return dict.fromkeys(counts, units)
    if config.data.root is None and config.data.torchvision is None:
        name = max(counts, key=lambda name: counts[name])
        raise DgnError(f"prior.{name}.references={most} needs real images: give data.root=FOLDER")
    data = open_data(config.data, network)
    found = look_through(config, network, units, data, manifest, k=most, batch=LOOKED_AT, boxes=False).units
    for one in found:
        one.check()

    def of(one: UnitExamples, name: str) -> Unit:
        images = data.tensors([example.index for example in one.top[: counts[name]]])
        return align(network, one.unit, images, layers=layers[name])

    return {name: [of(one, name) for one in found] if count else units for name, count in counts.items()}


def look_through(
    config: Any, network: Network, units: list[Unit], data: Squares, manifest: dict[str, Any], **more: Any
) -> Examples:
    """:func:`dgn.find_examples` of a job, with a bar; what could not be read is said."""
    with tqdm(total=len(data), desc="images", unit="image", disable=not config.progress) as bar:
        found = find_examples(network, units, data, workers=config.data.workers, note=counting(bar), **more)
    warn(manifest, search_warnings(found.units, found.data, found.broken, network))
    return found
