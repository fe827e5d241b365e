"""Which files of a run folder dgn wrote: the only ones that it ever replaces or removes.

A run's manifest names them with their SHA-256. What is written between two writings of the manifest is noted in a
journal beside it *before* it takes its name, so that a process which is killed at any moment leaves no file of dgn's
that nothing vouches for. Everything else is somebody else's and stays: a file that is not named or whose bytes have
changed, a link, and what lies behind a link out of the folder. What would replace it is refused in one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from dgn.errors import DgnError
from dgn.files.pages import is_page

JOURNAL = ".dgn-files"
_HEADER = b'["dgn", "files written since the manifest"]\n'


class Ledger:
    """The files of one folder. While it is entered, it records every write of this process into the folder.

    Args:
        folder: of the run; need not exist.
        files: SHA-256 of each file by its name in the folder, as the manifest has it.

    Raises:
        DgnError: a file of somebody else's has the journal's name.
    """

    def __init__(self, folder: Path, files: Mapping[str, str] | None = None) -> None:
        self.folder, self.place = folder, os.path.join(os.path.abspath(folder), "")
        self.files = dict(files or {})
        self._before: dict[str, str] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._temporary: set[str] = set()
        self.lock = threading.RLock()
        """Held while the manifest is written, so that nothing is noted between its writing and :meth:`fold`."""
        self._journal, self._entered = -1, 0
        self._read_journal()

    def __enter__(self) -> Ledger:
        if not self._entered:
            _OPEN.append(self)
        self._entered += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._entered -= 1
        if not self._entered:
            _OPEN.remove(self)
            self._close()

    def ours(self, name: str) -> bool:
        """Whether a name stands for a file in the folder that dgn wrote, as it wrote it."""
        path = self.folder / name
        try:
            facts = path.lstat()
        except OSError:
            return False
        if not stat.S_ISREG(facts.st_mode) or self._behind_a_link(name):
            return False
        if self._seen.get(name) == _stamp(facts):
            return True
        known = {self.files.get(name), self._before.get(name)} - {None}
        if not (known and digest_of(path) in known) and not is_page(path):
            return False
        self._seen[name] = _stamp(facts)
        return True

    def admit(self, path: Path) -> None:
        """Check that a file may be written.

        Raises:
            DgnError: something that dgn did not write has its place, or a link leads out of the folder.
        """
        name = self.name(path)
        if self._behind_a_link(name):
            raise DgnError(f"can't write {str(path)!r}: a link there leads elsewhere; give another out=")
        if os.path.lexists(path) and not self.ours(name):
            raise DgnError(foreign(path))

    def began(self, temporary: Path) -> None:
        """Note a temporary file that is about to be made."""
        with self.lock:
            self._note([self.name(temporary), None])
            self._temporary.add(self.name(temporary))

    def finished(self, temporary: Path, path: Path, digest: str | None) -> None:
        """Note what the temporary file holds and rename it to ``path``; without a digest, note that it is gone."""
        with self.lock:
            if digest is not None:
                name = self.name(path)
                self._note([name, digest])
                if name in self.files:  # which it still is, should what follows be interrupted
                    self._before[name] = self.files[name]
                self.files[name] = digest
                os.replace(temporary, path)
                self._seen[name] = _stamp(path.lstat())
            self._temporary.discard(self.name(temporary))

    def vouch(self, name: str) -> None:
        """Count a file as dgn's although it is not noted: the manifest that was just read."""
        if not self._behind_a_link(name) and not (self.folder / name).is_symlink():
            with suppress(OSError):
                self.files[name] = digest_of(self.folder / name)

    def remove(self, names: Iterable[str]) -> None:
        """Remove those files that are dgn's, and the folders that held them where nothing else is in them."""
        around: set[Path] = set()
        for name in list(names):
            path = self.folder / name
            if self.ours(name):
                try:
                    path.unlink()
                except OSError as error:
                    raise DgnError(f"can't remove {str(path)!r}: {error.strerror}") from error
            if not self._behind_a_link(name):
                around |= set(Path(name).parents)
            with self.lock:
                self.files.pop(name, None)
        for place in sorted(around - {Path(".")}, key=lambda path: -len(path.parts)):
            with suppress(OSError):  # somebody else's file is in it
                (self.folder / place).rmdir()

    def tidy(self) -> None:
        """Remove temporary files of a process that was killed."""
        for name in sorted(self._temporary):
            path = self.folder / name
            if not self._behind_a_link(name) and path.is_file() and not path.is_symlink():
                with suppress(OSError):
                    path.unlink()
        self._temporary.clear()

    def fold(self) -> None:
        """Forget the journal: the manifest has just been written with everything that it says."""
        with self.lock:
            self._close()
            (self.folder / JOURNAL).unlink(missing_ok=True)
            for name in self._temporary:  # being written by another thread
                self._note([name, None])

    def leftovers(self) -> set[str]:
        """Names at the top of the folder that a process leaves behind when it is killed before it writes a manifest."""
        return {JOURNAL, *self._temporary} if (self.folder / JOURNAL).is_file() else set()

    def name(self, path: Path) -> str:
        """A path as the manifest has it."""
        return Path(os.path.relpath(os.path.abspath(path), self.place)).as_posix()

    def _behind_a_link(self, name: str) -> bool:
        """Whether a name leads out of the folder, upwards or through a link."""
        parts = Path(name).parts
        if ".." in parts or Path(name).is_absolute():
            return True
        return any((self.folder / Path(*parts[:count])).is_symlink() for count in range(1, len(parts)))

    def _note(self, line: list[str | None]) -> None:
        if self._journal < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            self._journal = os.open(self.folder / JOURNAL, flags, 0o666)
            if os.fstat(self._journal).st_size == 0:
                os.write(self._journal, _HEADER)
        text = json.dumps(line).encode() + b"\n"
        if os.write(self._journal, b"\n" + text) != len(text) + 1:  # after a line that was cut short, a new one
            raise OSError(28, "No space left on device")

    def _read_journal(self) -> None:
        path = self.folder / JOURNAL
        if not os.path.lexists(path):
            return
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if not data.startswith(_HEADER) and not (_HEADER.startswith(data) and path.is_file()):
            raise DgnError(foreign(path))
        for line in data.splitlines()[1:]:
            try:
                name, digest = json.loads(line)
            except ValueError:  # empty, or cut short: its file never took its name
                continue
            if digest is None:
                self._temporary.add(str(name))
            elif not self.ours(str(name)):  # else it was killed before the file took its name
                self.files[str(name)] = str(digest)

    def _close(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


_OPEN: list[Ledger] = []
"""Those of the folders that this process works in."""


def ledger_of(path: Path) -> Ledger | None:
    """Of the folders that are being worked in, the ledger of the innermost one around a path."""
    place = os.path.abspath(path)
    around = [ledger for ledger in _OPEN if place.startswith(ledger.place)]
    return max(around, key=lambda ledger: len(ledger.place), default=None)


def foreign(path: Path) -> str:
    """The error about a file in the way."""
    return (
        f"{str(path)!r} is not what dgn wrote there, and dgn never replaces it: move it elsewhere, or give another out="
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ino
