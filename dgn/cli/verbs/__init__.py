"""The verbs, each with a file here, its keys in :mod:`dgn.cli.schema` and its groups in ``conf/``."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """What the command line knows of a verb before it loads it.

    Attributes:
        what: it does, in a line.
        key: that a word without one is most likely meant for.
        writes: patterns of what it writes into a run folder, beside ``manifest.json`` and ``config.yaml``; None: it
            makes no runs.
        bare: whether it takes a folder or a name without a key.
    """

    what: str
    key: str
    writes: tuple[str, ...] | None = None
    bare: bool = False


_SYNTHESIS = ("results.csv", "codes.safetensors", "index.html")

VERBS = {
    "synthesize": Verb(
        "images that units prefer, through a generator prior and from raw pixels", "units",
        (*_SYNTHESIS, "grid.png", "images/*--*--s*[0-9].png", "trajectory/*--*--s*[0-9].png",
         "parts/*--[0-9][0-9][0-9][0-9][0-9][0-9]*.safetensors"),
    ),
    "examples": Verb(
        "the images of a data set that excite units most", "units",
        ("examples.safetensors", "examples.csv", "examples.png", "images/*--*--[0-9]*.png"),
    ),
    "facets": Verb(
        "the kinds of images that a unit answers to, with a synthesis of each", "unit",
        (*_SYNTHESIS, "examples.safetensors", "starts.safetensors", "facets.pdf", "facets.png",
         "images/*--*--facet[0-9]*.png"),
    ),
    "ablate": Verb(
        "which parts of an image a unit needs", "image",
        ("results.csv", "ablation.pdf", "ablation.png", "curves.png", "images/*--*.png", "images/*--*.csv"),
    ),
    "concept": Verb(
        "a direction from images that show something and images that don't, as a unit", "positives",
        ("direction.safetensors", "concept.csv", "concept.png"),
    ),
    "train": Verb(
        "train a generator that inverts a layer of a network", "data.root",
        ("state.safetensors", "generator.safetensors", "components.safetensors", "flow.safetensors",
         "codes-[0-9a-f]*.npy", "losses.csv", "report.json", "samples/step-[0-9]*.png"),
    ),
    "evaluate": Verb(
        "measure how good the images of a run or of a prior are", "run",
        ("figures.csv", "differences.csv", "table.md", "grid.png", "panels.png", "panels.pdf", "trade.png",
         "trade.pdf", "copies.csv", "copies.png", "images/*.safetensors"), bare=True,
    ),
    "figure": Verb("a figure for a paper: PDF, PNG and the numbers behind it", "figure", (), bare=True),
    "gallery": Verb("runs as one self-contained page", "runs", bare=True),
    "gather": Verb("the runs of a sweep as one table, grid and gallery", "sweep", bare=True),
    "units": Verb("list a network's layers; find its classes", "find"),
}  # fmt: skip

JOINED = ("results.csv", "index.html", "grid.png")
"""What the runs of a sweep are joined in, see :mod:`dgn.cli.sweeps.gather`."""
