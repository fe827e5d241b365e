"""Whether a word in a viewer's answer names what an image shows: ImageNet's classes, and their kinds from WordNet."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REST = "other thing"
"""The kind of what is of no kind."""


@dataclass(frozen=True)
class Kinds:
    """What people call things.

    Attributes:
        names: of each ImageNet class, its own.
        above: of each class, the names of what lies between it and its kind.
        kind: of each class.
        words: of each kind, what people say for it.
    """

    names: list[set[str]]
    above: list[set[str]]
    kind: list[str]
    words: dict[str, set[str]]


@cache
def kinds() -> Kinds:
    """Names and kinds of ImageNet's classes, made from WordNet by ``benchmarks/kinds.py``."""
    held = json.loads(Path(__file__).with_name("kinds.json").read_text())
    words = {
        kind: {_plain(word) for word in [*re.split(" or | of ", kind.removeprefix("other ")), kind, *said]}
        for kind, said in held["kinds"].items()
    }
    names, above = ([{_plain(name) for name in one[part]} for one in held["classes"]] for part in ("names", "above"))
    return Kinds(names, above, [one["kind"] for one in held["classes"]], words)


def right(answer: str, label: int) -> str:
    """``"exactly"`` where a class is called by a name of its own, ``"in kind"`` where its kind or another of that kind
    is named, ``""`` where neither is.

    An answer may hold several words ("a yellow school bus"); a name counts where all of its words are in it, in order.
    """
    known, said = kinds(), _plain(answer)
    if any(_within(name, said) for name in known.names[label]):
        return "exactly"
    kind = known.kind[label]
    if kind == REST:
        return ""
    alike = known.words[kind] | known.above[label]
    if not kind.startswith("other"):
        alike = alike.union(*(names for names, other in zip(known.names, known.kind, strict=True) if other == kind))
    return "in kind" if any(_within(name, said) for name in alike) else ""


def _plain(text: str) -> str:
    """Lower case, letters alone, plurals without their s."""
    words = re.sub(r"[^a-z ]", " ", text.lower().replace("'s", "")).split()
    return " ".join(_singular(word) for word in words)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def _within(name: str, said: str) -> bool:
    return bool(name) and f" {name} " in f" {said} "
