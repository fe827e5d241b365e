"""The GPU's benchmark, rehearsed on a CPU: every part measures, and one that is cut short loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def naming(folder: Path) -> list[str]:
    """Command lines of running processes that name the folder (Linux)."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(folder) in line]


def run(folder: Path, *words: str) -> list[dict[str, Any]]:
    call = [sys.executable, str(SCRIPT), *words, "--device", "cpu", "--tiny", "--results", str(folder)]
    variables = {**os.environ, "TMPDIR": str(folder)}
    subprocess.run(call, check=True, capture_output=True, timeout=2400, cwd=SCRIPT.parents[1], env=variables)
    rows: list[dict[str, Any]] = json.loads((folder / "gpu.json").read_text())["rows"]
    return rows


@pytest.mark.slow
def test_every_part_measures_by_the_clock(tmp_path: Path) -> None:
    rows = run(tmp_path, "--minutes", "40")
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
        assert row.get("ms", 0) > 0 or (row["way"].startswith("lucent") and "No module named" in row["error"])
    assert {row["images"] for row in by_part["thousand"]} == {2}
    assert {row["kind"] for row in by_part["training"]} == {"decoder", "flow"}
    table = (tmp_path / "table.md").read_text()
    assert all(f"## {part}\n" in table for part in by_part) and "| dgn, compiled |" in table

    assert not naming(tmp_path), "nothing that a part has started is left"
    kept = [row for row in rows if row["part"] != "busy"]
    again = run(tmp_path, "busy", "--minutes", "0.02")  # less than Python takes to start
    assert [row for row in again if row["part"] != "busy"] == kept
    assert [row["ended"] for row in again if row["part"] == "busy"] == ["stopped after 1 s"]
    late = [row for row in run(tmp_path, "thousand", "--minutes", "0.1") if row["part"] == "thousand"][-1]
    assert late["ended"] == "stopped after 6 s" and not naming(tmp_path)
