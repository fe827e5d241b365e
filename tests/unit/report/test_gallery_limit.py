"""What a page leaves out when there are too many images."""

from __future__ import annotations

import pytest

import dgn.report.gallery
from dgn.report.gallery import shorten_runs


def test_whole_units_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dgn.report.gallery, "MOST_IMAGES", 7)
    runs = [{"rows": [{"unit": str(unit), "prior": prior} for unit in range(5)] * 2} for prior in ("a", "b")]
    assert shorten_runs(runs) == 20 - 4
    assert [{row["unit"] for row in run["rows"]} for run in runs] == [{"0"}, {"0"}]
    few = [{"rows": [{"unit": "1"}] * 7}]
    assert shorten_runs(few) == 0 and len(few[0]["rows"]) == 7
