"""What is climbed: units, written as users write them, and how their activation is read from layers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dgn.errors import DgnError, nearest
from dgn.network import OUTPUT, Fit, Network
from dgn.storage import read_tensors

Position = tuple[int, int] | Literal["center"] | None

WHOLE = -(10**9)
"""The index that stands for a whole layer, ``LAYER:*``."""

_MOST_PREFIX_TOKENS = 5
"""A class token, a distillation token or class and four registers stand before the patches."""

_SIGN = re.compile(r"\s+([+-])\s+")
_DIRECTION = re.compile(r"^([^:]+):(.+\.safetensors)(?:\^(\d+(?:\.\d+)?))?$")
_FORM = re.compile(r"^(log|p)\((.+)\)$")
_WEIGHT = re.compile(r"^(-?\s*\d*\.?\d+(?:[eE][+-]?\d+)?)\s*\*\s*(.+)$")


@dataclass(frozen=True)
class Term:
    """One weighted number read from a layer: ``weight * layer[index]`` at a position or averaged over positions.

    Attributes:
        layer, index, position, weight: the index is :data:`WHOLE` for the mean square over the whole layer.
        form: ``""`` for the number itself, ``"log"`` or ``"p"`` for its log-probability or probability among all
            of the layer.
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


@dataclass(frozen=True)
class Unit:
    """One number per image: a weighted sum of terms. ``name`` is how the user wrote it, or the class name."""

    name: str
    terms: tuple[Term, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers it reads, each once."""
        return tuple(dict.fromkeys(term.layer for term in self.terms))

    @property
    def class_index(self) -> int | None:
        """The output index, for a unit that is exactly one output; else None."""
        if len(self.terms) == 1 and self.terms[0].layer == OUTPUT and self.terms[0].position is None:
            term = self.terms[0]
            return None if term.direction or term.index == WHOLE else term.index
        return None

    def as_log(self) -> Unit:
        """A class's log-probability; other units as they are."""
        return self if self.class_index is None else replace(self, terms=(replace(self.terms[0], form="log"),))

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


def parse_units(specs: str | int | Unit | Iterable[str | int | Unit], network: Network) -> list[Unit]:
    """Units from their written form.

    Args:
        specs: one or several of: a class name or index (of the output layer); ``LAYER:INDEX``; ``LAYER:INDEX@Y,X`` or
            ``LAYER:INDEX@center`` for one position of a map (without it the spatial mean); ``LAYER:*`` for the mean
            square over a whole layer; ``log(UNIT)`` and ``p(UNIT)`` for the log-probability and the probability of a
            unit among all of its layer (softmax); ``LAYER:FILE.safetensors`` or ``LAYER:FILE.safetensors^2`` for a
            direction, the file's one vector, times a power of the cosine; weighted sums of these,
            ``0.5*candle + 0.5*convertible - 0.2*lampshade``, with blanks around the signs.
        network: whose layers and classes are meant.

    Raises:
        DgnError: unknown layer or class (with the nearest names), an index or a position out of range, an ambiguous
            class name, or no unit at all.
    """
    if isinstance(specs, (str, int, Unit)):
        specs = [specs]
    units = [spec if isinstance(spec, Unit) else _parse_unit(str(spec).strip(), network) for spec in specs]
    if not units:
        raise DgnError("no unit given; try units=[goldfish]")
    for unit in units:
        for term in unit.terms:
            _check_term(term, network)
    return units


def direction(
    network: Network,
    layer: str,
    vector: Sequence[float] | Tensor,
    *,
    position: Position = None,
    cosine: float = 0.0,
    name: str | None = None,
) -> Unit:
    """A direction in a layer's feature space as a unit: ``dot(layer, vector) * cos(layer, vector)^cosine``.

    Olah et al. 2017 (cosine 0) and Carter et al. 2019, "Activation Atlas" (cosine 2 or 4: the nearer
    to the direction, the better). The cosine counts from 0.1 upwards.

    Args:
        network, layer: where; the dot product is taken at a position or of the mean over positions.
        vector: one number a feature of the layer, not all zero.
        position, cosine, name: of the unit.

    Raises:
        DgnError: unknown layer, or a vector of another length.
    """
    features, _ = _axes(network.layer_shape(layer))
    values = tuple(float(value) for value in vector)
    if len(values) != features or not any(values):
        raise DgnError(f"a direction in {layer!r} has {features} numbers, not all zero; got {len(values)}")
    if not 0 <= cosine <= 16:
        raise DgnError(f"cosine is {cosine}, expected a power from 0 to 16")
    unit = Unit(name or f"{layer}:direction", (Term(layer, 0, position, 1.0, "", values, cosine),))
    return parse_units(unit, network)[0]


def count_units(network: Network, layer: str) -> int:
    """How many units a layer has.

    Raises:
        DgnError: unknown layer, or one of a shape without units.
    """
    return _axes(network.layer_shape(layer))[0]


def find_classes(text: str, network: Network) -> list[tuple[int, str]]:
    """Classes whose name contains ``text`` (any case), as (index, name)."""
    if not network.class_names:
        raise DgnError(f"network {network.name!r} names no classes; write them by index")
    return [(i, name) for i, name in enumerate(network.class_names) if text.lower() in name.lower()]


def _parse_unit(spec: str, network: Network) -> Unit:
    if not spec:
        raise DgnError("an empty unit; try units=[goldfish]")
    index = _class_index(spec, network)
    if index is not None:
        name = network.class_names[index] if index < len(network.class_names) else spec
        if network.class_names.count(name) > 1:
            name = f"{name} ({index})"
        return Unit(name, (Term(OUTPUT, index),))
    pieces = _SIGN.split(spec)
    terms = []
    for sign, piece in zip(["+", *pieces[1::2]], pieces[0::2], strict=True):
        weight, rest = (1.0 if sign == "+" else -1.0), piece.strip()
        match = _WEIGHT.match(rest)
        if match:
            weight, rest = weight * float(match[1].replace(" ", "")), match[2].strip()
        elif rest.startswith("-") and len(rest) > 1 and _class_index(rest, network) is None:
            weight, rest = -weight, rest[1:].strip()
        form, inner = "", _FORM.match(rest)
        if inner and _class_index(rest, network) is None:
            form, rest = inner[1], inner[2].strip()
        inner = _DIRECTION.match(rest)
        if inner and not form:
            terms.append(replace(_direction(inner[1], inner[2], inner[3], network), weight=weight))
            continue
        layer, number, position = _parse_term(rest, network)
        terms.append(Term(layer, number, position, weight, form))
    return Unit(spec, tuple(terms))


def _direction(layer: str, file: str, power: str | None, network: Network) -> Term:
    """``LAYER:FILE.safetensors^POWER``."""
    tensors = read_tensors(Path(file))
    if len(tensors) != 1:
        raise DgnError(f"{file!r} holds {len(tensors)} tensors, expected one vector")
    (vector,) = tensors.values()
    return direction(network, layer, vector.flatten(), cosine=float(power or 0)).terms[0]


def _parse_term(text: str, network: Network) -> tuple[str, int, Position]:
    index = _class_index(text, network)
    if index is not None:
        return OUTPUT, index, None
    if ":" not in text:
        choices = [*network.class_names, *network.layers]
        hint = nearest(text, choices)
        if text in network.layers:
            hint = f"; {text!r} is a layer, write {text}:INDEX"
        raise DgnError(f"no unit {text!r} in network {network.name!r}{hint}")
    layer, _, rest = text.rpartition(":")
    network.layer_shape(layer)
    number, _, where = rest.partition("@")
    if number == "*" and not where:
        return layer, WHOLE, None
    try:
        return layer, int(number), _parse_position(where)
    except ValueError:
        raise DgnError(f"unit {text!r} is not LAYER:INDEX, LAYER:INDEX@Y,X or LAYER:INDEX@center") from None


def _parse_position(text: str) -> Position:
    if not text:
        return None
    if text == "center":
        return "center"
    y, x = (int(part) for part in text.split(","))
    return y, x


def _class_index(text: str, network: Network) -> int | None:
    """The index of an output unit written by index or by name; None where it is neither."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    match = re.fullmatch(r"(.+) \((\d+)\)", text)
    if match and int(match[2]) < len(network.class_names) and network.class_names[int(match[2])] == match[1]:
        return int(match[2])
    for names, wanted in (
        (network.class_names, text),
        ([name.lower() for name in network.class_names], text.lower().replace("_", " ")),
    ):
        found = [index for index, name in enumerate(names) if name == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            raise DgnError(
                f"{len(found)} classes of network {network.name!r} are called {text!r}: give one of the indices "
                + ", ".join(map(str, found))
            )
    return None


def _axes(shape: tuple[int, ...]) -> tuple[int, tuple[int, int] | None]:
    """Number of features of a layer's shape (without batch), and its grid of positions where it has one.

    ``C``; ``C x H x W``; ``N x C`` (tokens: a square number of them is the grid, after up to five prefix tokens).
    """
    if len(shape) == 1:
        return shape[0], None
    if len(shape) == 2:
        side = int(shape[0] ** 0.5)
        return shape[1], (side, side) if shape[0] - side * side <= _MOST_PREFIX_TOKENS else None
    if len(shape) == 3:
        return shape[0], (shape[1], shape[2])
    raise DgnError(f"a layer of shape {shape} has no units: expected C, C x H x W or N x C")


def _check_term(term: Term, network: Network) -> None:
    shape = network.layer_shape(term.layer)
    features, grid = _axes(shape)
    where = f"layer {term.layer!r}" if term.layer != OUTPUT else f"the output of {network.name!r}"
    if term.index == WHOLE and not term.form and not term.direction:
        return
    if term.index == WHOLE:
        raise DgnError(f"{term.form or 'a direction'} of a whole layer means nothing: give {term.layer}:INDEX")
    if not 0 <= term.index < features:
        raise DgnError(f"unit {term.index} is out of range: {where} has {features} units, 0 to {features - 1}")
    if term.position is None:
        return
    if grid is None:
        raise DgnError(f"unit {term.index} of {where} has no positions: leave out @{term.position}")
    if term.position != "center" and not (0 <= term.position[0] < grid[0] and 0 <= term.position[1] < grid[1]):
        raise DgnError(f"position {term.position} is out of range: {where} has {grid[0]} x {grid[1]} positions")


def layers_of(units: Iterable[Unit]) -> tuple[str, ...]:
    """The layers that these units read, each once."""
    return tuple(dict.fromkeys(layer for unit in units for layer in unit.layers))


class Reader:
    """Reads one unit per sample out of layers, all samples of a batch at once.

    Args:
        units: the unit of each sample, in order of the batch.
    """

    def __init__(self, units: Sequence[Unit], device: torch.device | str = "cpu") -> None:
        self.layers = layers_of(units)
        self.count = len(units)
        groups: dict[tuple[str, Position, str], list[tuple[int, int, float]]] = {}
        self._special: list[tuple[int, Term, Tensor]] = []
        self._at: list[Tensor] = []
        for row, unit in enumerate(units):
            for term in unit.terms:
                if term.direction or term.index == WHOLE:
                    self._special.append((row, term, torch.tensor(term.direction, device=device)))
                    self._at.append(torch.tensor([row], device=device))
                else:
                    key = (term.layer, term.position, term.form)
                    groups.setdefault(key, []).append((row, term.index, term.weight))
        # Uploaded once: nothing of a unit travels to the device while a loop runs.
        self._groups: list[tuple[str, Position, str, Tensor, Tensor, Tensor]] = []
        for (layer, position, form), terms in groups.items():
            rows, indices, weights = (torch.tensor(column, device=device) for column in zip(*terms, strict=True))
            self._groups.append((layer, position, form, rows, indices, weights.float()))

    def __call__(self, features: Mapping[str, Tensor]) -> Tensor:
        """Activations ``[N]`` (float32) from the layers' outputs, ``[N, ...]`` each."""
        parts = []
        for layer, position, form, rows, indices, weights in self._groups:
            output = features[layer]
            if form:
                output = output.float().log_softmax(2 if output.dim() == 3 else 1)
                output = output.exp() if form == "p" else output
            value = _read(output, rows, indices, position).float() * weights
            parts.append(value.new_zeros(self.count).index_add(0, rows, value))
        for (row, term, vector), at in zip(self._special, self._at, strict=True):
            value = _special(features[term.layer][row : row + 1], term, vector) * term.weight
            parts.append(value.new_zeros(self.count).index_add(0, at, value))
        return torch.stack(parts).sum(0)


class BatchReader:
    """Activations of all units for each image of a batch, and where in the map each is highest.

    Args:
        network: that sees the images.
        units: what is read of each of them.
        fit: how images meet the network's input.
    """

    def __init__(self, network: Network, units: Sequence[Unit], fit: Fit = "resize") -> None:
        self.network, self.units, self.fit = network, units, fit
        self.layers = layers_of(units)
        self._plain: dict[str, list[int]] = {}
        self._other: list[int] = []
        for row, unit in enumerate(units):
            term = unit.terms[0]
            plain = len(unit.terms) == 1 and not term.form and not term.direction and term.index != WHOLE
            if plain and len(network.layer_shape(term.layer)) in (1, 3):
                self._plain.setdefault(term.layer, []).append(row)
            else:
                self._other.append(row)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``[N, U]`` twice; a peak of -1 is none."""
        features = self.network.features(images, self.layers, self.fit)
        values = images.new_zeros(len(images), len(self.units))
        peaks = torch.full(values.shape, -1, dtype=torch.long, device=images.device)
        for layer, rows in self._plain.items():
            terms = [self.units[row].terms[0] for row in rows]
            index = torch.tensor([term.index for term in terms], device=images.device)
            weight = torch.tensor([term.weight for term in terms], device=images.device)
            at = torch.tensor(rows, device=images.device)
            output = features[layer].float()[:, index]
            if output.dim() == 2:
                values[:, at] = output * weight
                continue
            height, width = output.shape[2:]
            mean = output.mean((2, 3))
            peak = (output * weight[:, None, None]).flatten(2).argmax(2)
            for column, term in enumerate(terms):
                if term.position is not None:
                    y, x = (height // 2, width // 2) if term.position == "center" else term.position
                    mean[:, column], peak[:, column] = output[:, column, y, x], y * width + x
            values[:, at], peaks[:, at] = mean * weight, peak
        for row in self._other:
            values[:, row] = Reader([self.units[row]] * len(images), device=images.device)(features)
        return values, peaks


def _special(output: Tensor, term: Term, vector: Tensor) -> Tensor:
    """``[1]``: a whole layer's mean square, or a direction's product with the layer."""
    if term.index == WHOLE:
        return output.float().square().flatten(1).mean(1)
    features, _ = _axes(tuple(output.shape[1:]))
    indices = torch.arange(features, device=output.device)
    values = _read(output, torch.zeros_like(indices), indices, term.position).float()
    dot = (values * vector).sum()
    if term.cosine:
        cosine = dot / (values.norm() * vector.norm()).clamp(min=1e-12)
        dot = dot * cosine.clamp(min=0.1) ** term.cosine
    return dot[None]


def _read(output: Tensor, rows: Tensor, indices: Tensor, position: Position) -> Tensor:
    """``[len(rows)]``: feature ``indices[i]`` of sample ``rows[i]`` at the position, or averaged over positions."""
    _, grid = _axes(tuple(output.shape[1:]))
    if output.dim() == 2:
        return output[rows, indices]
    maps = output[rows, indices] if output.dim() == 4 else output[rows, :, indices]
    if position is None or grid is None:
        return maps.float().flatten(1).mean(1)  # a mean in half precision would be one of 256 steps
    y, x = (grid[0] // 2, grid[1] // 2) if position == "center" else position
    if output.dim() == 4:
        return maps[:, y, x]
    return maps[:, output.shape[1] - grid[0] * grid[1] + y * grid[1] + x]
