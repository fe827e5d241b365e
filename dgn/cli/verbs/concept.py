"""``dgn concept``: a direction from images that show something and images that don't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from dgn.analysis.concepts import METHODS, Concept, Group, concept
from dgn.analysis.squares import Squares
from dgn.cli.chosen import open_network
from dgn.cli.data import counting, paths
from dgn.cli.manifest import new_manifest, plain, warn
from dgn.cli.sweeps.resume import at_work
from dgn.drawing.matrix import Cell, grid
from dgn.errors import DgnError, one_of
from dgn.images.pictures import to_image
from dgn.network.network import Network

FILE = "direction.safetensors"
SHOWN = 8
"""Images of each group in the overview."""


def run(config: Any) -> None:
    """See the images, then write the direction, a table of the images and an overview."""
    network, device = open_network(config)
    values = plain(config)
    groups = [_open(key, values[key], network) for key in ("positives", "negatives")]
    network.layout(str(config.layer))  # an unknown one ends the job before there is a folder
    one_of("method", str(config.method), METHODS)
    manifest = new_manifest("concept", device, network, images=sum(map(len, groups)))
    with at_work(config, manifest) as (folder, tracker):
        with tqdm(total=sum(map(len, groups)), desc="images", unit="image", disable=not config.progress) as bar:
            found = concept(
                network, str(config.layer), *groups, method=str(config.method), shuffles=config.shuffles,
                seed=config.seed, batch=config.batch, workers=config.workers, note=counting(bar),
            )  # fmt: skip
        warn(manifest, found.notes)
        path = folder.write(FILE, found.to_bytes())
        rows = _rows(found)
        folder.write_table(rows, list(rows[0]), "concept.csv")
        words = _words(found)
        picture = folder.write_picture("concept.png", grid(_cells(found), words))
        manifest |= {"concept": {
            "layer": found.layer, "method": found.method, "accuracy": found.accuracy, "p_value": found.p_value,
            "chance": found.chance, "positives": len(found.positives.indices),
            "negatives": len(found.negatives.indices), "broken": found.positives.broken + found.negatives.broken,
        }}  # fmt: skip
        tracker.picture("concept", picture)
        tracker.table("concept table", rows, folder.folder, pictures={}, columns=("group", "name", "along"))
    print(words)
    print(f"{found.layer}:{path}")


def _open(key: str, given: Any, network: Network) -> Squares:
    """The images of one group: of a folder or a tar file, or files in a list."""
    try:
        return Squares(paths(given) if isinstance(given, list) else Path(str(given)), network.sight)
    except DgnError as error:
        raise DgnError(f"{key}: {error}") from error


def _words(found: Concept) -> str:
    """What was measured, in a line."""
    words = f"{found.layer}, {found.method}: {found.accuracy:.0%} of held-out images are told apart"
    if found.chance:
        best = sorted(found.chance)[-max(1, round(0.05 * len(found.chance)))]
        words += f"; with shuffled labels {sum(found.chance) / len(found.chance):.0%}, once in twenty {best:.0%}"
    return words


def _rows(found: Concept) -> list[dict[str, Any]]:
    return [
        {"group": kind, "name": group.data.name(index), "along": f"{along:.6g}"}
        for kind, group in (("positive", found.positives), ("negative", found.negatives))
        for index, along in zip(group.indices, _along(found, group), strict=True)
    ]


def _along(found: Concept, group: Group) -> list[float]:
    """How far each image lies along the direction."""
    along: list[float] = (group.vectors @ found.direction).tolist()
    return along


def _cells(found: Concept) -> list[Cell]:
    """Of each group the images that lie furthest along the direction."""
    cells = []
    for kind, group in (("positives", found.positives), ("negatives", found.negatives)):
        pairs = sorted(zip(_along(found, group), group.indices, strict=True), reverse=True)[:SHOWN]
        for rank, (along, index) in enumerate(pairs, 1):
            cells.append(Cell(f"{rank}", kind, to_image(group.data.tensors([index])[0]), f"{along:.2f}"))
    return cells
