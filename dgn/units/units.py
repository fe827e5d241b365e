"""Units as users write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from numbers import Integral
from pathlib import Path

from torch import Tensor

from dgn.errors import DgnError, nearest
from dgn.files.storage import read_tensors
from dgn.functions import Function
from dgn.guest import guest
from dgn.network.facts import check_classes
from dgn.network.layout.layout import Position
from dgn.network.layout.survey import OUTPUT
from dgn.network.network import Network
from dgn.network.scores import form_of
from dgn.units.unit import WHOLE, Computed, Term, Unit

_SIGN = re.compile(r"\s+([+-])\s+")
_DIRECTION = re.compile(r"^([^:]+):(.+\.safetensors)(?:\^(\d+(?:\.\d+)?))?(?:@(\w+(?:,\d+)*))?$")
_FORM = re.compile(r"^(log|p)\((.+)\)$")
_WEIGHT = re.compile(r"^(-?\s*\d*\.?\d+(?:[eE][+-]?\d+)?)\s*\*\s*(.+)$")


@guest
def parse_units(specs: str | int | Unit | Iterable[str | int | Unit], network: Network) -> list[Unit]:
    """Units from their written form.

    Args:
        specs: one or several of: a class name or index (of the output layer); ``LAYER:INDEX``; ``LAYER:INDEX@Y,X`` or
            ``LAYER:INDEX@center`` for one position of a map or of the tokens' grid (without it the mean over all
            positions), ``LAYER:INDEX@max`` for the largest over all positions (of tokens, over the grid),
            ``LAYER:INDEX@I`` for one position of a sequence or one token, ``@cls`` and ``@reg0`` for the
            class token and the first register; ``LAYER:*`` for the mean square over a whole layer; ``log(UNIT)`` and
            ``p(UNIT)`` for the log-probability and the probability of a unit among all of its layer (a softmax; of the
            output, what :attr:`dgn.Network.scores` says);
            ``LAYER:FILE.safetensors`` or ``LAYER:FILE.safetensors^2`` for a
            direction, the file's one vector, times a power of the cosine; weighted sums of these,
            ``0.5*candle + 0.5*convertible - 0.2*lampshade``, with blanks around the signs.
        network: whose layers and classes are meant.

    Raises:
        DgnError: unknown layer or class (with the nearest names), an index or a position out of range, an ambiguous
            class name, or no unit at all.
    """
    if isinstance(specs, (str, int, Unit)):
        specs = [specs]
    if not isinstance(specs, Iterable):
        raise DgnError(f"units is {specs!r}, expected a name, an index, a unit, or a list of these")
    specs = list(specs)
    for spec in specs:
        if not isinstance(spec, (str, Integral, Unit)):
            raise DgnError(f"{spec!r} is no unit, expected a name, an index, or a unit")
    units = [spec if isinstance(spec, Unit) else _parse_unit(str(spec).strip(), network) for spec in specs]
    if not units:
        raise DgnError("no unit given; try units=[goldfish]")
    for unit in units:
        for term in unit.terms:
            _check_term(term, network)
    return units


@guest
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
    features = network.layout(layer).count
    values = tuple(float(value) for value in vector)
    if len(values) != features or not any(values):
        raise DgnError(f"a direction in {layer!r} has {features} numbers, not all zero; got {len(values)}")
    if not 0 <= cosine <= 16:
        raise DgnError(f"cosine is {cosine}, expected a power from 0 to 16")
    unit = Unit(name or f"{layer}:direction", (Term(layer, 0, position, 1.0, "", values, cosine),))
    return parse_units(unit, network)[0]


def unit(function: Callable[..., Tensor], layers: str | Sequence[str], name: str | None = None) -> Unit:
    """An objective of one's own as a unit: whatever a function makes of layers, differentiable.

    ``dgn.unit(lambda maps: maps[:, 17].amax((1, 2)), ["blocks.4"], "highest of 17")`` can be synthesised, searched for
    and ablated as any other.

    Args:
        function: takes the output of each layer, in the order of ``layers``: float32 ``[N, ...]``, the axes behind the
            samples as the module has them (:attr:`dgn.Network.layers` tells their lengths). Returns ``[N]``, a number
            a sample that depends on this sample alone.
        layers: names of layers; ``"output"`` for what the network returns.
        name: in tables and file names; None: the function's.

    Raises:
        DgnError: no function, no layer, or a function that can't take so many arguments.
    """
    reads = (layers,) if isinstance(layers, str) else tuple(layers)
    if not callable(function):
        raise DgnError(f"an objective is a function of layers' outputs, not {function!r}")
    if not reads:
        raise DgnError("an objective reads layers: give layers=['LAYER']")
    own = Function(function)
    own.check("objective", reads)
    called = str(name or getattr(function, "__name__", own))
    return Unit(called, (Computed(reads[0], WHOLE, function=own, reads=reads),))


@guest
def find_classes(network: Network, text: str) -> list[tuple[int, str]]:
    """Classes whose name contains ``text`` (any case), as (index, name)."""
    if not network.class_names:
        raise DgnError(f"network {network.name!r} names no classes; write them by index")
    check_classes(network)
    return [(i, name) for i, name in enumerate(network.class_names) if text.lower() in name.lower()]


def _parse_unit(spec: str, network: Network) -> Unit:
    if not spec:
        raise DgnError("an empty unit; try units=[goldfish]")
    index = _class_index(spec, network)
    if index is not None:
        return class_unit(index, network)
    return Unit(spec, tuple(_parse_summand(*one, network) for one in _summands(spec, network)))


def class_unit(index: int, network: Network) -> Unit:
    """A unit of the output, called as its class is; of several classes of a name, with its index behind it."""
    name = network.class_names[index] if 0 <= index < len(network.class_names) else str(index)
    if network.class_names.count(name) > 1:
        name = f"{name} ({index})"
    return Unit(name, (Term(OUTPUT, index),))


def _summands(spec: str, network: Network) -> list[tuple[float, str]]:
    """A sum's parts with their weights. A sign inside of a class's name does not part it."""
    pieces = _SIGN.split(spec)
    found = []
    at = 0
    while at < len(pieces):
        sign = 1.0 if at == 0 or pieces[at - 1] == "+" else -1.0
        for end in range(len(pieces), at, -2):
            text = "".join(f" {piece} " if n % 2 else piece for n, piece in enumerate(pieces[at:end])).strip()
            weight, rest = _weighted(text, network)
            if end == at + 1 or _class_index(rest, network) is not None:
                found.append((sign * weight, rest))
                at = end + 1
                break
    return found


def _weighted(text: str, network: Network) -> tuple[float, str]:
    """A summand's weight and what is left; a class's name that begins like a weight has none."""
    if _class_index(text, network) is not None:
        return 1.0, text
    match = _WEIGHT.match(text)
    if match:
        return float(match[1].replace(" ", "")), match[2].strip()
    return (-1.0, text[1:].strip()) if text.startswith("-") and len(text) > 1 else (1.0, text)


def _parse_summand(weight: float, text: str, network: Network) -> Term:
    form, inner = "", _FORM.match(text)
    if inner and _class_index(text, network) is None:
        form, text = inner[1], inner[2].strip()
    inner = _DIRECTION.match(text)
    if inner and not form and _class_index(text, network) is None:
        at = network.layout(inner[1]).token(inner[4] or "", f"layer {inner[1]!r}") or _parse_position(inner[4] or "")
        return replace(_direction(inner[1], inner[2], inner[3], network), weight=weight, position=at)
    layer, number, position = _parse_term(text, network)
    form = form_of(form, network, layer) if form else ""
    return Term(layer, number, position, weight, form)


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
        hint = nearest(text, [*network.class_names, *network.layers])
        with suppress(DgnError):
            network.seen(text)
            hint = f"; {text!r} is a layer, write {text}:INDEX"
        raise DgnError(f"no unit {text!r} in network {network.name!r}{hint}")
    layer, _, rest = text.rpartition(":")
    network.layer_shape(layer)
    number, _, where = rest.partition("@")
    if number == "*" and not where:
        return layer, WHOLE, None
    token = network.layout(layer).token(where, f"layer {layer!r}")
    try:
        return layer, int(number), token or _parse_position(where)
    except ValueError:
        raise DgnError(
            f"unit {text!r} is not LAYER:INDEX, LAYER:INDEX@Y,X, LAYER:INDEX@I, LAYER:INDEX@TOKEN (cls, reg0, ...), "
            "LAYER:INDEX@center or LAYER:INDEX@max"
        ) from None


def _parse_position(text: str) -> Position:
    if not text:
        return None
    if text in ("center", "max"):
        return text  # type: ignore[return-value]
    return tuple(int(part) for part in text.split(","))


def _class_index(text: str, network: Network) -> int | None:
    """The index of an output unit written by index or by name; None where it is neither.

    Raises:
        DgnError: several classes are called so; or it is a class's name and the index or the unit of another.
    """
    if re.fullmatch(r"-?\d+", text):
        named = [index for index, name in enumerate(network.class_names) if name == text]
        if named and named != [int(text)]:
            raise DgnError(
                f"{text!r} is the name of class {named[0]} and the index of another: write {OUTPUT}:{text} for the "
                f"index, '{text} ({named[0]})' for the name"
            )
        return int(text)
    if ":" in text and text in network.class_names and _is_unit(text, network):
        at = network.class_names.index(text)
        raise DgnError(f"{text!r} is the name of class {at} and a unit of a layer: write {OUTPUT}:{at} for the class")
    match = re.fullmatch(r"(.+) \((\d+)\)", text)
    if match and int(match[2]) < len(network.class_names) and network.class_names[int(match[2])] == match[1]:
        check_classes(network)
        return int(match[2])
    for names, wanted in (
        (network.class_names, text),
        ([name.lower() for name in network.class_names], text.lower().replace("_", " ")),
    ):
        found = [index for index, name in enumerate(names) if name == wanted]
        if len(found) == 1:
            check_classes(network)
            return found[0]
        if found:
            raise DgnError(
                f"{len(found)} classes of network {network.name!r} are called {text!r}: give one of the indices "
                + ", ".join(map(str, found))
            )
    return None


def _is_unit(text: str, network: Network) -> bool:
    """Whether a text is ``LAYER:INDEX`` of a layer that there is."""
    layer, _, rest = text.rpartition(":")
    return layer in network.layers and bool(re.fullmatch(r"\d+(@.*)?|\*", rest))


def _check_term(term: Term, network: Network) -> None:
    where = f"layer {term.layer!r}" if term.layer != OUTPUT else f"the output of {network.name!r}"
    if term.index == WHOLE:
        for layer in term.layers:
            network.layer_shape(layer)
        if term.form or term.direction:
            what = term.form.partition(" ")[0] or "a direction"
            raise DgnError(f"{what} of a whole layer means nothing: give {term.layer}:INDEX")
        return
    layout = network.layout(term.layer)
    if not 0 <= term.index < layout.count:
        raise DgnError(f"unit {term.index} is out of range: {where} has {layout.count} units, 0 to {layout.count - 1}")
    layout.check(term.position, f"unit {term.index}: {where}" if term.position == "center" else where)
