from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic_ns
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tailrace.batch import Batch, Call, Degraded
from tailrace.codecs.offer import Offer
from tailrace.compile.compiler import compile_plan
from tailrace.compile.loading import load_pipelines
from tailrace.compile.samples import Samples
from tailrace.compile.warm_up import warm_up
from tailrace.deadline import NS_PER_MS, NS_PER_S, MonotonicClock
from tailrace.engine import LOOKED_THROUGH_MAX, Engine, answer, drive
from tailrace.errors import ServerError, ServingError, ShedError, UnauthorizedError
from tailrace.features.stores.memory import MemoryStore
from tailrace.loop_load import LoopLoad
from tailrace.pipeline import Pipeline
from tailrace.plan import Cost, Plan
from tailrace.refusals import HELD_NS_MIN, REFUSAL_NS, REFUSING_SHARE, SHED
from tailrace.request.admission import QUEUE_SHARE, ROWS_WAITING_MAX
from tailrace.response.problem import problem_body
from tailrace.server.endpoint import Endpoint
from tailrace.testing import ManualClock, Turns

SETTLE_NS_MAX = 30 * NS_PER_S

PipelineOf = Callable[[str], Pipeline]
PAYMENT: dict[str, Any] = {
    "transaction_id": "t1",
    "customer_id": 1,
    "terminal_id": "T1",
    "amount": 100.0,
    "time": "2026-01-02T03:04:05Z",
}
COST = Cost(p95_ns=2 * NS_PER_MS, least_ns=1 * NS_PER_MS, row_ns=0.1 * NS_PER_MS)


class DeskCall(Call, gc=False, eq=False):
    """A call with a name."""

    caller: Any = None


class Desk:
    """A transport and a recorder that keep what they are given: bodies and refusals by call, batches in order."""

    def __init__(self) -> None:
        self.answers: dict[Any, list[Any]] = {}
        self.batches: list[Batch] = []
        self.sheds: list[str] = []
        self.failures: list[type[ServingError]] = []

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Keep the bodies."""
        assert len(batch.bodies) == len(batch.calls)
        self.batches.append(batch)
        for place in places:
            call: Any = batch.calls[place]
            error = batch.errors.get(place)
            answer = json.loads(batch.bodies[place]) if error is None else json.loads(problem_body(error))
            self.answers.setdefault(call.caller, []).append(answer)

    def refuse(self, call: Any, error: ServingError) -> None:
        """Keep the error."""
        self.answers.setdefault(call.caller, []).append(error)

    def record(self, batch: Batch, finished_ns: int) -> None:
        """A batch is done: its marks are one more than the layers, and ascend."""
        assert batch.marks_ns == sorted(batch.marks_ns)

    def record_shed(self, reason: str) -> None:
        """Keep the reason."""
        self.sheds.append(reason)

    def record_failure(self, kind: type[ServingError]) -> None:
        """Keep the kind."""
        self.failures.append(kind)


class Before:
    """A step that does something first."""

    def __init__(self, step: Any, act: Callable[[Batch], Any]) -> None:
        self._step = step
        self._act = act

    def run(self, batch: Batch) -> Any:
        """Act, then do the step."""
        self._act(batch)
        return self._step.run(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


class CountingStore(MemoryStore):
    """The store in memory, counting how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.fetches = 0

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Count and answer."""
        self.fetches += 1
        return await super().fetch(keys, deadline_ns)


class DistantStore(CountingStore):
    """A store behind a network: each fetch waits for the loop once, or until it is let go."""

    network = True  # type: ignore[misc, assignment]

    def __init__(self) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = None

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Suspend once, then answer."""
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        return await super().fetch(keys, deadline_ns)


class HeldLoop:
    """A loop that never comes to what is asked for later, and keeps for how long that was to be."""

    def __init__(self, loop: asyncio.AbstractEventLoop, held_s: list[float]) -> None:
        self.call_soon = loop.call_soon
        self._held_s = held_s

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Keep the seconds."""
        self._held_s.append(delay)


class Bench:
    """An engine with all that stands around it."""

    def __init__(self, plan: Plan, clock: Any, cost: Cost = COST, turns: Turns | None = None) -> None:
        self.plan = replace(plan, cost=cost)
        self.clock = clock
        self.desk = Desk()
        self.load = LoopLoad(turns or asyncio.get_running_loop())
        self.engine = Engine(self.plan, self.load, [self.desk], clock, turns)
        self.offer = Offer(plan.pipeline.request, array_max=1_000)
        self.codec = self.offer.usual
        self.endpoint = Endpoint(self.engine, self.offer)

    def submit(self, caller: Any, request: Any, *, budget_ns: int | None = None) -> None:
        """Take a call as a transport does, without asking for admission."""
        decoded = self.codec.decode(json.dumps(request).encode())
        now_ns = self.clock.now_ns()
        deadline_ns = now_ns + (self.plan.budget.total_ns if budget_ns is None else budget_ns)
        rows = self.plan.request.rows.count(decoded)
        assert isinstance(rows, int)
        self.engine.submit(DeskCall(self.desk, None, decoded, now_ns, deadline_ns, max(rows, 1), caller))

    def accept(self, caller: Any, request: Any, budget_ns: int | None = None) -> tuple[DeskCall, ServingError | None]:
        """Take a call through the endpoint; return it, and why it was refused, if it was."""
        call = DeskCall(self.desk, None, None, 0, 0, 1, caller)
        budget_ns = self.engine.budget_ns if budget_ns is None else budget_ns
        return call, self.endpoint.accept(call, json.dumps(request).encode(), budget_ns)

    def admits(self, left_ns: int) -> bool:
        """Say whether a call of one row with so much time left is taken."""
        return not self.engine.refuses(left_ns, self.clock.now_ns())

    async def settle(self) -> None:
        """Let the loop run until nothing is waiting for an answer."""
        end_ns = monotonic_ns() + SETTLE_NS_MAX
        while monotonic_ns() < end_ns:
            if not self.engine.admission.rows_waiting and not self.engine._tasks and not self.engine._scheduled:
                return
            await asyncio.sleep(0)
        raise AssertionError("the engine did not settle")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine."""
    asyncio.run(main())


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """Catch the log lines, which would take far longer to write than the batches to answer."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def compiled(pipeline_of: PipelineOf) -> Iterator[Callable[..., Plan]]:
    """Return what compiles a pipeline; its plans are closed at the end."""
    plans: list[Plan] = []

    def compile_named(name: str, store: Any = None, clock: Any = None) -> Plan:
        plans.append(compile_plan(pipeline_of(name), store or CountingStore(), clock=clock or ManualClock()))
        return plans[-1]

    yield compile_named
    for plan in plans:
        plan.close()


Compiled = Callable[..., Plan]


# -- one batch a tick -------------------------------------------------------------------------------------------------


def test_calls_of_one_tick_are_one_batch(compiled: Compiled) -> None:
    """64 calls: one fetch, one model call, one delivery, no task, and all of it in the very next tick."""

    async def main() -> None:
        store = CountingStore()
        plan, asked = compiled("payment", store), []
        bench = Bench(replace(plan, inference=Before(plan.inference, asked.append)), ManualClock())
        for index in range(64):
            bench.submit(index, PAYMENT | {"transaction_id": f"t{index}"})
        await asyncio.sleep(0)
        assert (store.fetches, len(asked), len(bench.desk.batches)) == (1, 1, 1)
        assert len(asyncio.all_tasks()) == 1
        assert [bench.desk.answers[index][0]["transaction_id"] for index in range(64)] == [f"t{i}" for i in range(64)]
        assert bench.engine.admission.rows_waiting == 0

    run(main)


def test_batch_on_an_embedded_store_never_suspends(compiled: Compiled) -> None:
    """The five layers run to their end in one step of the coroutine."""
    plan = compiled("payment")
    assert not plan.suspends(3)
    batch = batch_of(plan, 3)
    drive(answer(plan, batch, lambda: 0))
    assert len(batch.bodies) == 3


def test_batch_on_a_network_store_suspends_once(compiled: Compiled) -> None:
    """However many calls and views, it waits for one round trip."""
    plan = compiled("payment", DistantStore())
    assert plan.suspends(64)
    batch = batch_of(plan, 64)
    steps = answer(plan, batch, lambda: 0)
    waits = 0
    while True:
        try:
            steps.send(None)
        except StopIteration:
            break
        waits += 1
    assert waits == 1
    assert len(batch.bodies) == 64


def batch_of(plan: Plan, calls: int) -> Batch:
    """Return a batch of sample requests."""
    samples = Samples(plan)
    return samples.batch([samples.request(seed) for seed in range(calls)], 0, 10**15)


def test_run_that_suspends_where_it_must_not_is_told() -> None:
    """A plan that says it never suspends is held to it."""

    async def suspends() -> None:
        await asyncio.sleep(0)

    coroutine = suspends()
    with pytest.raises(RuntimeError, match="did suspend"):
        drive(coroutine)
    coroutine.close()


def test_calls_gather_while_a_distant_store_answers(compiled: Compiled) -> None:
    """While a batch waits, what arrives becomes the next ones, of which a bounded number runs."""

    async def main() -> None:
        store = DistantStore()
        store.gate = asyncio.Event()
        bench = Bench(compiled("payment", store), ManualClock())
        for index in range(10):
            bench.submit(index, PAYMENT)
            for _ in range(3):
                await asyncio.sleep(0)
        assert not bench.desk.answers
        assert len(bench.engine._tasks) == bench.plan.in_flight_max == 2
        assert bench.engine.admission.rows_waiting == 10
        store.gate.set()
        await bench.settle()
        assert [len(batch.calls) for batch in bench.desk.batches] == [1, 1, 8]
        assert all(len(found) == 1 for found in bench.desk.answers.values())

    run(main)


def test_large_queue_is_cut_into_batches_in_order(compiled: Compiled) -> None:
    """No batch is over rows_best, but for one array that is; the order of arrival is kept."""

    async def main() -> None:
        bench = Bench(compiled("payment"), ManualClock())
        bench.plan.inference.stage.rows_best = 8
        for index in range(20):
            bench.submit(index, [PAYMENT] * 12 if index == 5 else [PAYMENT, PAYMENT] if index == 9 else PAYMENT)
        await bench.settle()
        sizes = [batch.rows for batch in bench.desk.batches]
        assert sum(sizes) == 18 + 12 + 2
        assert [size for size in sizes if size > 8] == [12]
        assert list(bench.desk.answers) == list(range(20))
        assert sizes == [5, 12, 8, 7]

    run(main)


# -- time -------------------------------------------------------------------------------------------------------------


def test_call_is_admitted_while_the_queue_leaves_it_time(compiled: Compiled) -> None:
    """What waits and the p95 of a batch must fit before the deadline, the client's own sooner one too."""

    async def main() -> None:
        bench = Bench(compiled("payment"), ManualClock())
        assert bench.admits(COST.least_ns)
        assert not bench.admits(COST.least_ns - 1)
        needed_ns = int(100 * COST.row_ns / QUEUE_SHARE) + COST.p95_ns
        for index in range(100):
            bench.submit(index, PAYMENT, budget_ns=needed_ns - 2)
        assert bench.admits(needed_ns + 1)
        assert not bench.admits(needed_ns - 1)
        assert bench.desk.sheds == ["deadline", "deadline"]
        await bench.settle()

    run(main)


def test_hurried_call_goes_before_a_patient_queue(compiled: Compiled) -> None:
    """It is taken though the queue is too long for it, is answered in the next batch, and not where others are late."""

    async def main() -> None:
        bench = Bench(compiled("payment"), ManualClock())
        bench.plan.inference.stage.rows_best = 8
        for index in range(100):
            bench.submit(index, PAYMENT, budget_ns=50 * NS_PER_MS)
        hurried_ns = COST.p95_ns + NS_PER_MS
        assert bench.admits(hurried_ns)
        bench.submit("hurried", PAYMENT, budget_ns=hurried_ns)
        assert not bench.admits(COST.p95_ns - 1)
        await bench.settle()
        assert list(bench.desk.answers)[:8] == ["hurried", *range(7)]
        late = Bench(compiled("payment"), ManualClock())
        for index in range(100):
            late.submit(index, PAYMENT, budget_ns=int(50 * COST.row_ns) + COST.p95_ns)
        assert not late.admits(COST.p95_ns + 2), "it would push others over their deadlines"
        await late.settle()

    run(main)


def test_call_of_more_rows_than_its_budget_holds_is_refused(compiled: Compiled) -> None:
    """An array that takes 100 ms of a budget of 50 would be late, and hold up all others: refused, as its rows say."""

    async def main() -> None:
        bench = Bench(compiled("payment"), ManualClock())
        assert isinstance(bench.accept("many", [PAYMENT] * 1_000)[1], ShedError)
        assert bench.desk.sheds == ["deadline"]
        assert bench.accept("some", [PAYMENT] * 100)[1] is None
        await bench.settle()
        assert len(bench.desk.answers["some"][0]) == 100

    run(main)


class AmountGate:
    """Lets calls pass whose name is even."""

    def refusal(self, call: Any) -> ServingError | None:
        """Refuse odd names."""
        return UnauthorizedError("odd names do not pass") if call.caller % 2 else None


class BatchesOnly:
    """A recorder that takes in batches and nothing else."""

    def __init__(self) -> None:
        self.calls = 0

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Count the calls."""
        self.calls += len(batch.calls)


def test_recorder_of_batches_is_told_of_no_refusal(compiled: Compiled) -> None:
    """A call that comes into no batch is counted by the recorders that ask for that, and by those alone."""
    plan, clock, turns = compiled("payment"), ManualClock(), Turns()
    batches, desk = BatchesOnly(), Desk()
    engine = Engine(replace(plan, cost=COST), LoopLoad(turns), [batches, desk], clock, turns)
    assert engine.refuses(0, clock.now_ns())
    engine.refusals.count_failure(UnauthorizedError("no token"))
    assert (desk.sheds, desk.failures, batches.calls) == (["deadline"], [UnauthorizedError], 0)


def test_gate_refuses_before_a_body_is_decoded(compiled: Compiled) -> None:
    """What a gate refuses is counted, and its body is never looked at; what it lets pass is served."""

    async def main() -> None:
        bench = Bench(compiled("payment"), ManualClock(now_ns=10**9))
        endpoint = Endpoint(bench.engine, bench.offer, [AmountGate()])
        for name, body in ((1, b"no JSON"), (2, json.dumps(PAYMENT).encode())):
            refusal = endpoint.accept(DeskCall(bench.desk, None, None, 0, 0, 1, name), body, bench.engine.budget_ns)
            assert (type(refusal) if refusal else None) == (UnauthorizedError if name == 1 else None)
        assert bench.desk.failures == [UnauthorizedError]
        await bench.settle()
        assert list(bench.desk.answers) == [2]

    run(main)


def test_batch_of_two_transports_is_delivered_once_to_each(compiled: Compiled) -> None:
    """Calls of one batch go back the way they came, with one delivery a transport."""

    async def main() -> None:
        bench, other = Bench(compiled("payment"), ManualClock(now_ns=10**9)), Desk()
        for index in range(6):
            bench.submit(index, PAYMENT | {"transaction_id": f"t{index}"})
        for call in bench.engine._inbox[::2]:
            call.transport = other
        await bench.settle()
        assert len(bench.desk.batches) == len(other.batches) == 1
        assert bench.desk.batches[0] is other.batches[0]
        assert list(bench.desk.answers) == [1, 3, 5]
        assert [other.answers[index][0]["transaction_id"] for index in (0, 2, 4)] == ["t0", "t2", "t4"]

    run(main)


def test_call_read_behind_a_batch_is_dated_back_by_it(compiled: Compiled) -> None:
    """A call waits unread while a batch holds the loop: it may have arrived that much sooner, in a backlog too."""
    clock, turns, plan = ManualClock(now_ns=10**9), Turns(), compiled("payment")
    plan = replace(plan, postprocess=Before(plan.postprocess, lambda batch: clock.advance(10)))
    bench = Bench(plan, clock, turns=turns)
    plan.inference.stage.rows_best = 2

    def unread_ms(caller: str) -> float:
        call, refusal = bench.accept(caller, PAYMENT)
        assert refusal is None
        assert call.deadline_ns == call.arrival_ns + bench.engine.budget_ns
        return (clock.now_ns() - call.arrival_ns) / NS_PER_MS

    assert [unread_ms(f"first {index}") for index in range(4)] == [0] * 4
    turns.turn()
    assert unread_ms("behind the first batch") == 10
    turns.turn()
    assert unread_ms("behind the second") == 10
    while not turns.is_idle:
        turns.turn()
    assert unread_ms("when idle") == 0


def test_call_read_behind_another_engines_batch_is_dated_back_too(compiled: Compiled) -> None:
    """Engines of one loop share its load: a batch of one keeps the calls of the other unread, and that is reported."""
    clock, turns, plan = ManualClock(now_ns=10**9), Turns(), compiled("payment")
    slow = replace(plan, postprocess=Before(plan.postprocess, lambda batch: clock.advance(30)), cost=COST)
    bench, desk = Bench(plan, clock, turns=turns), Desk()
    other = Engine(slow, bench.load, [desk], clock, turns)
    bench.submit("first", PAYMENT)
    other.submit(DeskCall(desk, None, bench.codec.decode(json.dumps(PAYMENT).encode()), 0, 10**12, 1, "other"))
    turns.turn()
    call, refusal = bench.accept("behind", PAYMENT)
    assert refusal is None
    assert clock.now_ns() - call.arrival_ns == 30 * NS_PER_MS


def test_load_of_a_loop_is_told_in_time_and_not_in_rows(compiled: Compiled) -> None:
    """What waits adds up in expected nanoseconds over engines whose rows cost differently."""
    clock, turns, plan = ManualClock(now_ns=10**9), Turns(), compiled("payment")
    bench = Bench(plan, clock, turns=turns)
    other = Engine(replace(plan, cost=Cost(1, 1, 5.0 * NS_PER_MS)), bench.load, [], clock, turns)
    for index in range(3):
        bench.submit(index, PAYMENT)
    other.admission.rows_waiting = 2
    assert bench.load.rows == 5
    assert bench.load.expected_ns == 3 * COST.row_ns + 2 * 5 * NS_PER_MS


def test_call_that_waited_too_long_is_shed_when_its_batch_starts(compiled: Compiled) -> None:
    """Admission is rechecked: the late one is refused as expired, its neighbours are answered."""

    async def main() -> None:
        clock = ManualClock()
        bench = Bench(compiled("payment"), clock)
        bench.submit("short", PAYMENT, budget_ns=5 * NS_PER_MS)
        bench.submit("long", PAYMENT)
        clock.advance(4.5)
        await bench.settle()
        (refusal,) = bench.desk.answers["short"]
        assert isinstance(refusal, ShedError)
        assert refusal.status == 503
        assert bench.desk.answers["long"][0]["transaction_id"] == "t1"
        assert bench.desk.sheds == ["expired"]

    run(main)


def test_batch_is_held_to_its_soonest_deadline(compiled: Compiled) -> None:
    """The deadline goes down as one absolute value."""

    async def main() -> None:
        clock = ManualClock(now_ns=1000)
        bench = Bench(compiled("payment"), clock)
        bench.submit("a", PAYMENT)
        bench.submit("b", PAYMENT, budget_ns=7 * NS_PER_MS)
        await bench.settle()
        assert bench.desk.batches[0].deadline_ns == 1000 + 7 * NS_PER_MS

    run(main)


def test_admission_learns_from_slow_batches(compiled: Compiled) -> None:
    """After many batches of 20 ms a call with 10 ms behind a queue is no longer taken."""

    async def main() -> None:
        clock = ManualClock()
        plan = compiled("payment")
        bench = Bench(replace(plan, postprocess=Before(plan.postprocess, lambda batch: clock.advance(20))), clock)
        for index in range(200):
            bench.submit(index, PAYMENT)
            await bench.settle()
        bench.submit("queued", PAYMENT)
        assert not bench.admits(10 * NS_PER_MS)
        assert bench.admits(50 * NS_PER_MS)
        await bench.settle()

    run(main)


# -- faults -----------------------------------------------------------------------------------------------------------


@given(amounts=st.lists(st.sampled_from([5.0, 100.0, 6666.0]), min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_function_that_raises_for_one_call_fails_it_alone(
    amounts: list[float], pipelines_dir: Path, logs: list[Any]
) -> None:
    """The feature raises for every batch that holds 6666; those calls get an error, all others their answer."""

    async def main() -> None:
        bench = Bench(shared_plan(pipelines_dir), ManualClock())
        for index, amount in enumerate(amounts):
            bench.submit(index, PAYMENT | {"transaction_id": f"t{index}", "amount": amount})
        await bench.settle()
        for index, amount in enumerate(amounts):
            (found,) = bench.desk.answers[index]
            if amount == 6666.0:
                assert (found["status"], found["title"]) == (500, "Internal error")
                assert "ValueError" in found["detail"]
            else:
                assert (found["transaction_id"], found["amount_ratio"]) == (f"t{index}", amount / 50)
        failed = [error for batch in bench.desk.batches for error in batch.errors.values()]
        assert len(failed) == amounts.count(6666.0)
        assert all(isinstance(error, ServerError) for error in failed)
        assert bool(logs) == bool(failed)
        logs.clear()

    run(main)


def test_faults_of_a_third_of_a_batch_fail_no_neighbour(pipelines_dir: Path) -> None:
    """However many calls fail, as long as there is time the others are answered; their layers are timed alone."""

    async def main() -> None:
        bench = Bench(shared_plan(pipelines_dir), ManualClock())
        bench.plan.inference.stage.rows_best = 1_000
        for index in range(96):
            amount = 6666.0 if index % 3 == 0 else 100.0
            bench.submit(index, PAYMENT | {"transaction_id": f"t{index}", "amount": amount})
        await bench.settle()
        failed = [index for index, (found,) in bench.desk.answers.items() if "status" in found]
        assert failed == list(range(0, 96, 3))
        assert bench.engine.calls_waiting == 0

    run(main)


def test_empty_calls_are_in_flight_too(pipelines_dir: Path) -> None:
    """A call of an empty array has no rows, and waits for its answer all the same."""

    async def main() -> None:
        bench = Bench(shared_plan(pipelines_dir), ManualClock())
        bench.submit("empty", [])
        assert bench.engine.calls_waiting == 1
        await bench.settle()
        assert bench.engine.calls_waiting == 0

    run(main)


def test_calls_without_rows_are_admitted_by_their_number(compiled: Compiled) -> None:
    """Empty arrays cost an answer each: 200,000 of one moment are taken as far as their budget goes, or the maximum."""

    async def main() -> None:
        for cost, calls_max in (
            (COST, 50 * NS_PER_MS * QUEUE_SHARE / COST.row_ns),
            (Cost(1, 1, 0.0), ROWS_WAITING_MAX),
        ):
            bench = Bench(compiled("payment"), ManualClock(now_ns=10**9), cost)
            taken = sum(bench.accept(index, [])[1] is None for index in range(200_000))
            assert 0.9 * calls_max <= taken <= calls_max + 1
            assert bench.engine.calls_waiting == bench.engine.admission.rows_waiting == taken
            assert len(bench.desk.sheds) == 200_000 - taken
            await bench.settle()
            assert len(bench.desk.answers) == taken
            assert all(found == [[]] for found in bench.desk.answers.values())
            assert bench.engine.calls_waiting == bench.engine.admission.rows_waiting == 0

    run(main)


@pytest.mark.parametrize("request_of", [lambda index: [], lambda index: [PAYMENT] * (index % 3)], ids=["empty", "some"])
def test_batch_is_cut_by_calls_too(compiled: Compiled, request_of: Callable[[int], Any]) -> None:
    """No batch has more calls than rows are best, however few rows they have."""

    async def main() -> None:
        bench = Bench(compiled("payment"), ManualClock(now_ns=10**9))
        bench.plan.inference.stage.rows_best = 16
        for index in range(200):
            bench.submit(index, request_of(index))
        await bench.settle()
        assert sum(len(batch.calls) for batch in bench.desk.batches) == 200
        assert max(len(batch.calls) for batch in bench.desk.batches) <= 16
        assert max(batch.rows for batch in bench.desk.batches) <= 16

    run(main)


_plans: dict[Path, Plan] = {}


def shared_plan(pipelines_dir: Path) -> Plan:
    """Return one plan of the payment pipeline for many examples; nothing of it needs closing."""
    if pipelines_dir not in _plans:
        (pipeline,) = load_pipelines(pipelines_dir / "payment.py")
        _plans[pipelines_dir] = compile_plan(pipeline, MemoryStore(), clock=ManualClock())
    return _plans[pipelines_dir]


@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["one", "list", "empty", "raises"]), st.integers(0, 60), st.integers(0, 8)),
        max_size=40,
    ),
    rows_best=st.integers(1, 20),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_every_call_gets_exactly_one_answer(calls: list[Any], rows_best: int, pipelines_dir: Path) -> None:
    """Answer, error or refusal: one each, whatever arrives, however the queue is cut; and nothing stays counted."""

    async def main() -> None:
        clock = ManualClock()
        bench = Bench(shared_plan(pipelines_dir), clock)
        bench.plan.inference.stage.rows_best = rows_best
        kinds = {"one": PAYMENT, "list": [PAYMENT] * 3, "empty": [], "raises": PAYMENT | {"amount": 6666.0}}
        for index, (kind, budget_ms, pause_ms) in enumerate(calls):
            bench.submit(index, kinds[kind], budget_ns=budget_ms * NS_PER_MS)
            clock.advance(pause_ms)
            if pause_ms == 8:
                await asyncio.sleep(0)
        await bench.settle()
        assert [len(bench.desk.answers[index]) for index in range(len(calls))] == [1] * len(calls)
        assert bench.engine.admission.rows_waiting == 0
        for index, (kind, *_) in enumerate(calls):
            (found,) = bench.desk.answers[index]
            if isinstance(found, ShedError):
                continue
            wanted = {"one": dict, "list": list, "empty": list, "raises": dict}[kind]
            assert isinstance(found, wanted)
            assert ("status" in found) == (kind == "raises")

    run(main)


def test_serving_makes_no_cyclic_garbage(compiled: Compiled) -> None:
    """After many batches the collector finds nothing to collect, on an embedded store and on a distant one."""

    async def main() -> None:
        for store in (CountingStore(), DistantStore()):
            bench = Bench(compiled("payment", store), ManualClock())
            for round_ in range(120):
                if round_ == 20:
                    gc.collect()
                    gc.disable()
                for index in range(8):
                    bench.submit(index, [PAYMENT, PAYMENT] if index == 3 else PAYMENT)
                await bench.settle()
                bench.desk.batches.clear()
                bench.desk.answers.clear()
            assert gc.collect() < 100, "a hundred batches of eight calls left garbage"
            gc.enable()

    try:
        run(main)
    finally:
        gc.enable()


# -- the inference thread ---------------------------------------------------------------------------------------------


def test_heavy_model_runs_on_the_thread_while_the_loop_goes_on(compiled: Compiled) -> None:
    """The loop turns while the model computes, and what arrives meanwhile is one batch behind it."""

    async def main() -> None:
        bench = Bench(compiled("heavy", clock=MonotonicClock()), MonotonicClock(), Cost(1, 1, 1.0))
        assert bench.plan.inference.stage.is_threaded
        bench.plan.inference.stage.rows_best = 16
        bench.submit("first", {"work": 40_000}, budget_ns=10**11)
        await asyncio.sleep(0)
        turns = 0
        while "first" not in bench.desk.answers:
            await asyncio.sleep(0)
            if turns < 5:
                bench.submit(turns, {"work": 1}, budget_ns=10**11)
            turns += 1
        assert turns > 20
        await bench.settle()
        assert all(found[0]["score"] == 0.75 or found[0]["score"] == 0.25 for found in bench.desk.answers.values())
        assert [len(batch.calls) for batch in bench.desk.batches] == [1, 5]

    run(main)


def test_late_model_is_answered_by_the_fallback_in_time(compiled: Compiled) -> None:
    """The answer comes at the budget of the layer, says MODEL_TIMEOUT, and the loop never stood still."""

    async def main() -> None:
        clock = MonotonicClock()
        bench = Bench(compiled("heavy", clock=clock), clock, Cost(1, 1, 1.0))
        began_ns = clock.now_ns()
        bench.submit("late", {"work": 400_000})
        while "late" not in bench.desk.answers:
            await asyncio.sleep(0.001)
        took_ns = clock.now_ns() - began_ns
        assert bench.desk.answers["late"] == [{"score": 0.25}]
        (batch,) = bench.desk.batches
        assert batch.degraded is not None
        assert batch.degraded.tolist() == [Degraded.MODEL_TIMEOUT]
        assert 90 * NS_PER_MS <= took_ns < 400 * NS_PER_MS

    run(main)


def test_late_model_is_answered_by_a_second_one_on_its_own_thread(compiled: Compiled) -> None:
    """The second model answers while the first is still at work; where it cannot, the constant does."""

    async def main() -> None:
        clock = MonotonicClock()
        bench = Bench(compiled("heavy_with_second", clock=clock), clock, Cost(1, 1, 1.0))
        turns, last_ns, longest_ns = 0, clock.now_ns(), 0
        bench.submit("late", {"work": 400_000})
        while "late" not in bench.desk.answers:
            await asyncio.sleep(0.001)
            now_ns = clock.now_ns()
            turns, last_ns, longest_ns = turns + 1, now_ns, max(longest_ns, now_ns - last_ns)
        assert bench.desk.answers["late"] == [{"score": 0.5}]
        assert turns > 10
        assert longest_ns < 50 * NS_PER_MS
        fallback_thread = bench.plan.inference.stage._fallback_thread
        assert fallback_thread is not None
        fallback_thread.outstanding_max = 0
        bench.submit("both late", {"work": 400_000})
        while "both late" not in bench.desk.answers:
            await asyncio.sleep(0.001)
        assert bench.desk.answers["both late"] == [{"score": 0.25}]
        for batch in bench.desk.batches:
            assert batch.degraded is not None
            assert batch.degraded.tolist() == [Degraded.MODEL_TIMEOUT]

    run(main)


def test_refusals_of_one_turn_leave_the_core_to_the_model_once(compiled: Compiled) -> None:
    """While a model is at work the loop yields after refusing, once for many refusals; with none at work, never."""

    async def main() -> None:
        bench = Bench(compiled("heavy", clock=MonotonicClock()), MonotonicClock(), Cost(1, 1, 1.0))
        yields: list[int] = []
        bench.plan.inference.stage.yield_core = yields.append  # type: ignore[method-assign]
        for _ in range(5):
            bench.accept("refused", {"work": 1}, budget_ns=0)
        await asyncio.sleep(0)
        assert not yields
        bench.submit("at work", {"work": 10_000}, budget_ns=10**11)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(5):
            bench.accept("refused", {"work": 1}, budget_ns=0)
        await asyncio.sleep(0)
        assert len(yields) == 1
        await bench.settle()

    run(main)


@pytest.mark.parametrize("shared", [False, True])
def test_calls_that_cannot_begin_leave_the_core_to_the_model_once(compiled: Compiled, shared: bool) -> None:
    """What comes while a model is at work is read together, unless another pipeline's calls could begin meanwhile."""

    async def main() -> None:
        bench = Bench(compiled("heavy", clock=MonotonicClock()), MonotonicClock(), Cost(1, 1, 1.0))
        bench.engine.load.is_shared = shared
        yields: list[int] = []
        bench.plan.inference.stage.yield_core = yields.append  # type: ignore[method-assign]
        bench.submit("at work", {"work": 10_000}, budget_ns=10**11)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not yields
        for name in "abc":
            bench.submit(name, {"work": 1}, budget_ns=10**11)
        await asyncio.sleep(0)
        assert len(yields) == (0 if shared else 1)
        await bench.settle()

    run(main)


def test_client_that_asks_again_at_once_is_refused_a_little_later(compiled: Compiled) -> None:
    """While a model is at work refusals are held, the longer the more there were; without, they are given at once."""

    async def main() -> None:
        bench = Bench(compiled("heavy", clock=MonotonicClock()), MonotonicClock(), Cost(1, 1, 1.0))
        held_s: list[float] = []
        loop = asyncio.get_running_loop()
        bench.engine.refusals._loop = HeldLoop(loop, held_s)  # type: ignore[assignment]
        _, refusal = bench.accept("at once", {"work": 1}, budget_ns=0)
        assert refusal is SHED
        bench.submit("at work", {"work": 10_000}, budget_ns=10**11)
        await asyncio.sleep(0)
        for number in range(300):
            assert bench.accept(f"first {number}", {"work": 1}, budget_ns=0)[1] is None
        assert len(held_s) == 1
        assert not bench.desk.answers
        bench.engine.refusals.answer_held()
        assert list(bench.desk.answers) == [f"first {number}" for number in range(300)]
        assert bench.accept("again", {"work": 1}, budget_ns=0)[1] is None
        assert held_s == [HELD_NS_MIN / NS_PER_S, REFUSING_SHARE * REFUSAL_NS * 300 / NS_PER_S]
        assert len(bench.desk.sheds) == 302
        await bench.settle()
        bench.engine.refusals.answer_held()

    run(main)


def test_long_inbox_is_not_looked_through_for_a_hurried_call(compiled: Compiled) -> None:
    """In an overload each call would be looked up among all that wait; of a short inbox a hurried one is taken."""

    async def main() -> None:
        for waiting, taken in ((LOOKED_THROUGH_MAX, True), (LOOKED_THROUGH_MAX + 1, False)):
            bench = Bench(compiled("payment"), ManualClock())
            for index in range(waiting):
                bench.submit(index, PAYMENT, budget_ns=50 * NS_PER_MS)
            assert bench.admits(COST.p95_ns + NS_PER_MS) is taken
            await bench.settle()

    run(main)


# -- warm-up ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["payment", "ranking", "topics", "log"])
def test_warm_up_measures_every_layer(name: str, compiled: Compiled) -> None:
    """Times for the five layers, and a cost that admission can use."""
    plan = compiled(name, clock=MonotonicClock())
    plan, times = asyncio.run(warm_up(plan, MonotonicClock()))
    assert [each.layer for each in times] == ["request", "features", "inference", "postprocess", "response"]
    assert all(0 < each.p50_ns <= each.p99_ns for each in times)
    assert 0 < plan.cost.least_ns <= plan.cost.p95_ns
    assert plan.cost.row_ns > 0
