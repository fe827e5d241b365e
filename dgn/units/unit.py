"""What a unit is: one number an image, a weighted sum of terms that are read from layers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dgn.functions import Function
from dgn.network.layout.layout import Position
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.network.scores import form_of

WHOLE = -(10**9)
"""The index that stands for a whole layer, ``LAYER:*``."""


@dataclass(frozen=True)
class Term:
    """One weighted number read from a layer: ``weight * layer[index]`` at a position or averaged over positions.

    Attributes:
        layer, index, position, weight: the index is :data:`WHOLE` for the mean square over the whole layer.
        form: ``""`` for the number itself, ``"log"`` or ``"p"`` for its log-probability or probability among all
            of the layer, with the kind of scores behind it where they are no softmax's; see :mod:`dgn.network.scores`.
        direction: numbers, one a feature, that are multiplied with the layer's in place of one feature.
        cosine: with a direction, the power of the cosine that the product is multiplied by (0: the product alone).
    """

    layer: str
    index: int
    position: Position = None
    weight: float = 1.0
    form: str = ""
    direction: tuple[float, ...] = ()
    cosine: float = 0.0

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers it reads."""
        return (self.layer,)


@dataclass(frozen=True, kw_only=True)
class Computed(Term):
    """A number that a function of one's own makes of layers, the first of which is ``layer``; see :func:`unit`."""

    function: Function
    reads: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        return self.reads


@dataclass(frozen=True)
class Unit:
    """One number per image: a weighted sum of terms.

    Attributes:
        name: how the user wrote it, or the class name.
        terms: of the sum.
        aim: what an ascent climbs in its place, where that is something else; its own activation is what is reported.
    """

    name: str
    terms: tuple[Term, ...]
    aim: Unit | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers it reads, each once."""
        return tuple(dict.fromkeys(layer for term in self.terms for layer in term.layers))

    @property
    def class_index(self) -> int | None:
        """The output index, for a unit that is exactly one output; else None."""
        if len(self.terms) == 1 and self.terms[0].layer == OUTPUT and self.terms[0].position is None:
            term = self.terms[0]
            return None if term.direction or term.index == WHOLE else term.index
        return None

    def as_log(self, network: Network) -> Unit:
        """A class's log-probability, where the network's outputs tell one; other units as they are."""
        if self.class_index is None or network.scores == "none":
            return self
        return replace(self, terms=(replace(self.terms[0], form=form_of("log", network, OUTPUT)),))

    @property
    def file_name(self) -> str:
        """The name in letters, digits, ``.``, ``_`` and ``-``; see :func:`file_name`."""
        return file_name(self.name)


_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, whatever their suffix."""


def file_name(text: str) -> str:
    """Any text as a part of a file's name: ASCII letters, digits, ``.``, ``_`` and ``-``, at most 100 characters.

    Texts that differ stay different: a space becomes ``-``, and whatever else is changed, too long or already holds a
    ``-`` gets the beginning of its SHA-256.
    """
    plain = re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.")
    reserved = not plain or _RESERVED.fullmatch(plain)
    same = plain == text.replace(" ", "-") and "-" not in text and not re.search(r"-[0-9a-f]{12}$", plain)
    if same and len(plain) <= 80 and not reserved:
        return plain
    plain = f"unit-{plain[:70]}".strip("-.") if reserved else plain[:80]
    return f"{plain}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def layers_of(units: Iterable[Unit]) -> tuple[str, ...]:
    """The layers that these units read, each once."""
    return tuple(dict.fromkeys(layer for unit in units for layer in unit.layers))
