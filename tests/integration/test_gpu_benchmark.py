"""The GPU's benchmark, rehearsed on a CPU: every part measures, and one that is cut short loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(folder: Path, *words: str) -> list[dict[str, Any]]:
    call = [sys.executable, str(SCRIPT), *words, "--device", "cpu", "--tiny", "--results", str(folder)]
    subprocess.run(call, check=True, capture_output=True, timeout=900, cwd=SCRIPT.parents[1])
    rows: list[dict[str, Any]] = json.loads((folder / "gpu.json").read_text())["rows"]
    return rows


@pytest.mark.slow
def test_every_part_measures_by_the_clock(tmp_path: Path) -> None:
    rows = run(tmp_path, "--minutes", "12")
    parts = list(dict.fromkeys(row["part"] for row in rows))
    by_part = {part: [row for row in rows if row["part"] == part] for part in parts}
    assert parts == ["pass", "kernels", "busy", "thousand", "precision", "training"]
    assert not [row for row in rows if "ended" in row]
    rates, *passes = by_part["pass"]
    assert {row["way"] for row in passes} == {"PyTorch", "dgn", "lucent, float32", "dgn, compiled", "compiled"}
    for row in passes:
        assert row["limit_ms"] == pytest.approx(
            1e3 * max(row["gflops"] * 1e9 / rates["matrix_rate"], row["gbytes"] * 1e9 / rates["memory_rate"]), rel=1e-2
        )
        assert row["ms"] > 0 or "No module named" in row["error"]
    assert {row["images"] for row in by_part["thousand"]} == {2}
    assert {row["kind"] for row in by_part["training"]} == {"decoder", "flow"}
    table = (tmp_path / "table.md").read_text()
    assert all(f"## {part}\n" in table for part in by_part) and "| dgn, compiled |" in table

    kept = [row for row in rows if row["part"] != "busy"]
    again = run(tmp_path, "busy", "--minutes", "0.02")  # less than Python takes to start
    assert [row for row in again if row["part"] != "busy"] == kept
    assert [row["ended"] for row in again if row["part"] == "busy"] == ["stopped after 1 s"]
