"""Who is shed first where too much is asked, on a clock moved by hand: low before normal before high, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.pipeline import Pipeline
from tailrace.plan import Cost
from tailrace.request.priority import Priority
from tailrace.testing import ManualClock, TestCall, TestClient

REFUSAL_MS = 0.010
BODY = b'{"amount":1.0,"label":""}'
BUDGET_MS = 50.0
COST = Cost(p95_ns=int(0.6 * NS_PER_MS), least_ns=int(0.55 * NS_PER_MS), row_ns=0.45 * NS_PER_MS)
CAPACITY_PER_S = 1e9 / COST.row_ns


@dataclass
class Level:
    """What became of the calls of one level. late: answered, but not within the budget."""

    offered: int = 0
    answered: int = 0
    late: int = 0
    waits_ms: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the offered calls, those that were answered in time."""
        return (self.answered - self.late) / self.offered


def run(client: TestClient, clock: ManualClock, rates: dict[Priority, float], seconds: float) -> dict[Priority, Level]:
    """Offer calls of several levels at random times, each at so many times the capacity; return what became of them."""
    random, found = Random(1), {level: Level() for level in rates}
    open_calls: list[tuple[int, Priority, TestCall]] = []
    whole, began_ns = sum(rates.values()), clock.now_ns()
    due_ns, end_ns = began_ns, began_ns + int(seconds * NS_PER_S)
    while due_ns < end_ns or open_calls:
        while due_ns <= min(clock.now_ns(), end_ns):
            level = random.choices(list(rates), list(rates.values()))[0]
            call = client.submit_bytes(BODY, priority=level)
            found[level].offered += 1
            if call.error is not None:
                clock.advance(REFUSAL_MS)
            else:
                open_calls.append((due_ns, level, call))
            due_ns += int(random.expovariate(whole * CAPACITY_PER_S) * NS_PER_S)
        if client.turns.is_idle:
            clock.advance(max(due_ns - clock.now_ns(), 1) / NS_PER_MS)
        else:
            client.turn()
        for came_ns, level, call in open_calls:
            if call.answer is not None:
                wait_ms = (clock.now_ns() - came_ns) / NS_PER_MS
                found[level].answered += 1
                found[level].late += wait_ms > BUDGET_MS
                found[level].waits_ms.append(wait_ms)
        open_calls = [each for each in open_calls if each[2].is_open]
    return found


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock."""
    return ManualClock()


@pytest.fixture
def client(pipeline_of: Callable[[str], Pipeline], clock: ManualClock) -> TestClient:
    """Return a client whose batches cost what `COST` says."""
    return TestClient(pipeline_of("log"), clock=clock, cost=COST)


@pytest.mark.parametrize(
    ("first", "last"),
    [(Priority.LOW, Priority.NORMAL), (Priority.NORMAL, Priority.HIGH), (Priority.LOW, Priority.HIGH)],
)
def test_lower_level_is_shed_first(client: TestClient, clock: ManualClock, first: Priority, last: Priority) -> None:
    """At twice the capacity, half of it of each level: the higher one is answered nearly whole, and in time."""
    found = run(client, clock, {first: 1.0, last: 0.8}, 3.0)
    assert found[last].share > 0.97
    assert found[first].share < 0.35
    answered = sum(level.answered - level.late for level in found.values())
    assert answered > 0.85 * 3.0 * CAPACITY_PER_S  # nobody's capacity is given away for it
    assert sum(level.late for level in found.values()) < 0.01 * answered


@pytest.mark.parametrize("level", list(Priority))
def test_level_alone_has_all_of_the_capacity(client: TestClient, clock: ManualClock, level: Priority) -> None:
    """Where only one level asks, the level costs nothing: low gets as much as high."""
    found = run(client, clock, {level: 2.0}, 2.0)
    assert found[level].answered - found[level].late > 0.85 * 2.0 * CAPACITY_PER_S


def test_low_call_is_taken_while_nothing_waits(client: TestClient) -> None:
    """A server that is not busy sheds nobody, whatever the level."""
    for level in Priority:
        call = client.submit_bytes(BODY, priority=level)
        assert call.error is None
        client.turn()
        client.turn()
        assert call.answer is not None


def test_low_call_is_shed_with_a_reason_of_its_own(pipeline_of: Callable[[str], Pipeline]) -> None:
    """What a call of the usual level would have been taken for, is told as its priority; all else as its deadline."""
    client = TestClient(pipeline_of("log"), clock=ManualClock(), cost=COST)
    admission = client.engine.admission
    left_ns, now_ns = client.engine.budget_ns, 0
    while not admission.refuses(left_ns, now_ns, 1, 2.0):
        client.submit_bytes(BODY)
    assert admission.refuses(left_ns, now_ns, 1, 2.0) == "priority"
    assert admission.refuses(left_ns, now_ns) == ""
    waiting = admission.rows_waiting
    while not admission.refuses(left_ns, now_ns):
        client.submit_bytes(BODY)
    assert admission.refuses(left_ns, now_ns, 1, 2.0) == "deadline"
    assert 1.8 < admission.rows_waiting / waiting < 2.2
    assert admission.refuses(left_ns, now_ns, 1, 0.6) == ""


def test_array_of_a_low_call_is_shed_before_others(client: TestClient) -> None:
    """A call of many rows is asked again once they are counted, at its own level."""
    many = b"[" + b",".join([BODY] * 8) + b"]"
    taken = [client.submit_bytes(many, priority=Priority.LOW).error is None for _ in range(10)]
    assert 1 <= sum(taken) < 10
    assert client.submit_bytes(many).error is None
