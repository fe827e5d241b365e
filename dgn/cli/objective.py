"""What a job is worth, in one number: returned to sweepers that optimise, and logged as its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from dgn.errors import DgnError, nearest
from dgn.units.unit import Unit

OBJECTIVES = ("activation", "log_probability", "probability")


def check_objective(name: str, units: Sequence[Unit]) -> None:
    """Raise :class:`DgnError` for an unknown objective, or a class objective without a class unit."""
    if name not in OBJECTIVES:
        raise DgnError(f"no objective {name!r}{nearest(name, OBJECTIVES) or '; expected ' + ', '.join(OBJECTIVES)}")
    if name != "activation" and all(unit.class_index is None for unit in units):
        raise DgnError(f"objective={name} needs units that are classes of the output; use objective=activation")


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the table's rows: those of the first prior by name (``activation``), of each as ``PRIOR/activation``.

    Log-probability and probability are of the rows that climb a class; left out where there are none.
    """
    summary: dict[str, float] = {}
    for prior in dict.fromkeys(str(row["prior"]) for row in rows):
        for name in OBJECTIVES:
            values = [float(row[name]) for row in rows if row["prior"] == prior and row[name] not in ("", None)]
            if values:
                summary[f"{prior}/{name}"] = fmean(values)
                summary.setdefault(name, fmean(values))
    return summary
