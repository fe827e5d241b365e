"""Many units at once, and shards of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgn.errors import DgnError
from dgn.network.network import Network
from dgn.units.selection import select_units, take_shard


def names(specs: object, network: Network) -> list[str]:
    return [unit.name for unit in select_units(specs, network)]


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ("all", ["ant", "crane (1)", "bee", "crane (3)", "sea urchin"]),
        ("2-4", ["bee", "crane (3)", "sea urchin"]),
        ("late:all", [f"late:{index}" for index in range(12)]),
        ("block.conv:5-7", ["block.conv:5", "block.conv:6", "block.conv:7"]),
        ("*an*", ["ant", "crane (1)", "crane (3)"]),
        ("SEA_*", ["sea urchin"]),
        ("b?e", ["bee"]),
        (["bee", "*e*", 0, "2*ant"], ["bee", "crane (1)", "crane (3)", "sea urchin", "ant", "2*ant"]),
        ("late:*", ["late:*"]),
        ("0.5*ant + 2*bee", ["0.5*ant + 2*bee"]),
    ],
)
def test_selection(specs: object, expected: list[str], network: Network) -> None:
    assert names(specs, network) == expected


def test_file(network: Network, tmp_path: Path) -> None:
    inner = tmp_path / "inner.txt"
    inner.write_text("late:0-1\n")
    file = tmp_path / "units.txt"
    file.write_text(f"# insects\nant   # the first\n\nbee\n0.5*ant + 0.5*bee\n@{inner}\n")
    assert names(f"@{file}", network) == ["ant", "bee", "0.5*ant + 0.5*bee", "late:0", "late:1"]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ("*q*", "no class of network 'small' matches '*q*'"),
        ("late:8-12", "0 to 11"),
        ("3-1", "the range 3-1"),
        ("lte:all", "did you mean 'late'"),
        ("@nowhere.txt", "no readable text file"),
    ],
)
def test_nothing_selected(specs: object, message: str, network: Network) -> None:
    with pytest.raises(DgnError) as caught:
        select_units(specs, network)
    assert message in str(caught.value)


def test_shards_are_a_partition(network: Network) -> None:
    units = select_units("late:all", network)
    shards = [take_shard(units, f"{index}/5") for index in range(1, 6)]
    assert sorted(unit.name for shard in shards for unit in shard) == sorted(unit.name for unit in units)
    assert shards[0] == [units[0], units[5], units[10]] and take_shard(units, None) == units
    for wrong in ("0/5", "6/5", "1", "a/b", "1/0"):
        with pytest.raises(DgnError, match="expected i/n"):
            take_shard(units, wrong)
    with pytest.raises(DgnError, match="is empty"):
        take_shard(units[:2], "3/3")
