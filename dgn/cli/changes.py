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

VERSIONS = (__version__, torch.__version__)


def stamp(path: Any) -> tuple[int, int] | None:
    """Time and size of a file, for a changed one to be read again."""
    if path is None or not Path(str(path)).is_file():
        return None
    facts = Path(str(path)).stat()
    return facts.st_mtime_ns, facts.st_size


def stamps(texts: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Time and size of each file that a text names: ``FILE``, ``@FILE``, ``FILE@ROW``, or a folder of tensors."""
    stamped = {}
    for text in filter(None, texts):
        path = Path(re.sub(r"@\d+$", "", text.removeprefix("@")))
        with suppress(OSError, ValueError):  # no path at all, or one that can't be looked at
            for file in [path, *(sorted(path.glob("*.safetensors")) if path.is_dir() else [])]:
                facts = stamp(file)
                if facts:
                    stamped[str(file)] = facts
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
