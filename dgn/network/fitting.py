"""Weights of one network put into another of the same architecture: prefixes, and heads of other sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

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

    Args:
        build: makes the module.
        weights: its state dict, each name behind any prefix.
        name: of the network, for errors.

    Raises:
        DgnError: weights that don't fit, with the names of what is too little, too much or misshapen.
    """
    module, path = build(None), str(weights.path)
    found, extra = matched(weights.tensors, module.state_dict(), path)
    reasons = _misfits(module, found, extra)
    count = class_count(module.state_dict(), found, extra)
    if count is not None:
        other = build(count)
        found, extra = matched(weights.tensors, other.state_dict(), path)
        if not _misfits(other, found, extra):
            module, reasons = other, []
    if reasons:
        kind = weights.config.get("architectures") or [weights.config.get("architecture")]
        whose = f"; they are of {kind[0]}" if kind[0] else ""
        raise DgnError(f"the weights {path!r} don't fit {name!r}: {', '.join(reasons)}{whose}")
    module.load_state_dict(found, strict=False)
    return module, count


def _misfits(module: nn.Module, found: Mapping[str, Tensor], extra: Mapping[str, Tensor]) -> list[str]:
    own = module.state_dict()
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    wrong = [key for key in found if own[key].shape != found[key].shape]
    kinds = (("lack", missing), ("hold the unknown", list(extra)), ("misshape", wrong))
    return [f"they {verb} {_some(keys)}" for verb, keys in kinds if keys]


def _some(keys: Sequence[str]) -> str:
    shown = ", ".join(repr(key) for key in keys[:_SHOWN])
    return f"{shown} ({len(keys)} such)"


def matched(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under the module's own names, and those that it has no place for.

    Args:
        tensors: whose names may stand behind prefixes, and have the parts that wrappers put between.
        own: the module's state dict.
        path: of the weights, for errors.
    """
    wrappers = {"_orig_mod"} | ({"module"} if not any("module" in key.split(".") for key in own) else set())
    plain = {".".join(part for part in key.split(".") if part not in wrappers): key for key in tensors}
    prefix = _prefix(plain, own, path)
    leads = [".".join(prefix[:end]) for end in range(len(prefix), -1, -1)]  # a head may stand further out
    names = {key: next((at for lead in leads if (at := f"{lead}.{key}".lstrip(".")) in plain), None) for key in own}
    missing = [key for key, at in names.items() if at is None and not key.endswith("num_batches_tracked")]
    left = {at: tensors[key] for at, key in plain.items() if at not in names.values()}
    for key, at in _lone_head(missing, left, own).items():
        names[key] = at
        missing.remove(key)
        del left[at]
    inside = f"{leads[0]}." if leads[0] else ""
    extra = {at: tensor for at, tensor in left.items() if missing or at.startswith(inside)}  # else it's none of its own
    return {key: tensors[plain[at]] for key, at in names.items() if at is not None}, extra


def _prefix(plain: Mapping[str, str], own: Mapping[str, Tensor], path: str) -> tuple[str, ...]:
    """Behind which most of the module's names stand."""
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
    """A last linear layer under another name (in a sequence of its own, say): all that is missing, all that is left."""
    if not missing or len(missing) != len(left):
        return {}
    ends = [{key.rpartition(".")[2]: key for key in keys} for keys in (missing, left)]
    layers = [{key.rpartition(".")[0] for key in keys} for keys in (missing, left)]
    if set(ends[0]) != set(ends[1]) or not set(ends[0]) <= {"weight", "bias"} or any(len(one) != 1 for one in layers):
        return {}
    mine, theirs = own.get(ends[0].get("weight", "")), left.get(ends[1].get("weight", ""))
    if mine is None or theirs is None or mine.dim() != 2 or mine.shape[1:] != theirs.shape[1:]:
        return {}
    return {ends[0][end]: ends[1][end] for end in ends[0]}


def class_count(own: Mapping[str, Tensor], found: Mapping[str, Tensor], extra: Mapping[str, Tensor]) -> int | None:
    """How many classes weights have that fit but for that; None where they fit, or don't for other reasons."""
    wrong = [(own[key].shape, found[key].shape) for key in found if own[key].shape != found[key].shape]
    rows = {(mine[:1], theirs[:1]) for mine, theirs in wrong}
    if len(rows) == 1 and all(mine[1:] == theirs[1:] and len(mine) for mine, theirs in wrong):
        return int(wrong[0][1][0])
    heads = [tensor for key, tensor in extra.items() if key.endswith("weight") and tensor.dim() == 2]
    if not wrong and len(found) == len(own) and len(heads) == 1:  # the module was built without a head
        return len(heads[0])
    return None
