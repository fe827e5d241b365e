"""The images that a job looks through, as its configuration names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgn.analysis.squares import Squares
from dgn.cli.manifest import plain
from dgn.errors import DgnError, nearest
from dgn.network.network import Network

_PICKLED = ("LSUN", "LSUNClass")
"""Data sets that unpickle unchecked files (those of CIFAR are pickles too, but torchvision checks their digests)."""


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
    options = {"root": str(config.root or "."), **plain(config.options)}
    try:
        source = getattr(known, name)(**options)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DgnError(f"torchvision's {name} can't be opened: {first} (options: data.options)") from error
    return Squares(source, network.sight)
