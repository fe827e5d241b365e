"""The words of a command line, as Hydra's own grammar reads them; what it can't read is said with a form that works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dgn.cli.compose import expanded
from dgn.cli.verbs import VERBS
from dgn.errors import DgnError, first_line, nearest

LISTS = (
    "units", "image", "runs", "prior", "judges", "kinds", "figure.units", "figure.images", "network.texts",
    "network.images",
)  # fmt: skip
"""Keys that take several values in one job."""

TAKE_A_WORD = {"--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c"}
"""Hydra's flags that are followed by a word which is no override."""

PATHS = (
    "start", "image", "figure.images", "data.root", "data.photos", "data.training", "run", "runs", "sweep",
    "network.images",
)  # fmt: skip
"""Keys whose values are files or folders that are there."""

OPEN = ("network.dictionaries.", "network.dictionaries=")
"""Beginnings of words with a name of one's own in key or value: Hydra alone would want ``+`` before them."""

INSTEAD = {
    "hydra.mode": "-m runs a sweep, and a command without it one job",
    "hydra.run.dir": "Hydra would write into it whatever lies there; out= gives the folder of a run",
    "hydra.output_subdir": "Hydra would write into it whatever lies there; config.yaml has the configuration",
}
"""Keys of Hydra's that would pass by dgn's own care, and what to do instead."""


def positional(verb: str, words: list[str]) -> list[str]:
    """Run folders and a figure's name in their plain form, as overrides; entries of :data:`OPEN` with Hydra's ``++``.

    Moves ``-m`` to the front: argparse rejects overrides after it where others stand before it.
    """
    for flag in ("-m", "--multirun"):
        if flag in words:
            words = [flag, *(word for word in words if word != flag)]
    words = [f"++{word}" if word.startswith(OPEN) else word for word in words]
    if verb == "figure":
        words = [re.sub(r"^name=", "figure=", word) for word in words]
    plain = [word for word in overrides_in(words) if _is_bare(word)]
    if not VERBS[verb].bare or not plain:
        return words
    if verb == "gallery":
        first = f"runs=[{','.join(map(quoted, plain))}]"
    elif len(plain) > 1:
        raise DgnError(f"dgn {verb} takes one of {', '.join(map(repr, plain))}, or quotes around a name with blanks")
    else:
        first = f"{VERBS[verb].key}={plain[0] if verb == 'figure' else quoted(plain[0])}"
    rest = [word for word in words if word not in plain]
    flags = [word for word in rest[:1] if word in ("-m", "--multirun")]
    return [*flags, first, *rest[len(flags) :]]


def overrides_in(words: Sequence[str]) -> list[str]:
    """The words that set something: without flags, and without what follows those that take a word."""
    found = []
    for before, word in zip(["", *words], words, strict=False):
        if not word.startswith("-") and before not in TAKE_A_WORD:
            found.append(word)
    return found


@cache
def parse(word: str) -> Any:
    """Hydra's ``Override`` of a word.

    Raises:
        DgnError: the grammar refuses it; the line has a form that works.
    """
    from hydra.errors import HydraException

    try:
        override = _grammar().parse_override(word)
        if not override.key_or_group:
            raise HydraException("nothing stands before '='")
        return override
    except HydraException as error:
        works = suggestion(word)
        line = f"can't read {word!r}: {first_line(error)}"
        raise DgnError(line if works is None else f"{line}; quoted, for the shell too, it is {works}") from None


def key_of(word: str) -> str:
    """What an override sets; of launchers' keys, the group."""
    key = str(parse(word).key_or_group)
    for group in ("launcher", "hydra.launcher"):
        if key.startswith(group + "."):
            return group
    return key


def texts_in(word: str) -> Iterator[str]:
    """The texts of an override's value, alone, in lists, or as the values of a sweep."""
    from hydra.core.override_parser.types import QuotedString, Sweep

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, (QuotedString, str)):
            yield value if isinstance(value, str) else value.text
            return
        if isinstance(value, Sweep):
            value = getattr(value, "list", None)
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for part in parts:
            yield from walk(part)

    yield from walk(parse(word).value())


def check(verb: str, words: Sequence[str], *, sweep: bool) -> None:
    """Refuse overrides that are always mistakes, before Hydra composes anything.

    Raises:
        DgnError: a word without a key, one that the grammar refuses, an empty value, several values without a sweep,
            or a new key that the verb does not know.
    """
    given = overrides_in(words)
    for place, word in enumerate(given):
        if _is_bare(word):
            raise DgnError(_bare(verb, given, place))
    for key in map(key_of, given):
        if key in INSTEAD:
            raise DgnError(f"{key} can't be given: {INSTEAD[key]}")
        if key in ("hydra", "hydra.run", "hydra.sweep"):
            raise DgnError(f"{key} can't be given as a whole: give the keys in it that are to change")
    for word in given:
        override, value = parse(word), word.partition("=")[2]
        if "=" in word and not word.startswith("~") and not value.strip():
            expanded(str(override.key_or_group), value)  # which says so
        if override.is_sweep_override() and not sweep:
            raise DgnError(_several(word, str(override.key_or_group)))
        if override.is_add() or override.is_force_add():
            _check_new(verb, str(override.key_or_group))


def check_paths(words: Sequence[str]) -> None:
    """Refuse paths of which none is there, in a job of one's own, before anything large is loaded.

    Raises:
        DgnError: no file or folder of that name; what else is wrong with it, its reader says.
    """
    keys = {word: key_of(word) for word in overrides_in(words)}
    for word, key in keys.items():
        if key not in PATHS or parse(word).is_sweep_override() or "data.torchvision" in keys.values():
            continue
        texts = [text for text in texts_in(word) if text.strip() not in ("", "random", "null")]
        if texts and not any("${" in text or _is_there(text) for text in texts):
            raise DgnError(f"no file or folder {texts[0]!r}, which {key} names")


def _is_there(text: str) -> bool:
    try:
        Path(re.sub(r"@\d+$", "", text)).expanduser().stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, RuntimeError):  # which its reader will say
        return True
    return True


def _is_bare(word: str) -> bool:
    """Whether a word sets nothing, nor (``~KEY``) takes away."""
    return "=" not in word and (not word.startswith("~") or word == "~" or word.startswith("~/"))


def _bare(verb: str, given: Sequence[str], place: int) -> str:
    """The line about a word without a key: a part of the one before it, or a value that needs one."""
    end = place + 1
    while end < len(given) and "=" not in given[end]:
        end += 1
    whole = " ".join(given[max(0, place - 1) : end])
    key = whole.partition("=")[0]
    if place and (_open(given[place - 1]) or key == VERBS[verb].key):
        works = shell(whole) if _reads(whole) else suggestion(whole)
        return f"the shell made {end - place + 1} words of {whole!r}" + (f"; quote it: {works}" if works else "")
    word, main = given[place], VERBS[verb].key
    if not word.strip():
        return "an empty word is no KEY=VALUE (a variable of the shell that is not set?)"
    meant = f"{main}=[{item(word)}]" if main in LISTS else f"{main}={item(word)}"
    return f"{word!r} is no KEY=VALUE; did you mean {shell(meant)}?"


def _several(word: str, key: str) -> str:
    """The line about several values where one job is asked for."""
    line = f"{word!r} has several values: add -m for a job each"
    if key not in LISTS:
        return line
    parts = [re.sub(r"^\[(.*)\]$", r"\1", part.strip()) for part in _split(word.partition("=")[2])]
    listed = f"{word.partition('=')[0]}=[{','.join(parts)}]"
    return f"{line}, or give one job all of them: {shell(listed)}" if _reads(listed) else line


def _check_new(verb: str, key: str) -> None:
    """Refuse ``+KEY`` where the verb has no such key, nor one that takes more of its own."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig, OmegaConf

    from dgn.cli import schema

    schema.register()
    node: Any = ConfigStore.instance().load(f"{verb}_schema.yaml").node
    parts = key.partition("@")[0].partition("/")[0].split(".")
    if parts[0] == "hydra":
        return
    for place, part in enumerate(parts):
        if not isinstance(node, DictConfig) or OmegaConf.get_type(node) is dict:
            return  # takes keys of one's own
        if part not in node:
            hint = nearest(part, [str(name) for name in node])
            where = f" in {'.'.join(parts[:place])}" if place else ""
            raise DgnError(f"no key {key!r}: dgn {verb} knows no {part!r}{where}{hint}")
        node = node._get_node(part)


def suggestion(word: str) -> str | None:
    """A word that Hydra refuses with its value quoted, as it is written in a shell; None where that is no help."""
    key, equals, value = word.partition("=")
    if not equals or not _reads(f"{key}=0"):
        return None
    forms = [f"{key}={quoted(value)}"]
    inner = value.strip()
    if inner.startswith("[") and len(inner) > 2 and (inner.endswith("]") or key in LISTS):
        forms.insert(0, f"{key}=[{','.join(item(part) for part in _split(inner[1:].removesuffix(']')))}]")
    elif key in LISTS and "," in value:
        forms.insert(0, f"{key}=[{','.join(item(part) for part in _split(value))}]")
    return next((shell(form) for form in forms if _reads(form)), None)


def item(text: str) -> str:
    """One value as Hydra takes it: as it is where that says the same, else quoted."""
    text = text.strip()
    return text if text and _reads(f"a={text}") and not parse(f"a={text}").is_sweep_override() else quoted(text)


def quoted(text: str) -> str:
    """Any text as a string of Hydra's grammar."""
    mark = '"' if "'" in text and '"' not in text else "'"
    pieces = text.split(mark)
    if len(pieces) == 1 and not text.endswith("\\"):
        return mark + text + mark
    doubled = [
        re.sub(r"\\+$", lambda run: 2 * run[0], piece) for piece in pieces
    ]  # a backslash before a mark escapes it
    return mark + f"\\{mark}".join(doubled) + mark


def shell(word: str) -> str:
    """A word as it is written in a shell, in the quotes that need the fewest others."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    if "'" in word and not set(word) & set("$`\\!"):
        return '"' + word.replace('"', '\\"') + '"'
    return shlex.quote(word)


@cache
def _grammar() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def _reads(word: str) -> bool:
    from hydra.errors import HydraException

    try:
        _grammar().parse_override(word)
    except HydraException:
        return False
    return True


def _open(word: str) -> bool:
    """Whether a word has a bracket or a quote that does not end in it."""
    pairs = (("[", "]"), ("{", "}"), ("(", ")"))
    return any(word.count(a) > word.count(b) for a, b in pairs) or any(word.count(mark) % 2 for mark in "'\"")


def _split(text: str) -> list[str]:
    """At the commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
