"""The Python that the pages show runs, and the tour's notebook with it."""

from __future__ import annotations

import ast
import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ALONE

import dgn

ROOT = Path(__file__).resolve().parents[2]
TOUR = ROOT / "docs" / "tour.ipynb"


def kinds(cells: list[Any]) -> list[list[str]]:
    """The kinds of each code cell's outputs: of pictures whether there is one, not how it is packed."""
    found = []
    for cell in cells:
        if cell["cell_type"] == "code":
            shown = [output for output in cell["outputs"] if output.get("name") != "stderr"]
            outputs = [sorted(output.get("data", [output["output_type"]])) for output in shown]
            found.append([re.sub("image/.*", "image", kind) for kinds in outputs for kind in kinds])
    return [sorted(set(kinds)) for kinds in found]


@pytest.mark.needs("nbclient", "ipykernel")
@ALONE
def test_the_tour_runs_and_shows_what_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    committed = nbformat.read(TOUR, 4)  # type: ignore[no-untyped-call]
    assert TOUR.stat().st_size < 400_000
    again = nbformat.from_dict({**committed, "cells": [{**cell} for cell in committed.cells]})  # type: ignore[no-untyped-call]
    nbclient.NotebookClient(again, timeout=900, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    assert kinds(again.cells) == kinds(committed.cells)
    assert sum("text/html" in kind for kind in kinds(again.cells)) >= 4


def test_what_the_pages_call_is_there() -> None:
    """Each function of ``dgn`` that a page calls exists and takes these arguments."""
    calls = 0
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            for node in ast.walk(ast.parse(block)):
                if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("dgn."):
                    continue
                calls += 1
                signature = inspect.signature(getattr(dgn, ast.unparse(node.func).removeprefix("dgn.")))
                signature.bind(*node.args, **{str(word.arg): word.value for word in node.keywords})
    assert calls > 10


@pytest.mark.slow
def test_functions_of_ones_own_run() -> None:
    page = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, names)
    assert len(names["result"].images) == 2 and names["found"].activation > 0
    assert tuple(names["coarse"].codes.shape) == (1, 3, 16, 16)
