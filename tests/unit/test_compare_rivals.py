"""The benchmark's other libraries: a line where one is absent, how the network is shown to them, what a part writes."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dgn.network.network import Network

MODULES = ("compare", "outcomes", "features", "rival_images", "rivals", "machine")


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """compare.py where no other library is installed."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    for name in MODULES:
        sys.modules.pop(name, None)
    module = importlib.import_module("compare")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    return module


def test_absent_libraries_are_a_line_each(
    compare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is loaded or climbed for them, and an empty part does no harm to the table."""
    arguments = [
        "compare.py",
        "images",
        "accent",
        "--methods",
        "horama",
        "lucent",
        "faccent",
        "--results",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    compare.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "lucent: not installed: pip install --no-deps torch-lucent==0.1.8 kornia==0.4.1 decorator",
        "horama: not installed: pip install --no-deps horama einops",
        "faccent: not installed: pip install --no-deps faccent einops kornia==0.4.1 decorator imageio ipywidgets",
    ]
    assert len(lines) == 5 and (tmp_path / "table.md").is_file()  # accent has no method of lucent's


def test_features_alone_are_none(compare: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.PARTS["features"](argparse.Namespace(methods=None)) == []
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(": not installed: pip install" in line for line in lines)


def test_others_see_what_dgn_sees(compare: ModuleType, network: Network) -> None:
    """Of any size and range, with gradients; the last module is the output."""
    seen = sys.modules["rival_images"].Seen(network, -2.5, 2.5)
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    given = (images * 5 - 2.5).requires_grad_()
    expected = network.module(network.prepare(images))
    assert torch.allclose(seen(given), expected, atol=1e-4)
    seen(given).sum().backward()
    assert given.grad is not None and bool(given.grad.abs().sum() > 0)
    assert not any(weight.requires_grad for weight in seen.parameters())


def test_a_table_has_the_columns_of_all_rows(compare: ModuleType, tmp_path: Path) -> None:
    note = compare.functools.partial(compare.keep, tmp_path / "images.json", {"cores": 2})
    note([{"method": "best real image", "top1": 0.5}])
    note([{"method": "dgn", "seconds": 2.0, "kid interval": [0.25, 0.75]}])
    compare.write_table(tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "| method | top1 | seconds | kid interval |" in table and "| dgn |  | 2 | 0.25, 0.75 |" in table
