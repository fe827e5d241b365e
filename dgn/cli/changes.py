"""Whether a job would still give the same: its versions, its configuration, and the files that this names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dgn import __version__
from dgn.cli.keys import RUN
from dgn.cli.words import texts_in

WEIGHTS = (".safetensors", ".pt", ".bin")
CONFIGURATIONS = ("cfg.json", "config.json")
_DIRECTIONS = re.compile(r"(?:^|[ *])[^:\s*]+:(\S+?\.safetensors)")
"""The files of directions in a unit, sums of them, too."""

VERSIONS = (__version__, torch.__version__)


def stamp(path: Any) -> tuple[int, int] | None:
    """Time and size of a file, for a changed one to be read again."""
    if path is None or not Path(str(path)).is_file():
        return None
    facts = Path(str(path)).stat()
    return facts.st_mtime_ns, facts.st_size


def stamps(texts: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Time and size of each file that a text names: ``FILE``, ``@FILE``, ``FILE@ROW``, ``LAYER:FILE.safetensors`` in a
    unit, a folder of weights; with the configurations that lie beside weights."""
    stamped: dict[str, tuple[int, int]] = {}
    for text in filter(None, texts):
        named = [re.sub(r"@\d+$", "", text.removeprefix("@")), *_DIRECTIONS.findall(text)]
        for path in (Path(each).expanduser() for each in named):
            with suppress(OSError, ValueError, RuntimeError):  # no path at all, or one that can't be looked at
                folder = path if path.is_dir() else path.parent if path.suffix in WEIGHTS else None
                beside = [] if folder is None else [folder / name for name in CONFIGURATIONS]
                held = [file for kind in WEIGHTS for file in sorted(path.glob(f"*{kind}"))] if path.is_dir() else []
                stamped |= {str(file): facts for file in (path, *held, *beside) if (facts := stamp(file))}
    return stamped


def made_from(config: Any) -> str:
    """SHA-256 over the versions, a job's configuration, and the stamps of the files in it.

    What a data set's folder holds, and files that others name, are not looked at.

    Raises:
        OmegaConfBaseException: the configuration can't be resolved.
    """
    values: Any = OmegaConf.to_container(config, resolve=True)
    deciding = {key: value for key, value in values.items() if key not in RUN}
    facts = repr([VERSIONS, deciding, stamps(_texts(deciding))])
    return hashlib.sha256(facts.encode(errors="backslashreplace")).hexdigest()


def files_in(words: Iterable[str]) -> dict[str, tuple[int, int]]:
    """:func:`stamps` of what the values of overrides name, alone or in a list."""
    return stamps(text.strip() for word in words for text in texts_in(word))


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, (dict, list)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _texts(value)
