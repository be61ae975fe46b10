"""Overload on a clock moved by hand: what is answered in time, counted. The server's own clock is in bench/overload.py.

The load is open: calls fall due whether or not the others are answered. A batch takes what it is said to cost, a
refusal takes 10 µs, and each turn of the loop reads what has fallen due since the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import pytest

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.pipeline import Pipeline
from tailrace.plan import Cost
from tailrace.testing import ManualClock, TestCall, TestClient

PipelineOf = Callable[[str], Pipeline]
REFUSAL_MS = 0.010
BODY = b'{"amount":1.0,"label":""}'
BUDGET_MS = 50.0
COSTS = {
    "light": Cost(p95_ns=int(0.6 * NS_PER_MS), least_ns=int(0.55 * NS_PER_MS), row_ns=0.45 * NS_PER_MS),
    "heavier": Cost(p95_ns=int(1.8 * NS_PER_MS), least_ns=int(1.6 * NS_PER_MS), row_ns=1.5 * NS_PER_MS),
}


@dataclass
class Outcome:
    """What became of a load's calls. waits_ms: from due to answered, of those accepted."""

    offered: int = 0
    refused: int = 0
    waits_ms: list[float] | None = None

    @property
    def in_time(self) -> int:
        """Calls answered within the budget."""
        return sum(wait_ms <= BUDGET_MS for wait_ms in self.waits_ms or [])

    @property
    def p99_ms(self) -> float:
        """Of the accepted calls."""
        return sorted(self.waits_ms or [0.0])[len(self.waits_ms or [0.0]) * 99 // 100]


class Load:
    """Offers calls to a client at a rate, and looks what becomes of them."""

    def __init__(self, client: TestClient, clock: ManualClock, seed: int) -> None:
        self._client = client
        self._clock = clock
        self._random = Random(seed)
        self._open: list[tuple[int, TestCall]] = []

    def run(self, rate_per_s: float, seconds: float) -> Outcome:
        """Offer calls at random times; return what became of them, once all are answered."""
        outcome, clock = Outcome(waits_ms=[]), self._clock
        due_ns = clock.now_ns()
        end_ns = due_ns + int(seconds * NS_PER_S)
        while due_ns < end_ns or self._open:
            while due_ns <= min(clock.now_ns(), end_ns):
                call = self._client.submit_bytes(BODY)
                outcome.offered += 1
                if call.error is not None:
                    outcome.refused += 1
                    clock.advance(REFUSAL_MS)
                else:
                    self._open.append((due_ns, call))
                due_ns += int(self._random.expovariate(rate_per_s) * NS_PER_S)
            if self._client.turns.is_idle:
                clock.advance(max(due_ns - clock.now_ns(), 1) / NS_PER_MS)
            else:
                self._client.turn()
            self._look(outcome)
        return outcome

    def _look(self, outcome: Outcome) -> None:
        """Take out the calls that have been answered."""
        now_ns, still_open = self._clock.now_ns(), []
        for due_ns, call in self._open:
            if call.is_open:
                still_open.append((due_ns, call))
            elif call.error is not None:
                outcome.refused += 1
            else:
                assert outcome.waits_ms is not None
                outcome.waits_ms.append((now_ns - due_ns) / NS_PER_MS)
        self._open = still_open


def capacity_per_s(cost: Cost) -> float:
    """Return what a full loop answers a second when it refuses nothing, in the batches that it runs (2 rows, 8)."""
    rows = 2 if cost.row_ns < NS_PER_MS else 8
    return NS_PER_S / ((cost.least_ns + (rows - 1) * cost.row_ns) / rows)


def possible_per_s(cost: Cost, rate_per_s: float) -> float:
    """Return what is left of the capacity once every call over it is refused."""
    capacity = capacity_per_s(cost)
    refusal_s = REFUSAL_MS / 1e3
    return capacity * max(1 - rate_per_s * refusal_s, 0.0) / (1 - capacity * refusal_s)


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that has run for a while."""
    return ManualClock(now_ns=NS_PER_S)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("factor", [2, 5, 10])
def test_overload_is_answered_in_time_up_to_what_refusing_leaves(
    pipeline_of: PipelineOf, clock: ManualClock, name: str, factor: int
) -> None:
    """Whatever the load, 95% of what refusing leaves is answered, all in time; afterwards nothing is refused."""
    cost = COSTS[name]
    client = TestClient(pipeline_of("log"), clock=clock, cost=cost)
    load, rate = Load(client, clock, seed=factor), factor * capacity_per_s(cost)
    outcome = load.run(rate, 3.0)
    assert outcome.in_time / 3.0 >= 0.95 * possible_per_s(cost, rate)
    assert len(outcome.waits_ms or []) - outcome.in_time <= outcome.in_time // 1_000
    assert outcome.p99_ms <= 0.85 * BUDGET_MS
    after = load.run(0.3 * capacity_per_s(cost), 1.0)
    assert after.refused == 0


class Restless(ManualClock):
    """A clock on which now and then a step takes longer: another program had the core."""

    every, times = 50, 5.0
    _steps = 0

    def advance(self, milliseconds: float) -> None:
        """Move, every so often by more."""
        self._steps += milliseconds > REFUSAL_MS
        slow = milliseconds > REFUSAL_MS and self._steps % self.every == 0
        super().advance(milliseconds * (self.times if slow else 1.0))


def test_overload_on_a_restless_machine_is_answered_in_time(pipeline_of: PipelineOf) -> None:
    """Every fiftieth batch takes five times as long; what is accepted is in time all the same, but for a few."""
    clock, cost = Restless(now_ns=NS_PER_S), COSTS["light"]
    outcome = Load(TestClient(pipeline_of("log"), clock=clock, cost=cost), clock, seed=1).run(
        5 * capacity_per_s(cost), 3.0
    )
    assert len(outcome.waits_ms or []) - outcome.in_time <= outcome.in_time // 1_000
    assert outcome.in_time / 3.0 >= 0.85 * possible_per_s(cost, 5 * capacity_per_s(cost))


def test_overload_that_meets_a_slower_machine_learns_it(pipeline_of: PipelineOf) -> None:
    """In the middle of an overload everything takes twice as long: after half a second accepted calls are in time."""
    clock, cost = Restless(now_ns=NS_PER_S), COSTS["light"]
    clock.times = 1.0
    load = Load(TestClient(pipeline_of("log"), clock=clock, cost=cost), clock, seed=2)
    load.run(5 * capacity_per_s(cost), 1.0)
    clock.every, clock.times = 1, 2.0
    load.run(5 * capacity_per_s(cost), 0.5)
    outcome = load.run(5 * capacity_per_s(cost), 2.0)
    assert len(outcome.waits_ms or []) - outcome.in_time <= outcome.in_time // 1_000
    assert outcome.in_time / 2.0 >= 0.9 * possible_per_s(cost, 5 * capacity_per_s(cost)) / 2
