"""Many units at once: all of a layer, a range, class names by pattern, a file of units, and shards of a list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from dgn.errors import DgnError
from dgn.guest import guest
from dgn.network.facts import check_classes
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.units.unit import Unit
from dgn.units.units import class_unit, parse_units

_RANGE = re.compile(r"^(?:(.+):)?(\d+)-(\d+)$")


@guest
def select_units(specs: str | int | Unit | Iterable[str | int | Unit], network: Network) -> list[Unit]:
    """Units from their written form, each once, in the order in which they appear first.

    Args:
        specs: one or several of: what :func:`dgn.parse_units` takes; ``all``, every unit of the output; ``LAYER:all``;
            ``A-B`` and ``LAYER:A-B``, from A to B with both; a pattern of class names with ``*`` and ``?``
            (``*terrier*``, any case); ``@FILE``, a text file with one of these a line, from ``#`` on a comment.
        network: whose layers and classes are meant.

    Raises:
        DgnError: see :func:`dgn.parse_units`; a pattern that no class matches, an empty range, a file that can't be
            read.
    """
    if isinstance(specs, (str, int, Unit)):
        specs = [specs]
    units = parse_units([single for spec in specs for single in _expand(spec, network, 0)], network)
    return list(dict.fromkeys(units))


def take_shard(units: list[Unit], shard: str | None) -> list[Unit]:
    """Every n-th unit, from the i-th on.

    Args:
        units: all of them.
        shard: ``"i/n"``, i from 1 to n; None for all units.

    Raises:
        DgnError: not of that form, or more shards than units.
    """
    if shard is None:
        return units
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(shard))
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise DgnError(f"shard is {str(shard)!r}, expected i/n with i from 1 to n, as in shard=1/4")
    index, count = int(match[1]), int(match[2])
    taken = units[index - 1 :: count]
    if not taken:
        raise DgnError(f"shard {shard} is empty: there are {len(units)} units for {count} shards")
    return taken


def _expand(spec: str | int | Unit, network: Network, depth: int) -> list[str | int | Unit]:
    if not isinstance(spec, str):
        return [spec]
    text = spec.strip()
    if text in network.class_names:
        return [text]
    if text.startswith("@"):
        return _from_file(text[1:], network, depth)
    if text == "all":
        return _range(OUTPUT, 0, None, network)
    if text.endswith(":all"):
        return _range(text[: -len(":all")], 0, None, network)
    match = _RANGE.match(text)
    if match and " " not in text:
        return _range(match[1] or OUTPUT, int(match[2]), int(match[3]), network)
    if ":" not in text and re.search(r"[*?]", text) and not re.search(r"[\d.]\s*\*\s*\w", text):
        return _matching(text, network)
    return [text]


def _range(layer: str, first: int, last: int | None, network: Network) -> list[str | int | Unit]:
    features = network.layout(layer).count
    last = features - 1 if last is None else last
    if first > last or last >= features:
        where = "the output" if layer == OUTPUT else f"layer {layer!r}"
        raise DgnError(f"the range {first}-{last} is none of {where}, whose units are 0 to {features - 1}")
    return [class_unit(i, network) if layer == OUTPUT else f"{layer}:{i}" for i in range(first, last + 1)]


def _matching(pattern: str, network: Network) -> list[str | int | Unit]:
    if not network.class_names:
        raise DgnError(f"network {network.name!r} names no classes for the pattern {pattern!r}; write them by index")
    check_classes(network)
    wanted = pattern.lower().replace("_", " ")
    found = [index for index, name in enumerate(network.class_names) if fnmatchcase(name.lower(), wanted)]
    if not found:
        raise DgnError(f"no class of network {network.name!r} matches {pattern!r}; dgn units find=TEXT lists classes")
    return [class_unit(index, network) for index in found]


def _from_file(name: str, network: Network, depth: int) -> list[str | int | Unit]:
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DgnError(f"no readable text file {name!r} with one unit a line: {error}") from error
    specs = [text for line in lines if (text := line.partition("#")[0].strip())]
    if not specs:
        raise DgnError(f"the file {name!r} holds no unit")
    if depth and any(spec.startswith("@") for spec in specs):
        raise DgnError(
            f"the file {name!r} names further files, and is itself named by one: list them where you call dgn"
        )
    return [unit for spec in specs for unit in _expand(spec, network, depth + 1)]
