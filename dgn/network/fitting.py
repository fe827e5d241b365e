"""Weights of one network put into another of the same architecture: prefixes, and heads of other sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dgn.errors import DgnError
from dgn.files.weights import Weights

Build = Callable[[int | None], nn.Module]
"""Makes the module with so many classes; None for as many as it has by itself."""

_USUAL = {"", "module", "model", "net", "network", "backbone", "encoder", "state_dict"}
"""Parts of prefixes under which trainings keep the network itself, not one that it is taught by."""
_SHOWN = 3


def fill(build: Build, weights: Weights, name: str) -> tuple[nn.Module, int | None]:
    """The module with these weights, and its number of classes where that is not the usual one.

    That is read from the weights: where all that doesn't fit are the first axes of some tensors, the module is built
    again with as many classes as these have rows.

    Raises:
        DgnError: weights that don't fit, with the names of what is too little, too much or misshapen.
    """
    module, path = build(None), str(weights.path)
    match = matched(weights.tensors, module.state_dict(), path)
    count, misfits = match.class_count(), match.misfits()
    if count is not None:
        other = build(count)
        again = matched(weights.tensors, other.state_dict(), path)
        if not again.misfits():
            module, match, misfits = other, again, []
    if misfits:
        kind = weights.config.get("architectures") or [weights.config.get("architecture")]
        whose = f"; they are of {kind[0]}" if kind[0] else ""
        raise DgnError(f"the weights {path!r} don't fit {name!r}: {', '.join(misfits)}{whose}")
    module.load_state_dict(match.tensors, strict=False)
    return module, count


@dataclass(frozen=True)
class Match:
    """A file's tensors beside a module's.

    Attributes:
        own: the module's state dict.
        tensors: of the file, under the module's own names.
        extra: those that the module has no place for.
    """

    own: Mapping[str, Tensor]
    tensors: dict[str, Tensor]
    extra: dict[str, Tensor]

    def misshapen(self) -> list[str]:
        """Names of the tensors of other shapes."""
        return [name for name, tensor in self.tensors.items() if self.own[name].shape != tensor.shape]

    def misfits(self) -> list[str]:
        """What is too little, too much or misshapen, in words."""
        kinds = {"lack": _missing(self.own, self.tensors), "hold the unknown": list(self.extra),
                 "misshape": self.misshapen()}  # fmt: skip
        return [
            f"they {verb} {', '.join(map(repr, names[:_SHOWN]))} ({len(names)} such)"
            for verb, names in kinds.items() if names
        ]  # fmt: skip

    def class_count(self) -> int | None:
        """The number of classes with which the module would take the weights; None where they fit, or never would."""
        shapes = [(self.own[name].shape, self.tensors[name].shape) for name in self.misshapen()]
        if shapes:
            other_rows = all(len(mine) and mine[1:] == theirs[1:] for mine, theirs in shapes)
            same = len({(mine[:1], theirs[:1]) for mine, theirs in shapes}) == 1
            return int(shapes[0][1][0]) if other_rows and same else None
        heads = [tensor for name, tensor in self.extra.items() if name.endswith("weight") and tensor.dim() == 2]
        without_head = len(self.tensors) == len(self.own) and len(heads) == 1  # so the module was built
        return len(heads[0]) if without_head else None


def _missing(own: Mapping[str, Tensor], names: Container[str]) -> list[str]:
    """Names of the module's tensors that are not there; batch counters of BatchNorm may be missing."""
    return [name for name in own if name not in names and not name.endswith("num_batches_tracked")]


def matched(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> Match:
    """Find the place of each tensor in a module's state dict ``own``.

    Names may stand behind a prefix, and have parts that wrappers put in between; ``path`` is for errors.
    """
    wrappers = {"_orig_mod"} | ({"module"} if not any("module" in name.split(".") for name in own) else set())
    plain = {".".join(part for part in name.split(".") if part not in wrappers): name for name in tensors}
    prefix = _prefix(plain, own, path)
    leads = [".".join(prefix[:end]) for end in range(len(prefix), -1, -1)]  # a head may stand further out
    places = {
        name: place for name in own
        if (place := next((at for lead in leads if (at := f"{lead}.{name}".lstrip(".")) in plain), None)) is not None
    }  # fmt: skip
    left = {place: tensors[name] for place, name in plain.items() if place not in places.values()}
    head = _lone_head(_missing(own, places), left, own)
    places |= head
    complete = not _missing(own, places)
    inside = f"{leads[0]}." if leads[0] else ""
    extra = {
        place: tensor for place, tensor in left.items()
        if place not in head.values() and (not complete or place.startswith(inside))  # else it is of another module
    }  # fmt: skip
    return Match(own, {name: tensors[plain[places[name]]] for name in own if name in places}, extra)


def _prefix(plain: Mapping[str, str], own: Mapping[str, Tensor], path: str) -> tuple[str, ...]:
    """The prefix behind which most of the module's names stand."""
    fits: Counter[tuple[str, ...]] = Counter()
    for key in plain:
        parts = key.split(".")
        for at in range(len(parts)):
            if ".".join(parts[at:]) in own:
                fits[tuple(parts[:at])] += 1
    if not fits:
        return ()
    usual = {prefix: set(prefix) <= _USUAL for prefix in fits}
    best = sorted(fits, key=lambda prefix: (-fits[prefix], not usual[prefix], len(prefix)))
    if len(best) > 1 and fits[best[0]] == fits[best[1]] and not usual[best[0]] and not usual[best[1]]:
        shown = " and ".join(repr(".".join(prefix) + ".") for prefix in best[:2])
        raise DgnError(f"the weights {path!r} hold several networks, {shown}: save one of them alone")
    return best[0]


def _lone_head(missing: Sequence[str], left: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """The last linear layer under another name (as in ``fc.1``), where it alone is missing and it alone is left."""
    mine, theirs = ({name.rpartition(".")[2]: name for name in names} for names in (missing, left))
    layers = {name.rpartition(".")[0] for name in missing}, {name.rpartition(".")[0] for name in left}
    if len(missing) != len(left) or any(len(layer) != 1 for layer in layers):
        return {}
    if mine.keys() != theirs.keys() or not {"weight"} <= mine.keys() <= {"weight", "bias"}:
        return {}
    own_weight, weight = own[mine["weight"]], left[theirs["weight"]]
    if own_weight.dim() != 2 or own_weight.shape[1:] != weight.shape[1:]:
        return {}
    return {mine[end]: theirs[end] for end in mine}
