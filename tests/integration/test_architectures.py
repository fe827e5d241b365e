"""Units, positions, examples, facets and ablation of 28 architectures give what a hand-written hook gives."""

from __future__ import annotations

import pytest

from tests.architectures import ARCHITECTURES, TABLE_ALONE, compare


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in TABLE_ALONE])
def test_equal_to_a_hook_by_hand(name: str) -> None:
    assert len(compare(name)) == len(ARCHITECTURES[name][1])
