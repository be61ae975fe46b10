"""What may be said a thousand times a second is said once in a while."""

from __future__ import annotations

import pytest
from structlog import get_logger
from structlog.testing import capture_logs

from tailrace.monitor.seldom import Seldom


def test_event_is_logged_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event has its own time; what is logged says what was so then."""
    now_s = 5.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    with capture_logs() as logged:
        seldom = Seldom(get_logger(), 60)
        assert [seldom.warn("lost", rows=rows) for rows in (1, 2)] == [True, False]
        assert seldom.warn("late")
        now_s = 64.9
        assert not seldom.warn("lost", rows=3)
        now_s = 65.0
        assert seldom.warn("lost", rows=4)
    assert [(each["event"], each.get("rows")) for each in logged] == [("lost", 1), ("late", None), ("lost", 4)]
