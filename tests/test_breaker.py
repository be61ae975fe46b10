"""The circuit breaker, on a clock moved by hand."""

from __future__ import annotations

import pytest

from tailrace.breaker import FAILURES_MIN, OPEN_NS, PROBES_MAX, SLOT_NS, SLOTS, Breaker
from tailrace.deadline import NS_PER_MS
from tailrace.testing import ManualClock

OPEN_MS = OPEN_NS / NS_PER_MS
WINDOW_MS = SLOTS * SLOT_NS / NS_PER_MS


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock."""
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    """Return a breaker that is open for `OPEN_NS`: half of the jitter's range."""
    return Breaker(clock, draw=lambda: 0.5)


def note(breaker: Breaker, clock: ManualClock, *, failures: int = 0, answers: int = 0) -> None:
    """Note calls that end now."""
    for _ in range(answers):
        breaker.note(clock.now_ns(), is_failure=False)
    for _ in range(failures):
        breaker.note(clock.now_ns(), is_failure=True)


def opened(breaker: Breaker, clock: ManualClock) -> None:
    """Open a breaker."""
    note(breaker, clock, failures=FAILURES_MIN)
    assert breaker.is_open


def allowed(breaker: Breaker, batches: int = 10) -> int:
    """Return how many of some batches may ask the store."""
    return sum(breaker.allows() for _ in range(batches))


def test_breaker_opens_when_half_of_the_window_has_failed(breaker: Breaker, clock: ManualClock) -> None:
    """What counts is the share of the window, in whatever order: failures need not follow each other."""
    note(breaker, clock, answers=10)
    for _ in range(9):
        note(breaker, clock, failures=1)
        clock.advance(1)
        assert not breaker.is_open
    note(breaker, clock, failures=1)
    assert breaker.is_open
    assert breaker.openings == 1
    assert allowed(breaker) == 0


def test_breaker_stays_closed_while_less_than_half_fails(breaker: Breaker, clock: ManualClock) -> None:
    """A store of which four calls in ten fail is asked on, for however long, three failures in a row included."""
    for _ in range(100):
        note(breaker, clock, answers=5)
        note(breaker, clock, failures=3)
        clock.advance(20)
        assert not breaker.is_open


def test_breaker_needs_some_failures_in_its_window(breaker: Breaker, clock: ManualClock) -> None:
    """Two failures in a second say nothing; those of the second before are forgotten."""
    for _ in range(5):
        note(breaker, clock, failures=FAILURES_MIN - 1)
        clock.advance(WINDOW_MS)
    assert not breaker.is_open
    note(breaker, clock, failures=FAILURES_MIN)
    assert breaker.is_open


@pytest.mark.parametrize("answers_a_slot", [1, 10, 1_000])
def test_breaker_opens_within_a_window_of_a_fault(breaker: Breaker, clock: ManualClock, answers_a_slot: int) -> None:
    """However many calls went well before a store stops, some timeouts a second open it within that window."""
    for _ in range(3 * SLOTS):
        note(breaker, clock, answers=answers_a_slot)
        clock.advance(100)
    slots = 0
    while not breaker.is_open:
        note(breaker, clock, failures=6)
        clock.advance(100)
        slots += 1
    assert slots <= SLOTS


def test_breaker_half_open_lets_three_probes_through(breaker: Breaker, clock: ManualClock) -> None:
    """After its open time, and no sooner, it allows three batches to ask, and no more until one is answered."""
    opened(breaker, clock)
    clock.advance(OPEN_MS - 1)
    assert allowed(breaker) == 0
    assert not breaker.is_half_open
    clock.advance(1)
    assert allowed(breaker) == PROBES_MAX
    assert breaker.is_half_open


def test_breaker_closes_on_the_first_answer(breaker: Breaker, clock: ManualClock) -> None:
    """A probe that is answered closes it for everybody, and what failed before is forgotten."""
    opened(breaker, clock)
    clock.advance(OPEN_MS)
    assert breaker.allows()
    note(breaker, clock, answers=1)
    assert not breaker.is_open
    assert allowed(breaker) == 10
    note(breaker, clock, failures=FAILURES_MIN - 1)
    assert not breaker.is_open


def test_breaker_opens_again_when_a_probe_fails(breaker: Breaker, clock: ManualClock) -> None:
    """A failed probe takes back the others, and begins another open time; that is no second opening."""
    opened(breaker, clock)
    clock.advance(OPEN_MS)
    assert breaker.allows()
    note(breaker, clock, failures=1)
    assert allowed(breaker) == 0
    clock.advance(OPEN_MS - 1)
    assert allowed(breaker) == 0
    clock.advance(1)
    assert allowed(breaker) == PROBES_MAX
    assert breaker.openings == 1


def test_breaker_is_never_stuck_half_open(breaker: Breaker, clock: ManualClock) -> None:
    """Probes that are never answered, since their batches went away, are followed by others."""
    opened(breaker, clock)
    for _ in range(20):
        clock.advance(OPEN_MS)
        assert allowed(breaker) == PROBES_MAX


def test_breaker_waits_for_its_probes_as_long_as_they_may_take(clock: ManualClock) -> None:
    """Where an answer may take longer than the breaker is open, there are no more probes before that time is over."""
    breaker = Breaker(clock, lost_ns=3 * OPEN_NS, draw=lambda: 0.5)
    opened(breaker, clock)
    clock.advance(OPEN_MS)
    assert allowed(breaker) == PROBES_MAX
    clock.advance(3 * OPEN_MS - 1)
    assert allowed(breaker) == 0
    clock.advance(1)
    assert allowed(breaker) == PROBES_MAX


def test_breaker_takes_no_earlier_call_for_a_probe(breaker: Breaker, clock: ManualClock) -> None:
    """What was asked before it opened neither closes it nor puts off its probes."""
    opened(breaker, clock)
    clock.advance(OPEN_MS - 1)
    note(breaker, clock, answers=1)
    assert breaker.is_open
    note(breaker, clock, failures=1)
    clock.advance(1)
    assert allowed(breaker) == PROBES_MAX


def test_breaker_open_time_is_jittered(clock: ManualClock) -> None:
    """It is open for half to one and a half of its time, as it is drawn."""
    for draw, open_ms in ((0.0, OPEN_MS / 2), (1.0, OPEN_MS * 1.5)):
        breaker = Breaker(clock, draw=lambda draw=draw: draw)  # type: ignore[misc]
        opened(breaker, clock)
        clock.advance(open_ms - 1)
        assert allowed(breaker) == 0
        clock.advance(1)
        assert allowed(breaker) == PROBES_MAX


def test_breaker_forgets_every_part_of_a_window_that_has_passed(breaker: Breaker, clock: ManualClock) -> None:
    """After a pause nothing of before it counts, however long the pause was, and wherever in the window that stood."""
    for pause_ms in (WINDOW_MS, 1.5 * WINDOW_MS, 10 * WINDOW_MS + 30):
        for _ in range(FAILURES_MIN - 1):
            note(breaker, clock, failures=1)
            clock.advance(110)
        clock.advance(pause_ms)
        note(breaker, clock, failures=FAILURES_MIN - 1)
        assert not breaker.is_open
        clock.advance(2 * WINDOW_MS)
