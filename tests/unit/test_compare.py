"""The benchmark's bookkeeping: what it merges, what it divides by, and that dgn's own part of it climbs."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dgn.network.network import Network


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    for name in ("compare", "rivals", "machine"):
        sys.modules.pop(name, None)
    return importlib.import_module("compare")


def test_a_step_is_what_more_steps_cost_more(compare: ModuleType) -> None:
    """Start and end are in a finished image, not in a step."""
    found = compare.per_step({"wall": 3.0, "cpu": 5.0}, {"wall": 7.0, "cpu": 9.0}, steps=4, images=2)
    assert found == {"seconds": 0.5, "cpu_seconds": 0.5, "finished": (3.0 + 511 * 1.0) / 2}


def test_ratios_are_of_the_same_turns(compare: ModuleType) -> None:
    times = {
        "dgn fp32": {"seconds": 0.5, "cpu_seconds": 1.0},
        "dgn bf16": {"seconds": 0.25, "cpu_seconds": 0.5},
        "lucent fp32": {"seconds": 2.0, "cpu_seconds": 3.0},
        "lucent bf16": {"seconds": 1.0, "cpu_seconds": 1.0},
    }
    assert compare.faster(times, "lucent fp32") == (4.0, 3.0) and compare.faster(times, "dgn fp32") == (None, None)
    assert compare.faster(times, "lucent bf16") == (4.0, 2.0)
    assert compare.faster(times, "lucent fp32", "dgn bf16") == (8.0, 6.0)
    assert compare.faster({"lucent fp32": times["lucent fp32"]}, "lucent fp32") == (None, None)


def test_results_merge_and_make_a_table(compare: ModuleType, tmp_path: Path) -> None:
    def row(rival: str, seconds: float) -> dict[str, object]:
        return {
            "network": "n", "place": "early", "layer": "l", "units": 8, "rival": rival, "precision": "fp32",
            "seconds": seconds, "cpu_seconds": 2 * seconds, "finished": 512 * seconds, "images_per_second": 1 / seconds,
            "memory": 10.0, "flops": 1, "matrix_rate": 1.0, "share_of_limit": 0.5, "load": 1.0,
            "dgn_bf16_faster": None if rival == "dgn" else 7.0,
            "dgn_faster": None if rival == "dgn" else 4.0, "dgn_faster_cpu": None if rival == "dgn" else 3.5,
        }  # fmt: skip

    file = tmp_path / "ascent.json"
    compare.keep(file, {"cores": 2}, [row("dgn", 0.5), row("lucent", 1.0)])
    compare.keep(file, {"cores": 2}, [row("dgn", 0.25)])
    rows = json.loads(file.read_text())["rows"]
    assert [(one["rival"], one["seconds"]) for one in rows] == [("dgn", 0.25), ("lucent", 1.0)]
    compare.write_table(tmp_path)
    table = (tmp_path / "table.md").read_text().splitlines()
    assert any("| lucent fp32 | 1.0000 | 1.0 | 4.0 | 3.5 | 7.0 |" in line for line in table)


def test_a_clock_takes_both_times(compare: ModuleType) -> None:
    """Of the wall and of the processor, from before the call to after it."""

    def work() -> None:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    idle, busy = (compare.clock(call, torch.device("cpu")) for call in (lambda: time.sleep(0.05), work))
    assert idle["wall"] >= 0.05 > 2 * idle["cpu"] and busy["cpu"] >= 0.02


def test_limit_and_own_part(compare: ModuleType, network: Network) -> None:
    """Operations forwards and back to the image: about twice the forward pass; a run gives an image a unit."""
    late = compare.step_flops(network, "late")
    stem = 2 * 8 * 8 * 8 * 27
    assert compare.step_flops(network, "stem") == 2 * stem and late > 2 * stem
    images = compare.own(network, "late", [0, 3, 3])(2)
    assert images.shape == (3, 3, 128, 128) and bool(torch.isfinite(images).all())
