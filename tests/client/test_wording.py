"""How a call is written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.client.wording import LEFT_NS_MIN, told_ns
from tailrace.deadline import NS_PER_MS, NS_PER_S


@given(st.integers(LEFT_NS_MIN, 3_600 * NS_PER_S))
def test_server_is_told_a_little_less_than_is_left(left_ns: int) -> None:
    """Never more, so that it computes nothing that nobody waits for; at most a 32nd less."""
    assert left_ns * 31 / 32 <= told_ns(left_ns) <= left_ns


def test_calls_of_one_budget_are_told_the_same() -> None:
    """What a client takes before it sends differs from call to call; the server knows the head again all the same."""
    assert len({told_ns(50 * NS_PER_MS - took_ns) for took_ns in range(1_000, 500_000, 1_000)}) == 1


def test_no_time_is_told_as_the_least() -> None:
    """A budget of nothing is no budget that a server takes."""
    assert told_ns(0) == told_ns(-5) == LEFT_NS_MIN
