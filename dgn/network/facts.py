"""What is known of a network besides its weights (normalisation, classes, kind of scores), and who says so."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgn.arguments import class_list
from dgn.errors import DgnError, first_line

if TYPE_CHECKING:
    from dgn.network.network import Network

FACTS = (
    "input_size", "mean", "std", "range", "classes", "fit", "scores", "axes", "dictionaries", "texts", "images",
)  # fmt: skip
"""What can be told of any network."""


@dataclass(frozen=True)
class Targets:
    """What a network's outputs are compared with.

    Attributes:
        texts: as they were given, those of files line by line.
        images: names of files; of other images their number.
        cut: texts that are longer than the text tower reads.
    """

    texts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the outputs are called: texts as they are, images by their file's name without the suffix; the second
        of one name is ``NAME-2``, and so on."""
        names = dict.fromkeys(self.texts)
        for stem in (Path(name).stem for name in self.images):
            numbered = (f"{stem}-{number}" for number in itertools.count(2))
            names[stem if stem not in names else next(name for name in numbered if name not in names)] = None
        return (*self.texts, *list(names)[len(dict.fromkeys(self.texts)) :])


def read_classes(given: Any) -> tuple[str, ...]:
    """Names of classes, in order of their index.

    Args:
        given: a list of names, a mapping from index to name (or from name to index), or a file: a name a line
            (ImageNet's ``n01440764 tench, Tinca tinca`` too), or JSON with one of these, also as the ``id2label`` of a
            ``config.json``.

    Raises:
        DgnError: no such file, or nothing of that kind in it.
    """
    where = ""
    if isinstance(given, (str, Path)):
        where, given = f" in {str(given)!r}", _read(Path(given))
    if isinstance(given, Mapping) and isinstance(given.get("id2label"), Mapping):
        given = given["id2label"]
    if isinstance(given, Mapping):
        numbered = {key: _last(name) for key, name in given.items()}
        try:
            given = class_list(numbered)
        except DgnError:
            given = ()
        if len(given) != len(numbered):
            raise DgnError(f"the class names{where} are not numbered from 0 on without a gap")
    if not isinstance(given, Sequence) or not given or any(isinstance(name, (Mapping, bool)) for name in given):
        raise DgnError(f"no class names{where}: expected a name a line, a JSON list, or JSON from index to name")
    return tuple(str(_last(name)) for name in given)


def _last(name: Any) -> Any:
    """A name that stands behind its WordNet number, as in ImageNet's ``["n01440764", "tench"]``."""
    return name[-1] if isinstance(name, (list, tuple)) and name else name


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DgnError(f"no readable file of class names {str(path)!r}: {first_line(error)}") from error
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise DgnError(f"{str(path)!r} is no JSON: {error}") from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    wordnet = [re.fullmatch(r"n\d{8}[\s,:]+(.+)", line) for line in lines]
    return [match[1].split(",")[0].strip() for match in wordnet if match] if lines and all(wordnet) else lines


def check_classes(network: Network) -> None:
    """Raise :class:`DgnError` where there are not as many class names as outputs: some would name the wrong output."""
    outputs = None
    with suppress(DgnError):  # several outputs, or one whose features can't be told
        outputs = network.layout("output").count
    few = network.named_by_index and len(network.class_names) < (outputs or 0)  # a dictionary names some of them
    if outputs is not None and outputs != len(network.class_names) and not few:
        raise DgnError(
            f"{len(network.class_names)} class names for {outputs} outputs of network {network.name!r}: give one each"
        )


def described(network: Network) -> dict[str, Any]:
    """How a network sees images, for a manifest: each fact with its source (``given`` by the user, ``known`` from the
    network's library or file, ``found`` by asking the network, or ``assumed``)."""
    values = {
        "input_size": list(network.input_size), "mean": list(network.mean), "std": list(network.std),
        "range": network.range, "fit": network.fit, "classes": len(network.class_names) or None,
        "scores": network.scores, "axes": network.axes or None, "channels": network.channels,
        "dictionaries": {name: layer.about for name, layer in network.derived.items() if layer.about} or None,
        "texts": list(network.targets.texts) or None, "images": list(network.targets.images) or None,
    }  # fmt: skip
    sources = {"dictionaries": "given", "channels": network.origins.get("mean", "assumed"), **network.origins}
    return {
        name: {"value": value, "source": sources.get(name, "assumed")}
        for name, value in values.items() if value is not None
    }  # fmt: skip


def told(network: Network) -> dict[str, Any]:
    """What the user said of a network, for the fingerprints of jobs; empty where nothing."""
    values = {
        "mean": network.mean, "std": network.std, "fit": network.fit, "scores": network.told_scores,
        "classes": network.class_names, "axes": network.axes,
    }  # fmt: skip
    given = {name: value for name, value in values.items() if network.origins.get(name) == "given"}
    if network.targets.names:  # scale and shift of the cosines come with the text tower
        given["targets"] = (*network.targets.names, str(network.told_scores))
    derived = {name: (layer.layer, layer.digest) for name, layer in network.derived.items() if layer.digest}
    return {**given, "derived": derived} if derived else given


def summary(network: Network) -> list[str]:
    """:func:`described` as lines for a person."""
    lines = []
    for name, fact in described(network).items():
        value = fact["value"]
        if name == "input_size":
            value = " x ".join(map(str, value))
        elif isinstance(value, list):
            value = ", ".join(part if isinstance(part, str) else f"{part:g}" for part in value)
        elif name == "dictionaries":
            value = "; ".join(f"{called}, {about}" for called, about in value.items())
        lines.append(f"{name}: {value} ({fact['source']})")
    return lines


def assumptions(network: Network) -> list[str]:
    """A line where the normalisation or the names of classes are guesses, and one of texts that were cut."""
    guesses = []
    if network.origins.get("mean", "assumed") == "assumed":
        low, high = ((end - network.mean[0]) / network.std[0] for end in (0, 1))
        guesses.append(f"pixels from {low:g} to {high:g} (else network.range, network.mean, network.std)")
    if network.class_names and network.origins.get("classes", "assumed") == "assumed":
        guesses.append(f"the names of ImageNet's {len(network.class_names)} classes (else network.classes)")
    lines = [f"assumed of network {network.name!r}: {'; '.join(guesses)}"] if guesses else []
    cut = network.targets.cut
    if cut:
        lines.append(
            f"the text tower of network {network.name!r} reads the beginning alone of {len(cut)} texts: {cut[0]!r}"
        )
    return lines
