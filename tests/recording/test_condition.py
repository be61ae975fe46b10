"""What is asked of a call to be recorded."""

from __future__ import annotations

import pytest

from tailrace.errors import SetupError
from tailrace.recording.condition import Condition, Wanted


@pytest.mark.parametrize(
    ("text", "status", "ms", "holds"),
    [
        ("status>=400", 422, 1, True),
        ("status>=400", 200, 1, False),
        (" status = 0 ", 0, 1, True),
        ("status!=200", 200, 1, False),
        ("ms>20.5", 200, 21, True),
        ("ms <= 20", 200, 21, False),
        ("status==503", 503, 1, True),
        ("status<300", 300, 1, False),
    ],
)
def test_condition_is_read_as_it_is_written(text: str, status: int, ms: float, holds: bool) -> None:
    """A status, or the time of the answer, compared with a number."""
    assert Wanted(conditions=[Condition.parse(text)]).takes_answer(status, ms) is holds


@pytest.mark.parametrize("text", ["", "status", "status>=", "code>=400", "status>=4xx", "ms>20ms", "status>=400 or 1"])
def test_condition_that_is_none_is_refused(text: str) -> None:
    """With what may be written."""
    with pytest.raises(SetupError, match="cannot be understood"):
        Condition.parse(text)
