from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.deadline import NS_PER_MS
from tailrace.request.admission import QUEUE_SHARE, ROWS_WAITING_MAX, Admission

MS = NS_PER_MS


def admission(row_ns: float = 0.1 * MS, rows_best: int = 64) -> Admission:
    """Return what a warm-up leaves behind: a batch takes 1 ms, at its p95 2, in a budget of 50."""
    return Admission(50 * MS, 2 * MS, 1 * MS, row_ns, rows_best)


def test_admission_with_nothing_waiting_asks_for_the_least_time_of_a_batch() -> None:
    """A call that is alone needs what the quickest batch took, not the p95."""
    assert admission().refuses(1 * MS, 0) == ""
    assert admission().refuses(1 * MS - 1, 0) == "deadline"


def test_admission_behind_a_queue_asks_for_its_rows_and_the_p95() -> None:
    """The rows before it take half of the time there is, at most, and its own batch the p95."""
    needed_ns = int(100 * 0.1 * MS / QUEUE_SHARE) + 2 * MS
    assert admission().refuses(needed_ns, 100) == ""
    assert admission().refuses(needed_ns - 1, 100) == "deadline"


def test_admission_is_bounded_whatever_the_deadline() -> None:
    """With time without end the queue still has a maximum."""
    assert admission().refuses(10**18, ROWS_WAITING_MAX) == "queue_full"


def test_call_of_many_rows_needs_the_time_of_its_own_rows() -> None:
    """A thousand rows at 0.1 ms do not fit 50 ms, with nothing waiting and with something; four hundred do."""
    for waiting in (0, 1):
        assert admission().refuses(50 * MS, waiting, 1_000) == "deadline"
        assert admission().refuses(50 * MS, waiting, 400) == ""


def test_large_calls_are_taken_again_after_a_slow_moment() -> None:
    """A machine that stalls for ten seconds does not shut out calls of many rows for good."""
    learned = admission()
    for at in range(100):
        learned.learn(at, at + 10_000 * MS, 400, 0, waiting=False)
    assert learned.refuses(50 * MS, 1, 400) == "deadline"
    assert learned.refuses(50 * MS, 0, 400) == ""


def test_empty_batches_teach_nothing() -> None:
    """A batch without rows says nothing of what others cost."""
    learned = admission()
    learned.learn(0, 100 * MS, 0, 0, waiting=False)
    assert [learned.refuses(left_ns, 10) for left_ns in (4 * MS, 4 * MS - 1)] == ["", "deadline"]


@given(
    batches=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200), st.booleans()), max_size=200),
    waiting=st.integers(0, 500),
)
def test_row_that_is_surely_taken_is_taken(batches: list[tuple[int, int, bool]], waiting: int) -> None:
    """Below `rows_allowed` a call of one row with the whole budget is never refused: the engine does not ask then."""
    learned, now_ns = admission(), 0
    for took_ms, rows, more in batches:
        learned.learn(now_ns, now_ns + took_ms * MS, rows, 0, waiting=more)
        now_ns += took_ms * MS
    if 0 < waiting < learned.rows_allowed:
        assert learned.refuses(50 * MS, waiting) == ""
