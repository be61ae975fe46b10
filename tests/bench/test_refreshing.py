"""What a refresh adds to the p99 is told of windows in which it was at work, and of the others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from part import Session
from refreshing import Window, is_resting, summarize, take_turns
from tailrace.loadtest.record import ShotRecord, make_record

MS = 1_000_000
BUSY = "print('on', flush=True)\nwhile True: pass"


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[str]]:
    """Yield a process that always computes."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_process_runs_in_every_other_window(busy: subprocess.Popen[str]) -> None:
    """In a window that is off it takes no CPU, in one that is on it does; at the end it runs."""
    windows = take_turns(busy.pid, 2, 0.15)
    assert [window.is_on for window in windows] == [False, True, True, False]
    assert all((window.cpu_s > 0.02) == window.is_on for window in windows)
    assert not is_resting(busy.pid)


def record_of(slow: set[int]) -> ShotRecord:
    """Return forty windows of 100 ms with a shot each ms, of 1 ms; in the slow ones a tenth takes 3 ms."""
    record = make_record(np.arange(4_000, dtype=np.int64) * MS)
    record.statuses[:] = 200
    record.answered_ns[:] = record.intended_ns + MS
    for window in slow:
        record.answered_ns[window * 100 + 60 : window * 100 + 70] += 2 * MS
    return record


def windows_of(idle: int = 0) -> list[Window]:
    """Return twenty pairs whose second window is on. idle: how many of those took no CPU."""
    return [
        Window(
            place % 2 == 1, place * 100 * MS, (place + 1) * 100 * MS, 0.1 if place % 2 and place >= 2 * idle else 0.0
        )
        for place in range(40)
    ]


def test_what_a_refresh_adds_is_the_bound_of_the_pairs() -> None:
    """Where five of twenty windows with it are slower, the median is not, and its upper bound is of the fifteenth."""
    session = Session()
    told = summarize(session, record_of(set(range(1, 11, 2))), windows_of())
    assert told["refresh_p99_change_ms"] == 0
    assert told["refresh_p99_without_ms"] == 1
    told = summarize(session, record_of(set(range(1, 13, 2))), windows_of())
    assert told["refresh_p99_change_ms"] == 2
    assert told["refresh_p99_change_median_ms"] == 0
    assert told["refresh_p99_change_bounds_ms"] == [0, 2]
    assert not session.notes


def test_too_few_windows_with_a_refresh_are_no_figure() -> None:
    """A refresher that got no core adds nothing to any latency: that is noted, and no figure is told."""
    session = Session()
    assert summarize(session, record_of(set()), windows_of(idle=1)) == {}
    assert "in 19 of 20 pairs only" in session.notes[0]


def test_refused_requests_are_noted() -> None:
    """What was not answered well is no latency, and is said."""
    session, record = Session(), record_of(set())
    record.statuses[:3] = 503
    assert summarize(session, record, windows_of())["refresh_p99_change_ms"] == 0
    assert "3 requests" in session.notes[0]
