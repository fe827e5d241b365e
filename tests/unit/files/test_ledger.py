"""The ledger of a folder: what dgn wrote, and what became of it meanwhile."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from dgn.errors import DgnError
from dgn.files.ledger import JOURNAL, Ledger, digest_of, ledger_of
from dgn.files.pages import is_page, seal
from dgn.files.storage import write_atomic, write_chunks
from dgn.runs.run import Run


def test_what_was_written_is_ours_until_it_changes(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        write_atomic(tmp_path / "a" / "x", b"one")
        assert ledger.ours("a/x") and ledger.files == {"a/x": digest_of(tmp_path / "a/x")}
        write_chunks(tmp_path / "a" / "x", [b"t", b"wo"])
        assert ledger.ours("a/x") and (tmp_path / "a/x").read_bytes() == b"two"
        (tmp_path / "a/x").write_bytes(b"TWO")
        assert not ledger.ours("a/x")
        with pytest.raises(DgnError, match="is not what dgn wrote there"):
            write_atomic(tmp_path / "a" / "x", b"three")
        assert (tmp_path / "a/x").read_bytes() == b"TWO"
        (tmp_path / "a/x").write_bytes(b"two")  # as it was, at another time
        assert ledger.ours("a/x")
    write_atomic(tmp_path / "a" / "x", b"no folder is worked in")


def test_a_file_of_somebody_elses_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "b").mkdir()
    with Ledger(tmp_path, {"mine": "0" * 64, "b": "0" * 64, "../out": "0" * 64}) as ledger:
        for name in ("mine", "b"):
            with pytest.raises(DgnError, match="is not what dgn wrote there"):
                write_atomic(tmp_path / name, b"dgn's")
        write_atomic(tmp_path / "c" / "d" / "x", b"")
        write_atomic(tmp_path / "e" / "x", b"")
        (tmp_path / "e" / "mine").write_text("")
        ledger.remove([*ledger.files])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"mine", "b", "e", JOURNAL} and os.listdir(tmp_path / "e") == ["mine"]


def test_names_that_lead_out(tmp_path: Path) -> None:
    """Upwards, from the root, and through a link: neither ours, nor removed, nor written."""
    run, home = tmp_path / "run", tmp_path / "home"
    run.mkdir()
    home.mkdir()
    (home / "x").write_text("x")
    (run / "link").symlink_to(home)
    (run / "file").symlink_to(home / "x")
    names = ["../home/x", str(home / "x"), "link/x", "file"]
    with Ledger(run, {name: digest_of(home / "x") for name in names}) as ledger:
        assert not any(map(ledger.ours, names))
        ledger.remove(names)
        for path in (run / "link" / "y", run / "file"):
            with pytest.raises(DgnError):
                write_atomic(path, b"")
    assert os.listdir(home) == ["x"] and (run / "file").is_symlink()


def test_the_journal_speaks_for_what_the_manifest_does_not_name_yet(tmp_path: Path) -> None:
    """Of a process that is gone: files that took their name are ours, temporary ones go, a torn line says nothing."""
    with Ledger(tmp_path) as ledger:
        write_atomic(tmp_path / "x", b"one")
        ledger.began(tmp_path / ".y.12345678.part")
        (tmp_path / ".y.12345678.part").write_text("cut sh")
    (tmp_path / ".z.12345678.part").write_text("the user's")
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('["z", "0123')
    again = Ledger(tmp_path)
    assert again.ours("x") and "z" not in again.files
    again.tidy()
    assert {path.name for path in tmp_path.iterdir()} == {"x", JOURNAL, ".z.12345678.part"}
    with again:  # a torn line does not swallow the next
        write_atomic(tmp_path / "v", b"")
    assert Ledger(tmp_path).ours("v")


def test_killed_between_the_note_and_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays ours, and so does the new one where it came."""

    class Dead(BaseException):
        pass

    def dead(*_: object) -> None:
        raise Dead

    with Ledger(tmp_path) as ledger:
        write_atomic(tmp_path / "x", b"old")
        files = dict(ledger.files)
        ledger.fold()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dead)
            with pytest.raises(Dead):
                write_atomic(tmp_path / "x", b"new")
        assert ledger.ours("x")  # in the same process, which goes on to write the manifest
    assert Ledger(tmp_path, files).ours("x")
    (tmp_path / "x").write_bytes(b"new")
    assert Ledger(tmp_path, files).ours("x")
    (tmp_path / "x").write_bytes(b"mine")
    assert not Ledger(tmp_path, files).ours("x")


def test_a_journal_that_is_not_dgns(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("mine\n")
    with pytest.raises(DgnError, match="is not what dgn wrote there"):
        Ledger(tmp_path)


def test_the_manifest_takes_the_journals_place(tmp_path: Path) -> None:
    """Also while another thread writes: whatever is noted between is in one of the two."""
    run = Run(tmp_path / "run", ["x*"])
    with run.ledger:
        run.write_manifest({"verb": "v", "status": "running", "started": "now"})
        threads = [
            threading.Thread(target=lambda n=n: [run.write_text(f"x{n}-{i}", str(i)) for i in range(20)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for _ in range(10):
            run.write_manifest({"verb": "v", "status": "running", "started": "now"})
        for thread in threads:
            thread.join()
        again = Run(tmp_path / "run", ["x*"])
        again.take_up("v")
        assert len(again.ledger.files) == 81
        again.check_way()
        run.write_manifest({"verb": "v", "status": "done", "started": "now"})
    assert not (tmp_path / "run" / JOURNAL).exists()
    facts = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert len(facts["files"]) == 80 and facts["writes"] == ["x*"]


def test_the_innermost_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger(Path("a")) as outer, Ledger(Path("a/b")) as inner:
        assert ledger_of(Path("a/b/c")) is inner and ledger_of(tmp_path / "a" / "x") is outer
        assert ledger_of(Path("ab")) is None and ledger_of(Path("a/../ab")) is None
        with outer:  # again
            pass
        assert ledger_of(Path("a/x")) is outer
    assert ledger_of(Path("a/x")) is None


def test_a_page_carries_its_own_digest(tmp_path: Path) -> None:
    text = seal('<head><meta name="generator" content="dgn" data-sha256="' + "0" * 64 + '"></head>é')
    page = tmp_path / "page.html"
    page.write_text(text, encoding="utf-8")
    assert is_page(page) and "0" * 64 not in text
    for changed in (text + " ", text.replace("é", "e"), text.replace(text[60:70], "0" * 10), ""):
        page.write_text(changed, encoding="utf-8")
        assert not is_page(page)
    page.unlink()
    page.mkdir()
    assert not is_page(page)
