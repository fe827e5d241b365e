"""The one exception that users see: a single line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path


class DgnError(ValueError):
    """Something the user can mend. Its text is one line; the command line prints it and exits with 2."""


def nearest(name: str, choices: Iterable[str], *, most: int = 3) -> str:
    """``"; did you mean 'a', 'b'?"``, or an empty string where nothing is near ``name``."""
    by_lower: dict[str, str] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), choice)
    low = name.lower()
    near = difflib.get_close_matches(low, by_lower, n=most + 1, cutoff=0.6)
    near += [choice for choice in by_lower if low and low in choice and choice not in near]
    near = [choice for choice in near if by_lower[choice] != name][:most]  # what was given is no hint
    if not near:
        return ""
    return "; did you mean " + ", ".join(repr(by_lower[choice]) for choice in near) + "?"


def one_of(what: str, name: str, choices: Collection[str]) -> str:
    """The name.

    Raises:
        DgnError: it is none of the choices; with the nearest ones, or all.
    """
    if name not in choices:
        raise DgnError(f"no {what} {name!r}{nearest(str(name), choices) or '; expected one of ' + ', '.join(choices)}")
    return name


def first_line(error: BaseException) -> str:
    """The first line of an error's text; the name of its kind where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def of_machine(error: OSError) -> str | None:
    """One line on what the file system refused: a permission, a folder where a file belongs, a full disk, a name that
    is too long; None of an error that says neither the file nor why, which is no user's."""
    if error.errno is None or error.filename is None or isinstance(error.filename, int):
        return None
    return f"can't use {os.fsdecode(error.filename)!r}: {error.strerror}"


def unexpected(error: BaseException) -> str:
    """One line on an error that is dgn's own fault: what, and where.

    Raises:
        BaseException: the error itself, with its traceback, where the environment has ``DGN_TRACEBACK``.
    """
    if os.environ.get("DGN_TRACEBACK"):
        raise error
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "dgn" in Path(frame.filename).parts]
    where = f" in {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return (
        f"unexpected {type(error).__name__}{where}: {first_line(error)}; please report this "
        "(DGN_TRACEBACK=1 shows the traceback)"
    )
