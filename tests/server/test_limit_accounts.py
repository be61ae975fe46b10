"""The arithmetic of token buckets, on a clock moved by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.request.limit import Limit
from tailrace.server.limiting.bucket import Account
from tailrace.testing import ManualClock

LIMIT = Limit(rate="10/s", burst=5)
"""One more each 100 ms."""


def take(bucket: Account, most: int = 1_000) -> int:
    """Take tokens as requests do until there are none; return how many there were."""
    for taken in range(most):
        if not bucket.take():
            return taken
    return most


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    """Full at first; then one at a time, as time passes."""
    clock = ManualClock()
    bucket = Account(LIMIT, clock)
    assert take(bucket) == 5
    clock.advance(99)
    assert take(bucket) == 0
    clock.advance(1)
    assert take(bucket) == 1
    clock.advance(250)
    assert take(bucket) == 2


def test_stall_or_jump_gives_no_more_than_a_full_bucket() -> None:
    """However long nobody looked, the burst is the burst."""
    clock = ManualClock()
    bucket = Account(LIMIT, clock)
    take(bucket)
    for hours in (1, 24 * 365):
        clock.advance(hours * 3_600_000)
        assert take(bucket) == 5


def test_what_is_left_is_told() -> None:
    """Tokens now, and when there is one more; what is owed is waited for."""
    clock = ManualClock()
    bucket = Account(LIMIT, clock)
    assert bucket.left() == (5, 100_000_000)
    take(bucket, 5)
    clock.advance(30)
    assert bucket.left() == (0, 70_000_000)
    bucket.charge(3)
    assert bucket.left() == (0, 370_000_000)
    clock.advance(370)
    assert take(bucket) == 1


def test_token_that_is_given_back_is_there_again() -> None:
    """What another limit has refused takes nothing of this one; a bucket is never more than full."""
    clock = ManualClock()
    bucket = Account(LIMIT, clock)
    take(bucket, 4)
    bucket.charge(-1)
    assert take(bucket) == 2
    clock.advance(10_000)
    assert bucket.take()
    bucket.charge(-1)
    assert take(bucket) == 5


@given(st.lists(st.tuples(st.floats(0, 3_000), st.integers(1, 40)), min_size=1, max_size=60))
def test_never_more_than_burst_and_rate(visits: list[tuple[float, int]]) -> None:
    """Over any time, what is taken is at most the burst, and what the rate allows of that time."""
    clock = ManualClock()
    bucket, taken = Account(LIMIT, clock), 0
    for pause_ms, asked in visits:
        clock.advance(pause_ms)
        taken += take(bucket, asked)
        assert taken <= 5 + clock.now_ns() // LIMIT.interval_ns
