"""The circuit breaker, on a clock moved by hand."""

from __future__ import annotations

from tailrace.features.breaker import Breaker
from tailrace.testing import ManualClock


def test_breaker_opens_after_failures_in_a_row() -> None:
    """Three failures in a row open it; a success in between starts the count anew."""
    breaker = Breaker(ManualClock())
    for note in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        note()
    assert breaker.allows()
    breaker.failed()
    assert breaker.is_open
    assert not breaker.allows()


def test_breaker_open_allows_one_probe_each_interval() -> None:
    """While open one batch in 100 ms asks the store, and a failed probe keeps it open."""
    clock = ManualClock()
    breaker = Breaker(clock)
    for _ in range(3):
        breaker.failed()
    assert [breaker.allows() for _ in range(3)] == [False] * 3
    clock.advance(100)
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.failed()
    clock.advance(99)
    assert not breaker.allows()
    clock.advance(1)
    assert breaker.allows()


def test_breaker_closes_on_the_first_answer() -> None:
    """A probe that is answered closes it for everybody."""
    clock = ManualClock()
    breaker = Breaker(clock, failures_max=1, probe_ns=1)
    breaker.failed()
    clock.advance(1)
    assert breaker.allows()
    breaker.succeeded()
    assert not breaker.is_open
    assert [breaker.allows() for _ in range(3)] == [True] * 3


def test_breaker_probe_without_an_answer_blocks_no_later_probe() -> None:
    """A probe whose batch went away is followed by the next."""
    clock = ManualClock()
    breaker = Breaker(clock, failures_max=1)
    breaker.failed()
    for _ in range(3):
        clock.advance(100)
        assert breaker.allows()
        assert not breaker.allows()
