"""The one exception that users see: a single line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DgnError(ValueError):
    """Something the user can mend. Its text is one line; the command line prints it and exits with 2."""


def nearest(name: str, choices: Iterable[str], *, most: int = 3) -> str:
    """``"; did you mean 'a', 'b'?"``, or an empty string where nothing is near ``name``."""
    by_lower: dict[str, str] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), choice)
    low = name.lower()
    near = difflib.get_close_matches(low, by_lower, n=most, cutoff=0.6)
    near += [choice for choice in by_lower if low and low in choice and choice not in near]
    near = near[:most]
    if not near:
        return ""
    return "; did you mean " + ", ".join(repr(by_lower[choice]) for choice in near) + "?"
