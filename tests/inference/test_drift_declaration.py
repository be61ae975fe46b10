"""The declaration of drift refuses what it could not watch by."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.inference.drift import Drift


def test_defaults_are_an_hour_of_the_day_learned_in_three_days() -> None:
    """Windows of five minutes, a baseline of each hour made of those of three days, three of five for an alarm."""
    declared = Drift()
    assert (declared.slots, declared.windows_to_learn, declared.alarm) == (24, 36, (3, 5))
    assert Drift(season=None).slots == 1


@pytest.mark.parametrize(
    "wrong",
    [{"window": "2h"}, {"window": "500ms"}, {"season": "month"}, {"rows_min": 3}, {"rows_min": 1e6}, {"cycles": 0},
     {"alarm": (6, 5)}, {"alarm": [3, 5]}, {"alarm": (0, 5)}, {"alarm": (3, 1_000)}, {"false_discoveries": 0.0},
     {"false_discoveries": 1}],
    ids=str,
)  # fmt: skip
def test_what_is_out_of_range_is_told(wrong: dict[str, Any]) -> None:
    """The message names the argument, and what there is to choose."""
    with pytest.raises(ValueError, match=rf"Drift\({next(iter(wrong))}=.*(choose|write)"):
        Drift(**wrong)
