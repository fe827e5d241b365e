"""What a page leaves out when there are too many images."""

from __future__ import annotations

from pathlib import Path

from dgn.report.gallery import first_units
from dgn.runs.past import PastRun


def test_whole_units_are_left_out() -> None:
    rows = [{"unit": str(unit)} for unit in range(5)] * 2
    shown, left_out = first_units([PastRun(Path(name), rows, {}) for name in "ab"], 7)
    assert left_out == 20 - 4 and [{row["unit"] for row in run.rows} for run in shown] == [{"0"}, {"0"}]
    (few,), none = first_units([PastRun(Path("a"), [{"unit": "1"}] * 8, {})], 7)
    assert none == 0 and len(few.rows) == 8
