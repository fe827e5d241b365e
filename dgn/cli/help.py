"""``dgn VERB --help``: every key with what it is and the value that will be used, read from the schema's docstrings."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, get_type_hints

from omegaconf import OmegaConf

from dgn.ascent.own import family_settings
from dgn.ascent.presets import preset
from dgn.ascent.settings import AscentSettings
from dgn.cli.compose import compose
from dgn.cli.groups import AscentConfig, PriorConfig, TrainingConfig
from dgn.cli.keys import HOW, KEPT, RUN
from dgn.cli.schema import schema_of
from dgn.cli.verbs import VERBS
from dgn.resources import prior_family, resource
from dgn.training.settings import FlowSettings, TrainSettings

OF_GROUPS = {
    "figure": {
        "name": "of its files", "kind": "how it is made: matrix, facets, ablation, convergence, start or atlas",
        "title": "above it", "units": "its columns", "unit": "that it is about", "images": "that it is about, files",
        "rows": "its rows, each with a prior, an ascent, a seed of its own, or real examples",
        "points": "size of the letters", "transposed": "rows become columns where the page is wide enough",
        "frames": "images on the way", "seeds": "of each unit", "panel": "title of the panel",
        "examples": "real images that are grouped", "facets": "how many; null: as separate best",
        "shown": "real images of each facet", "fill": "what covers", "size": "of the patch", "stride": "of the patch",
        "curves": "the curves of insertion and deletion instead of the maps",
        "layer": "whose activations are laid out", "position": "of each image, the mean or a random one",
        "method": "of the layout: umap, tsne, pca. auto: umap if it is installed, else tsne",
        "grid": "cells a side. null: by the number of images", "fewest": "activations of a cell that is shown",
        "whiten": "cells' directions tell them from the other cells", "cosine": "power of the cosine to a direction",
    },
    "launcher": {
        "slots": "jobs at a time. null: one a GPU, or one", "threads": "of each job. null: the cores shared out",
        "address": "of Ray's cluster", "gpus": "of each job", "cpus": "of each job", "init": "keywords of ray.init",
        "partition": "of Slurm", "memory": "of each job, in GB", "minutes": "that a job may take",
        "at_once": "jobs at a time",
    },
}  # fmt: skip
"""Keys of groups that are no dataclasses."""

SECTIONS = ("What", "How", "Where to, and what is kept")
FLAGS = ("-h", "--help")


class Row(NamedTuple):
    """A key, what it is, and the value that will be used (empty: its text says it)."""

    key: str
    text: str
    value: str = ""

    @property
    def group(self) -> str:
        """The first part of the key."""
        return self.key.split(".")[0].split("=")[0]


def described(settings: type) -> dict[str, str]:
    """The fields of a dataclass as their docstrings tell: name -> text, those of its bases too."""
    texts: dict[str, str] = {}
    for owner in reversed(settings.__mro__):
        lines = inspect.cleandoc(owner.__dict__.get("__doc__") or "").partition("Attributes:\n")[2].splitlines()
        block = textwrap.dedent("\n".join(lines))
        for found in re.finditer(r"^(\w[\w, ]*): (.*(?:\n +.*)*)", block, re.MULTILINE):
            for name in found[1].split(", "):
                texts[name] = " ".join(found[2].split())
    return texts


def brief(text: str) -> str:
    """The first sentence, and what null means, without markup."""
    first, *others = re.split(r"(?<=\.) (?=[A-Z]|null:)", text.replace("None:", "null:"))
    kept = [first, *(other for other in others if other.startswith("null:"))]
    return re.sub(r":\w+:`[\w.]+\.(\w+)`", r"\1", " ".join(kept)).replace("``", "").rstrip(".")


def help_of(verb: str, words: Sequence[str]) -> str:
    """The whole text.

    Raises:
        DgnError: Hydra can't compose them.
    """
    config = compose(verb, [word for word in words if word not in FLAGS])
    rows = list(_rows(schema_of(verb), OmegaConf.to_container(config, throw_on_missing=False), _groups(verb)))
    lines = [f"dgn {verb}: {VERBS[verb].what}", "", f"usage: dgn {verb} [KEY=VALUE ...] [-m]", ""]
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    for title, kept in zip(SECTIONS, _grouped(rows, list(schema_of(verb).__annotations__)), strict=True):
        if kept:
            lines += [title, *(line for row in kept for line in _shown(row, width)), ""]
    lines += [
        "KEY=VALUE shows the value that will be used. -m: a job for each of several values, KEY=A,B.",
        f"Hydra's own flags: dgn {verb} --hydra-help",
    ]
    return "\n".join(lines)


def _grouped(rows: Sequence[Row], own: Sequence[str]) -> tuple[list[Row], list[Row], list[Row]]:
    """What, how and where to; the verb's own keys first, the network's last."""
    groups: tuple[list[Row], list[Row], list[Row]] = ([], [], [])
    for row in sorted(rows, key=lambda row: (row.group not in own, row.group == "network")):
        groups[1 if row.group in HOW else 2 if row.group in RUN | KEPT else 0].append(row)
    return groups


def _groups(verb: str) -> list[str]:
    """The groups of ``conf/`` that a verb composes."""
    chosen: Any = OmegaConf.load(resource("conf") / f"{verb}.yaml")
    return [str(next(iter(entry))) for entry in chosen.defaults if not isinstance(entry, str)]


def _rows(schema: type, values: Any, groups: Sequence[str] = (), prefix: str = "") -> Iterator[Row]:
    """The keys of a schema, with those inside of them; ``groups`` are those that can be chosen by name."""
    texts, hints = described(schema), get_type_hints(schema)
    for name in (item.name for item in fields(schema)):
        key, value, text = f"{prefix}{name}", values.get(name), brief(texts.get(name, ""))
        if name == "verb":
            continue
        choices = sorted(path.stem for path in (resource("conf") / name).glob("*.yaml")) if name in groups else []
        if name == "launcher" and not choices:
            continue  # of this verb's sweeps Hydra's own, hydra/launcher=NAME
        if choices and name != "data":  # where each verb has its own
            yield Row(f"{name}=NAME", f"{text + ': ' if text else ''}{', '.join(choices)}")
        if hints[name] is AscentConfig:
            yield from _ascent(values, prefix)
        elif hints[name] is TrainingConfig:
            yield from _training(value)
        elif name == "prior" and not prefix:
            for prior, entry in value.items():
                given = {part: entry[part] for part in described(PriorConfig) if entry.get(part) not in (None, {})}
                yield from (Row(f"prior.{prior}.{part}", brief(described(PriorConfig)[part]), _said(own))
                            for part, own in given.items())  # fmt: skip
        elif is_dataclass(hints[name]):
            yield from _rows(hints[name], value, prefix=f"{key}.")  # type: ignore[arg-type]
        elif isinstance(value, Mapping) and choices:
            yield from (Row(f"{key}.{part}", OF_GROUPS[name].get(part, ""), _said(own)) for part, own in value.items())
        else:
            yield Row(key, text, _said(value))


def _ascent(values: Mapping[str, Any], prefix: str) -> Iterator[Row]:
    """The ascent's settings, each with what every prior will do."""
    given = dict(values["ascent"])
    name = given.pop("preset")
    yield Row("ascent.preset", "a named set of settings, which ascent=NAME chooses", name or "")
    used: dict[str, AscentSettings] = {}
    for prior, entry in values.get("prior", {}).items():
        if entry.get("module"):  # whose class may have settings of its own, and is not asked
            continue
        family = prior_family(str(entry["path"]), str(entry.get("space", "auto")))
        own = family_settings(family, entry.get("ascent") or {}, given["rule"])
        used[prior] = (preset(name) if name else own).with_changes(given)
    for setting, text in described(AscentSettings).items():
        numbers = {prior: _said(getattr(settings, setting)) for prior, settings in used.items()}
        same = len(set(numbers.values())) <= 1
        if same:
            yield Row(f"ascent.{setting}", brief(text), next(iter(numbers.values()), ""))
        else:
            each = ", ".join(f"{prior} {number or 'null'}" for prior, number in numbers.items())
            yield Row(f"ascent.{setting}", f"{brief(text)} [{each}]")


def _training(given: Mapping[str, Any]) -> Iterator[Row]:
    """The settings of the recipe's kind: a flow's where it names a prior, else a generator's."""
    kind = TrainSettings if given["prior"] is None else FlowSettings
    for item in fields(kind):
        if item.name in given:
            value = item.default if given[item.name] is None else given[item.name]
            yield Row(f"training.{item.name}", brief(described(kind)[item.name]), _said(value))


def _said(value: Any) -> str:
    """A value as one would write it; empty for null, whose meaning the text says."""
    if value is None or value == {} or value == "???":
        return ""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(str(part) for part in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_said(own)}' for key, own in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _shown(row: Row, width: int) -> Iterator[str]:
    """A row's lines: the key with its value, and beside it the text."""
    key, column = f"{row.key}={row.value}" if row.value else row.key, 30
    inside = len(key) <= column - 4
    lines = textwrap.wrap(row.text, width - column, break_on_hyphens=False) or [""]
    if inside:
        yield f"  {key:<{column - 2}}{lines[0]}".rstrip()
    else:
        yield from textwrap.wrap(key, width - 2, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    yield from (f"{'':<{column}}{line}" for line in lines[inside:] if line)
