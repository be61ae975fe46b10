from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.deadline import NS_PER_MS
from tailrace.request.admission import (
    BATCHES_SHARE,
    LEAST_BATCHES,
    PROBE_NS,
    QUEUE_SHARE,
    QUEUE_SHARE_MIN,
    ROWS_WAITING_MAX,
    Admission,
)

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
    learned, needed_ns = admission(), int(100 * 0.1 * MS / QUEUE_SHARE) + 2 * MS
    learned.rows_waiting = 100
    assert learned.refuses(needed_ns, 0) == ""
    assert learned.refuses(needed_ns - 1, 0) == "deadline"


def test_admission_is_bounded_whatever_the_deadline() -> None:
    """With time without end the queue still has a maximum, which the usual comparison cannot pass by."""
    learned = admission(row_ns=1.0)
    learned.rows_waiting = ROWS_WAITING_MAX
    assert learned.refuses(10**18, 0) == "queue_full"
    assert learned.rows_waiting * learned.price_ns + learned.base_ns > 50 * MS


def test_call_of_many_rows_needs_the_time_of_its_own_rows() -> None:
    """A thousand rows at 0.1 ms do not fit 50 ms, with nothing waiting and with something; four hundred do."""
    for waiting in (0, 1):
        learned = admission()
        learned.rows_waiting = waiting
        assert learned.refuses(50 * MS, 0, 1_000) == "deadline"
        assert learned.refuses(50 * MS, 0, 400) == ""


def teach(learned: Admission, took_ms: float, rows: int, batches: int, at_ns: int = 0, *, waiting: bool = False) -> int:
    """Let batches run one behind the other; return when the last one ended."""
    for _ in range(batches):
        learned.rows_waiting += rows
        at_ns += int(took_ms * MS)
        learned.learn(at_ns - int(took_ms * MS), at_ns, rows, waiting=waiting)
    return at_ns


def test_large_calls_are_taken_again_after_a_slow_moment() -> None:
    """A machine that stalls for ten seconds a batch does not shut out calls of many rows for good."""
    learned = admission()
    at_ns = teach(learned, 10_000, 400, 100)
    learned.rows_waiting = 1
    assert learned.refuses(50 * MS, at_ns, 400) == "deadline"
    learned.rows_waiting = 0
    assert learned.refuses(50 * MS, at_ns, 400) == "deadline"
    assert learned.refuses(50 * MS, at_ns + PROBE_NS, 400) == ""


def test_least_time_is_forgotten_and_learned_anew() -> None:
    """One quick failure-like batch lets short calls in for a while; when all take longer they are shed again."""
    learned = admission()
    at_ns = teach(learned, 0.1, 1, 1)
    assert learned.refuses(MS // 2, at_ns) == ""
    at_ns = teach(learned, 1.0, 1, 2 * LEAST_BATCHES, at_ns)
    assert learned.refuses(MS // 2, at_ns) == "deadline"
    assert learned.refuses(1 * MS, at_ns) == ""


def test_failed_batch_teaches_nothing() -> None:
    """A batch that broke off early says nothing of what others take."""
    learned = admission()
    learned.rows_waiting = 1
    learned.learn(0, 1, 1, waiting=False, failed=True)
    assert learned.rows_waiting == 0
    assert learned.refuses(1 * MS - 1, 1) == "deadline"


def test_admission_that_forgot_its_least_time_never_sheds_all() -> None:
    """After a slow spell, calls with short budgets are tried once in a while; one that goes well lets the others in."""
    learned = admission()
    at_ns = teach(learned, 20.0, 1, 3 * LEAST_BATCHES)
    assert learned.refuses(5 * MS, at_ns) == "deadline"
    assert learned.refuses(5 * MS, at_ns + PROBE_NS) == ""
    assert learned.soonest_ns <= 1 * MS  # or the batch itself would refuse it
    at_ns = teach(learned, 1.0, 1, 1, at_ns + PROBE_NS)
    assert learned.refuses(5 * MS, at_ns) == ""
    assert learned.refuses(1 * MS - 1, at_ns + PROBE_NS) == "deadline"  # what never was possible is not tried


def test_drain_is_learned_from_all_that_lies_between_batches() -> None:
    """A queue that loses as much time between its batches as in them drains half as fast, and is judged so."""
    learned, at_ns = admission(), 0
    for _ in range(100):
        learned.rows_waiting = 200
        learned.learn(at_ns + 6 * MS, at_ns + 12 * MS, 64, waiting=True)
        at_ns += 12 * MS
    assert abs(learned.row_ns - 12 * MS / 64) < 0.02 * MS


def test_standing_queue_is_allowed_less_and_less() -> None:
    """A queue that does not go away may take half of a call's time at first, and a fifth in the end."""
    learned = admission()
    at_ns = teach(learned, 6.4, 64, 3, waiting=True)
    first = learned.price_ns
    teach(learned, 6.4, 64, 200, at_ns, waiting=True)
    assert first / learned.price_ns == pytest.approx(QUEUE_SHARE_MIN / QUEUE_SHARE, rel=0.01)
    teach(learned, 6.4, 64, 1)
    assert learned.price_ns == pytest.approx(first, rel=0.01)


@pytest.mark.parametrize(("rows_alone_ms", "is_cut"), [(2.0, False), (0.4, True)])
def test_running_batch_and_the_next_are_no_queue(rows_alone_ms: float, is_cut: bool) -> None:
    """Of batches that take a quarter of the budget two are let in, and some rows more, though calls always wait.

    Of rows that cost no less together than alone a queue is held to its share: a longer one serves no more of them.
    """
    learned = Admission(50 * MS, 2 * MS, int(rows_alone_ms * MS), 12 / 32 * MS, 32, lambda rows: 0)
    at_ns = 0
    for _ in range(60):  # so that its least time stays that of a single call
        at_ns = teach(learned, 12, 32, 1, at_ns, waiting=True)
        at_ns = teach(learned, rows_alone_ms, 1, 1, at_ns, waiting=True)
    assert at_ns > 10 * 50 * MS
    for waiting in range(0, 200, 2):
        learned.rows_waiting = waiting
        if learned.refuses(50 * MS, at_ns):
            break
    free_ms = 50 - learned.base_ns / MS
    share = QUEUE_SHARE_MIN if is_cut else BATCHES_SHARE
    assert waiting * learned.row_ns / MS == pytest.approx(share * free_ms, rel=0.15)


@pytest.mark.parametrize("on_thread", [False, True])
def test_queue_of_a_light_model_is_cut_however_large_its_batches(on_thread: bool) -> None:
    """A model on the loop has its share, also where two full batches take more than that; one on a thread has those."""
    learned = Admission(50 * MS, 2 * MS, 1 * MS, 0.1 * MS, 64, (lambda rows: 0) if on_thread else None)
    at_ns = 0
    for _ in range(60):
        at_ns = teach(learned, 6.4, 64, 1, at_ns, waiting=True)
        at_ns = teach(learned, 1.0, 1, 1, at_ns, waiting=True)
    share = 2 * 6.4 / (50 - 6.4) if on_thread else QUEUE_SHARE_MIN
    assert learned.row_ns / learned.price_ns == pytest.approx(share, rel=0.1)


def test_rows_that_seem_dear_because_they_are_few_become_cheap_again() -> None:
    """Two rows that take 5 ms, of which a full batch would take 7, are no reason to let in two at a time for ever."""
    learned = Admission(50 * MS, 2 * MS, 1 * MS, 10 * MS, 32, lambda rows: 2 * MS)
    learned.rows_waiting = 3
    assert learned.refuses(30 * MS, 0)
    at_ns = 0
    for _ in range(40):
        learned.rows_waiting = 2
        learned.learn(at_ns, at_ns + 21 * MS, 2, waiting=True)
        at_ns += 21 * MS
    assert learned.row_ns == pytest.approx(23 * MS / 32, rel=0.05)
    learned.rows_waiting = 3
    assert not learned.refuses(30 * MS, at_ns)


def test_batch_that_stalls_now_and_then_is_not_expected_to() -> None:
    """One batch in ten that takes 40 ms of 50, beside nine that take 2, does not refuse what would be in time."""
    learned, at_ns = admission(), 0
    for number in range(400):
        learned.rows_waiting = 1
        took_ns = (40 if number % 10 == 0 else 2) * MS
        learned.learn(at_ns, at_ns + took_ns, 1, waiting=False)
        at_ns += 2 * took_ns
    learned.rows_waiting = 1
    assert not learned.refuses(20 * MS, at_ns)


def test_margin_follows_how_late_promises_are_kept() -> None:
    """Where calls are answered later than foreseen, more time is asked of the next ones, and less again later."""
    learned, at_ns = admission(rows_best=16), 0

    def round_of(took_ms: float) -> None:
        nonlocal at_ns
        learned.rows_waiting = 64
        learned.promise(at_ns)
        for left in (3, 2, 1, 0):
            at_ns += int(took_ms * MS / 4)
            learned.learn(at_ns - 2 * MS, at_ns, 16, waiting=left > 0)

    base_ns = learned.base_ns
    round_of(30.0)
    late_base_ns = learned.base_ns
    assert late_base_ns > base_ns + 4 * MS
    for _ in range(200):
        round_of(6.0)
    assert learned.base_ns < late_base_ns - 3 * MS


@given(
    batches=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200), st.booleans()), max_size=200),
    waiting=st.integers(0, 500),
    left_ms=st.integers(0, 50),
)
def test_row_that_is_surely_taken_is_taken(batches: list[tuple[int, int, bool]], waiting: int, left_ms: int) -> None:
    """What the endpoint takes without asking would not be refused either."""
    learned, now_ns = admission(), 0
    for took_ms, rows, more in batches:
        now_ns = teach(learned, took_ms, rows, 1, now_ns, waiting=more)
    learned.rows_waiting = waiting
    if waiting and waiting * learned.price_ns + learned.base_ns <= left_ms * MS:
        assert learned.refuses(left_ms * MS, now_ns) == ""


def test_warm_up_in_a_bad_moment_never_sheds_all() -> None:
    """A row that took longer than the budget at warm-up is tried again: a worker is not lost for good."""
    learned = Admission(10 * MS, 50 * MS, 50 * MS, 20.0 * MS, 1)
    assert learned.refuses(10 * MS, 3600 * 1_000 * MS) == ""


def test_faulty_batches_still_teach_how_the_queue_drains() -> None:
    """Batches that are halved for one caller's fault take long, and the calls behind them wait for it."""
    learned, at_ns = admission(), 0
    for _ in range(50):
        learned.rows_waiting = 200
        learned.learn(at_ns, at_ns + 20 * MS, 64, waiting=True, failed=True)
        at_ns += 20 * MS
    assert learned.row_ns > 0.9 * 20 * MS / 64
