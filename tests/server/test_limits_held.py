"""Refusals that are held: who asks again at once takes a small part of the core, and every call is answered once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tailrace.batch import Batch, Call
from tailrace.errors import RateLimitedError, ServingError
from tailrace.server.limiting.held import HELD_MAX, HELD_NS_MAX, PART, PERIOD_NS, Held
from tailrace.testing import ManualClock, TestCall

ERROR = RateLimitedError("too much")
BUDGET_NS = 10**9


class Later:
    """A loop that keeps what it is to do later, and in how many ms."""

    def __init__(self) -> None:
        self.asked_ms: list[float] = []
        self._due: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Keep it."""
        self.asked_ms.append(round(delay * 1e3, 3))
        self._due.append(callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Nobody asks for this."""
        raise AssertionError

    create_task = call_soon

    def pass_time(self) -> None:
        """Do what is due."""
        due, self._due = self._due, []
        for callback in due:
            callback()


class Answers:
    """A transport that keeps what was refused; it fails for the calls in `broken`."""

    def __init__(self) -> None:
        self.refused: list[Call] = []
        self.broken: set[Call] = set()

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Nobody answers here."""
        raise AssertionError

    def refuse(self, call: Call, error: ServingError) -> None:
        """Keep it."""
        if call in self.broken:
            raise OSError("gone")
        assert error is ERROR
        self.refused.append(call)


def calls_of(answers: Answers, count: int) -> list[Call]:
    """Return new calls."""
    return [TestCall(answers, None, None, 0, 0, 1) for _ in range(count)]


def test_refusals_are_answered_a_few_at_a_time() -> None:
    """In their order, eight each 1.6 ms: at 10 µs each a twentieth of the core, however many ask."""
    loop, answers = Later(), Answers()
    held = Held(loop, ManualClock(now_ns=10**15))
    calls = calls_of(answers, 20)
    assert all(held.hold(call, ERROR, BUDGET_NS) for call in calls)
    assert calls[0].deadline_ns == 10**15 + BUDGET_NS
    for answered in (0, 8, 16, 20, 20):
        assert answers.refused == calls[:answered]
        loop.pass_time()
    assert loop.asked_ms == [1.6] * 3
    assert held.hold(calls[0], ERROR, BUDGET_NS)
    assert loop.asked_ms == [1.6] * 4


def test_one_too_many_is_refused_at_once() -> None:
    """What is held is bounded, and so is how long it is."""
    held = Held(Later(), ManualClock(now_ns=10**15))
    found = [held.hold(call, ERROR, BUDGET_NS) for call in calls_of(Answers(), HELD_MAX + 1)]
    assert found == [True] * HELD_MAX + [False]
    assert HELD_MAX / PART * PERIOD_NS <= HELD_NS_MAX


def test_fault_in_one_answer_takes_no_other_along() -> None:
    """A transport that fails for one call answers the others, and later ones too."""
    loop, answers = Later(), Answers()
    held = Held(loop, ManualClock(now_ns=10**15))
    calls = calls_of(answers, 3)
    answers.broken.add(calls[1])
    assert all(held.hold(call, ERROR, BUDGET_NS) for call in calls)
    loop.pass_time()
    assert answers.refused == [calls[0], calls[2]]
    assert held.hold(calls[0], ERROR, BUDGET_NS)
    loop.pass_time()
    assert len(answers.refused) == 3
