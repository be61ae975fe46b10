"""Identical requests share one computation, and nobody gets what is not theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_calls import Asked, Sharing
from structlog.testing import capture_logs

import tailrace as tr
from tailrace.batch import Batch, Degraded
from tailrace.codecs.json import JsonEncoder
from tailrace.deadline import NS_PER_MS
from tailrace.errors import DeadlineExceededError, ServerError, ShedError
from tailrace.features.stores.memory import MemoryWriter
from tailrace.ingest.local import LocalEvents
from tailrace.pipeline import Pipeline
from tailrace.plan import Cost
from tailrace.testing import ManualClock

PipelineOf = Callable[[str], Pipeline]
Shares = Callable[..., Sharing]
PAYMENT: dict[str, Any] = {"customer_id": 1, "terminal_id": "T1", "amount": 100.0, "time": "2026-01-02T03:04:05Z"}
COST = Cost(p95_ns=2 * NS_PER_MS, least_ns=1 * NS_PER_MS, row_ns=0.1 * NS_PER_MS)


def payment(number: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a request whose id is its own."""
    return PAYMENT | {"transaction_id": f"t{number}"} | fields


@pytest.fixture
def shares(pipeline_of: PipelineOf) -> Iterator[Shares]:
    """Return what puts `payment` to work, coalescing on what its answer depends on; all are closed at the end."""
    made: list[Sharing] = []
    declared = pipeline_of("payment")
    fields = declared.request
    on = [fields.customer_id, fields.terminal_id, fields.amount]  # type: ignore[attr-defined]

    def make(*, cost: Cost | None = None, pipeline: Pipeline | None = None, **arguments: Any) -> Sharing:
        coalesce = tr.Coalesce(**({"on": on} | arguments))
        made.append(Sharing(replace(pipeline or declared, coalesce=coalesce), cost=cost))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answers(calls: list[Asked]) -> list[Any]:
    """Return what the calls were answered, without what is each one's own."""
    return [{name: value for name, value in call.json.items() if name != "transaction_id"} for call in calls]


# -- in flight --------------------------------------------------------------------------------------------------------


def test_calls_in_flight_are_computed_once(shares: Shares) -> None:
    """Five that ask the same are one row beside a sixth's, and each answer has its own caller's id."""
    sharing = shares()
    calls = [sharing.ask(payment(number)) for number in range(5)]
    other = sharing.ask(payment(9, amount=7.0))
    assert sharing.engine.calls_waiting == 6
    sharing.turn()
    assert sharing.scored == [2]
    assert [call.json["transaction_id"] for call in calls] == [f"t{number}" for number in range(5)]
    assert answers(calls) == answers(calls[:1]) * 5
    assert other.json["score"] != calls[0].json["score"]
    assert [len(batch.calls) for batch in sharing.recorded] == [2]
    assert [len(batch.calls) for batch in sharing.shared] == [4]
    assert sharing.engine.calls_waiting == 0


def test_call_after_an_answer_is_computed_anew(shares: Shares) -> None:
    """Without a ttl nothing outlives the computation."""
    sharing = shares()
    for number in range(3):
        sharing.ask(payment(number))
        sharing.turn()
    assert sharing.scored == [1, 1, 1]


def test_all_fields_are_compared_unless_some_are_named(shares: Shares) -> None:
    """By default another id is another request."""
    sharing = shares(on=None)
    calls = [sharing.ask(payment(number)) for number in (0, 0, 1)]
    sharing.turn()
    assert sharing.scored == [2]
    assert [call.json["transaction_id"] for call in calls] == ["t0", "t0", "t1"]


def test_equal_arrays_share_and_a_single_request_shares_with_none(shares: Shares) -> None:
    """An array is compared as a whole, and each of its answers has its own request's id."""
    sharing = shares()
    arrays = [[payment(number), payment(number + 1, amount=3.0)] for number in (0, 10)]
    calls = [sharing.ask(each) for each in arrays]
    alone = [sharing.ask([payment(20)]), sharing.ask(payment(30)), sharing.ask([])]
    sharing.turn()
    assert sharing.scored == [4]
    assert [[each["transaction_id"] for each in call.json] for call in calls] == [["t0", "t1"], ["t10", "t11"]]
    assert [call.json for call in alone] == [[alone[0].json[0]], alone[0].json[0] | {"transaction_id": "t30"}, []]


def test_follower_reads_its_own_codec(shares: Shares) -> None:
    """A caller with MessagePack follows one with JSON, and each gets what it reads."""
    sharing = shares()
    packed = sharing.endpoint.speaking(b"application/msgpack", b"", b"")
    leader = sharing.ask(payment(0))
    follower = sharing.ask(None, at=packed, body=msgspec.msgpack.encode(payment(1)))
    sharing.turn()
    assert sharing.scored == [1]
    assert follower.body is not None
    assert msgspec.msgpack.decode(follower.body) == leader.json | {"transaction_id": "t1"}


def test_values_are_compared_with_their_signs_and_zones(shares: Shares) -> None:
    """-0.0 is not 0.0, and one instant in two zones is sent back as it came."""
    sharing = shares(on=None)
    sharing.ask(payment(0, amount=0.0))
    sharing.ask(payment(0, amount=-0.0))
    sharing.ask(payment(0, amount=0.0, time="2026-01-02T04:04:05+01:00"))
    sharing.turn()
    assert sharing.scored == [3]


def test_callers_of_other_scopes_share_nothing(shares: Shares) -> None:
    """Two whose requests are equal and whose scopes are not are computed for each; of one scope they share."""
    sharing = shares(ttl="1s")
    one, other = b"pipelines/payment", b"pipelines/*"
    for scope in (one, other, one, b""):
        sharing.ask(payment(), scope=scope)
    sharing.turn()
    assert sharing.scored == [3]
    sharing.ask(payment(), scope=other)
    sharing.turn()
    assert sharing.scored == [3]


def test_callers_share_where_the_declaration_says_so(shares: Shares) -> None:
    """An answer that does not depend on who asks is everybody's."""
    sharing = shares(across_callers=True)
    calls = [sharing.ask(payment(), scope=scope) for scope in (b"a", b"b")]
    sharing.turn()
    assert sharing.scored == [1]
    assert calls[0].json == calls[1].json


# -- deadlines and faults ---------------------------------------------------------------------------------------------


def test_call_in_a_hurry_does_not_wait_for_another(shares: Shares) -> None:
    """One with less time than the flight is computed by itself; those that come later follow the flight."""
    sharing = shares()
    calls = [sharing.ask(payment(number), budget_ms=budget_ms) for number, budget_ms in enumerate((50, 10, 50, 60))]
    sharing.turn()
    assert sharing.scored == [2]
    assert [[call.requests.transaction_id for call in batch.calls] for batch in sharing.shared] == [["t2", "t3"]]
    assert sharing.shared[0].deadline_ns == calls[2].deadline_ns
    late = [sharing.ask(payment(), budget_ms=budget_ms) for budget_ms in (50, 10, 50)]
    sharing.clock.advance(20)
    sharing.turn()
    assert [type(call.error) for call in late] == [type(None), ShedError, type(None)]
    assert sharing.scored == [2, 1]


def test_follower_takes_the_place_of_a_leader_that_is_shed(shares: Shares) -> None:
    """The leader's time is over before its batch begins; who has more is answered, who has not is refused."""
    sharing = shares(cost=COST)
    hurried = [sharing.ask(payment(number), budget_ms=10) for number in range(2)]
    patient = [sharing.ask(payment(number), budget_ms=50) for number in (2, 3)]
    sharing.clock.advance(20)
    sharing.turn()
    assert [type(call.error) for call in hurried] == [ShedError, ShedError]
    assert [call.json["transaction_id"] for call in patient] == ["t2", "t3"]
    assert sharing.scored == [1]
    assert sharing.sheds == ["expired", "expired"]
    assert sharing.engine.admission.rows_waiting == 0


def test_followers_without_time_are_shed_with_their_leader(shares: Shares) -> None:
    """Each is refused and counted once, and the flight is gone."""
    sharing = shares(cost=COST)
    calls = [sharing.ask(payment(number)) for number in range(3)]
    sharing.clock.advance(60)
    sharing.turn()
    assert [type(call.error) for call in calls] == [ShedError] * 3
    assert sharing.sheds == ["expired"] * 3
    sharing.ask(payment())
    sharing.turn()
    assert sharing.scored == [1]


def test_no_follower_waits_for_longer_than_it_has(shares: Shares) -> None:
    """Where a follower leads it is the one with the least time; when that is over too, the next one leads."""
    sharing = shares(cost=COST)
    calls = [sharing.ask(payment(number), budget_ms=budget_ms) for number, budget_ms in enumerate((10, 20, 50))]
    sharing.clock.advance(15)
    sharing.turns.turn()
    assert type(calls[0].error) is ShedError
    sharing.clock.advance(10)
    sharing.turn()
    assert type(calls[1].error) is ShedError
    assert calls[2].json["transaction_id"] == "t2"
    assert (sharing.scored, sharing.sheds) == ([1], ["expired"] * 2)


def test_follower_that_would_lead_needs_admission(shares: Shares) -> None:
    """Where the leader is shed, and too much waits by then, the others are refused as any new call is."""
    sharing = shares(cost=COST)
    sharing.ask(payment(0), budget_ms=10)
    followers = [sharing.ask(payment(number)) for number in (1, 2)]
    sharing.clock.advance(20)
    sharing.engine.admission.rows_waiting += 10_000
    sharing.turn()
    sharing.engine.admission.rows_waiting -= 10_000
    assert [type(call.error) for call in followers] == [ShedError] * 2
    assert sharing.sheds == ["expired"] * 3
    assert sharing.scored == []


def test_error_of_a_leader_is_not_shared(shares: Shares) -> None:
    """What fails once may be the leader's own bad luck: a follower is computed for the others."""
    sharing = shares()

    def fail_once(batch: Batch) -> None:
        if len(sharing.scored) == 1:
            raise ValueError("once")

    sharing.inference.act = fail_once
    calls = [sharing.ask(payment(number)) for number in range(3)]
    with capture_logs():
        sharing.turn()
    assert type(calls[0].error) is ServerError
    assert [call.json["transaction_id"] for call in calls[1:]] == ["t1", "t2"]
    assert sharing.scored == [1, 1]


def test_line_of_the_log_says_whose_call_failed(shares: Shares) -> None:
    """A flight is the engine's call, and comes from where its leader does."""
    sharing = shares()
    with capture_logs() as told:
        sharing.ask(payment(amount=6666.0), scope=b"r-1")
        sharing.turn()
    assert [each.get("request_id") for each in told if each["event"] == "calls failed"] == ["r-1"]


def test_error_that_comes_again_is_shared(shares: Shares) -> None:
    """A request that fails twice fails for all who ask it: not once for each of them."""
    sharing = shares(ttl="1s")
    with capture_logs():
        calls = [sharing.ask(payment(number, amount=6666.0)) for number in range(20)]
        sharing.turn()
        assert [type(call.error) for call in calls] == [ServerError] * 20
        assert len(sharing.recorded) == 2
        assert len(sharing.shared[0].errors) == 18
        sharing.ask(payment(amount=6666.0))  # and nothing of it is kept
        sharing.turn()
    assert len(sharing.recorded) == 3


def test_codec_that_cannot_write_an_answer_fails_its_caller_alone(shares: Shares) -> None:
    """The others that share the answer get it."""

    class Broken(JsonEncoder):
        content_type = b"text/broken"

        def __init__(self) -> None:
            """Have no encoder."""

        def encode(self, value: Any) -> bytes:
            """Raise."""
            raise OverflowError("it does not fit")

    sharing = shares()
    calls = [sharing.ask(payment(number)) for number in range(3)]
    calls[1].codec = Broken()
    with capture_logs() as lines:
        sharing.turn()
    assert [type(call.error) for call in calls] == [type(None), ServerError, type(None)]
    assert answers([calls[0]]) == answers([calls[2]])
    assert "it does not fit" in lines[0]["error"]


def test_recorder_that_fails_costs_no_answer(shares: Shares) -> None:
    """Those that share are answered all the same, kept ones too, and the fault is logged."""
    sharing = shares(ttl="1s")
    arrays = [[payment(number), payment(number + 1, amount=2.0)] for number in (0, 10)]

    def fail(batch: Batch) -> None:
        assert [request.transaction_id for request in batch.requests] == ["t10", "t11"]
        raise ZeroDivisionError("in counting")

    sharing.act_on_shared = fail
    with capture_logs() as lines:
        for each in (*arrays, arrays[1]):
            call = sharing.ask(each)
            if each is not arrays[0]:
                sharing.turn()
                assert len(call.json) == 2
    assert lines[0]["event"] == "a batch was not recorded"
    assert sharing.scored == [2]


def test_neighbours_of_a_failing_flight_are_answered(shares: Shares) -> None:
    """A fault stays with those that ask for it."""
    sharing = shares()
    with capture_logs():
        bad = [sharing.ask(payment(number, amount=6666.0)) for number in range(2)]
        good = [sharing.ask(payment(number)) for number in range(2)]
        sharing.turn()
    assert [type(call.error) for call in bad] == [ServerError] * 2
    assert answers(good)[0] == answers(good)[1]


@pytest.mark.parametrize(("leader_ms", "scored"), [(10, [1, 1]), (45, [1])])
def test_answer_that_was_late_is_shared_only_with_the_hurried(
    shares: Shares, leader_ms: float, scored: list[int]
) -> None:
    """Who has far more time than the leader had is computed anew; who has as much would have been late as well."""
    sharing = shares(ttl="1s")

    def be_late_once(batch: Batch) -> None:
        if len(sharing.scored) == 1:
            batch.add_degraded(np.full(batch.rows, Degraded.MODEL_TIMEOUT, np.uint8))

    sharing.inference.act = be_late_once
    leader = sharing.ask(payment(0), budget_ms=leader_ms)
    followers = [sharing.ask(payment(number)) for number in (1, 2)]
    sharing.turn()
    assert sharing.scored == scored
    assert leader.batch is not None
    assert leader.batch.degraded is not None
    for follower in followers:
        assert follower.batch is not None
        assert (follower.batch.degraded is None) == (len(scored) == 2)
    sharing.ask(payment())
    sharing.turn()
    assert sum(sharing.scored) == 2, "what was late is not kept, and what was whole is"


def test_deadline_of_a_leader_in_a_hurry_is_not_its_followers(shares: Shares) -> None:
    """An error for lack of time is the leader's alone, where the others have more."""
    sharing = shares()

    def run_out_once(batch: Batch) -> None:
        if len(sharing.scored) == 1:
            batch.failed = np.ones(batch.rows, np.bool_)
            batch.add_degraded(np.full(batch.rows, Degraded.MODEL_TIMEOUT, np.uint8))

    sharing.inference.act = run_out_once
    leader, follower = sharing.ask(payment(0), budget_ms=10), sharing.ask(payment(1))
    sharing.turn()
    assert type(leader.error) is DeadlineExceededError
    assert follower.json["transaction_id"] == "t1"


def test_flight_whose_answer_is_lost_holds_nobody(shares: Shares) -> None:
    """Past its deadline nobody joins it; what asks the same is computed, and the flight is let go of."""
    sharing = shares(cost=COST)
    coalescing = sharing.engine.coalescing
    assert coalescing is not None
    sharing.ask(payment(0))
    lost = sharing.engine._inbox.pop()
    sharing.clock.advance(51)
    later = sharing.ask(payment(1))
    sharing.turn()
    assert later.json["transaction_id"] == "t1"
    sharing.ask(payment(2, amount=2.0))
    sharing.engine._inbox.pop()
    sharing.ask(payment(3, amount=2.0))
    assert coalescing.calls_following == 1
    sharing.clock.advance(1_051)
    coalescing.forget(sharing.clock.now_ns())
    assert coalescing.calls_following == 0
    assert lost.transport is coalescing


# -- kept -------------------------------------------------------------------------------------------------------------


def test_answer_is_kept_for_the_ttl(shares: Shares) -> None:
    """For a second it answers in the next turn, with the caller's own id; then it is computed anew."""
    sharing = shares(ttl="1s")
    first = sharing.ask(payment(0))
    sharing.turn()
    sharing.clock.advance(999)
    later = sharing.ask(payment(1))
    assert (later.body, later.error) == (None, None)
    sharing.turn()
    assert later.json == first.json | {"transaction_id": "t1"}
    assert later.batch is not None
    assert later.batch.coalesced == "kept"
    assert sharing.scored == [1]
    sharing.clock.advance(1)
    sharing.ask(payment(2))
    sharing.turn()
    assert sharing.scored == [1, 1]


def test_answer_is_as_old_as_what_it_was_computed_from(shares: Shares) -> None:
    """Its time runs from when its batch began, not from its end."""
    sharing = shares(ttl="10ms")
    sharing.inference.act = lambda batch: sharing.clock.advance(9)
    sharing.ask(payment(0))
    sharing.turn()
    sharing.clock.advance(1)
    sharing.ask(payment(1))
    sharing.turn()
    assert sharing.scored == [1, 1]


def test_kept_answer_needs_no_admission(shares: Shares) -> None:
    """Under overload what is known is told, and what is under way is shared; all else is refused."""
    sharing = shares(ttl="1s", cost=COST)
    sharing.ask(payment(0))
    sharing.turn()
    asked = sharing.ask(payment(1, amount=2.0))
    sharing.engine.admission.rows_waiting += 1_000_000
    known, following, new = (
        sharing.ask(payment(number, amount=amount)) for number, amount in ((2, 100.0), (3, 2.0), (4, 3.0))
    )
    assert type(new.error) is ShedError
    sharing.engine.admission.rows_waiting -= 1_000_000
    sharing.turn()
    assert [call.json["transaction_id"] for call in (asked, known, following)] == ["t1", "t2", "t3"]


def test_kept_answers_are_bounded(shares: Shares) -> None:
    """The oldest go for the newest; what is too old is let go of."""
    sharing = shares(ttl="1s", answers_max=3)
    for number in range(5):
        sharing.ask(payment(amount=float(number)))
        sharing.turn()
    coalescing = sharing.engine.coalescing
    assert coalescing is not None
    assert coalescing.kept is not None
    assert len(coalescing.kept) == 3
    for amount in (2.0, 4.0, 1.0):
        sharing.ask(payment(amount=amount))
        sharing.turn()
    assert len(sharing.scored) == 6
    coalescing.kept.forget(sharing.clock.now_ns() + 10**9)
    assert (len(coalescing.kept), coalescing.kept.bytes) == (0, 0)


# -- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 2], ids=["leader", "followers"])
def test_each_request_that_is_an_event_is_counted(pipeline_of: PipelineOf, lost: int) -> None:
    """Requests that share an answer are recorded all the same, and each is told when it was not counted itself."""
    pipeline = replace(pipeline_of("activity"), coalesce=tr.Coalesce())
    recorded: list[int] = []

    class Noting(LocalEvents):
        async def record(self, requests: Any, deadline_ns: int) -> Any:
            recorded.append(len(requests))
            return np.array([len(recorded) == lost] * len(requests))

    sharing = Sharing(pipeline, events=Noting(pipeline, MemoryWriter({}), ManualClock()))
    try:
        ids = {"transaction_id": 1, "customer_id": 1, "terminal_id": 1}
        calls = [sharing.ask(ids | {"amount": 5.0, "time": "2025-01-02T03:04:05Z"}) for _ in range(3)]
        sharing.turn()
        assert sharing.scored == [1]
        assert recorded == [1, 2]
        assert calls[1].json == calls[2].json == calls[0].json
        for call, number in zip(calls, (1, 2, 2), strict=True):
            assert call.batch is not None
            degraded = call.batch.degraded
            assert (degraded is not None and degraded[-1] == Degraded.EVENT_LOST) == (number == lost)
    finally:
        sharing.close()


# -- as without -------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"), st.integers(1, 3), st.sampled_from([5.0, 100.0, -0.0, 6666.0]), st.sampled_from([5, 20, 50])
        ),
        st.tuples(st.just("turn"), st.integers(0, 30), st.just(0.0), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.sampled_from([None, "15ms"]))
def test_answers_are_as_without(shares: Shares, steps: list[Any], ttl: str | None) -> None:
    """Whatever is asked and when, each call is answered once, and as it would be alone."""
    sharing, alone = shares(ttl=ttl), shares(on=None)
    calls: list[tuple[Asked, dict[str, Any]]] = []
    with capture_logs():
        for number, (kind, customer, amount, budget_ms) in enumerate(steps):
            if kind == "turn":
                sharing.clock.advance(customer)
                sharing.turn()
            else:
                request = payment(number, customer_id=customer, amount=amount)
                calls.append((sharing.ask(request, budget_ms=budget_ms), request))
        sharing.turn()
        for call, request in calls:
            if call.error is None or type(call.error) is ServerError:
                expected = alone.ask(request)
                alone.turn()
                assert (call.body, type(call.error)) == (expected.body, type(expected.error))
            else:
                assert type(call.error) is ShedError


def test_repetition_saves_what_it_predicts(shares: Shares) -> None:
    """Of Zipf's repetitions within a second, all that a kept answer covers are saved: a third of the rows here."""
    sharing = shares(ttl="1s")
    random = np.random.default_rng(7)
    users = np.minimum(random.zipf(1.3, 2_000), 500)
    gaps_ms = random.exponential(4.0, 2_000)
    known_until: dict[int, float] = {}
    predicted, now_ms = 0, 0.0
    for user, gap_ms in zip(users.tolist(), gaps_ms.tolist(), strict=True):
        sharing.clock.advance(gap_ms)
        now_ms = sharing.clock.now_ns() / NS_PER_MS
        sharing.ask(payment(customer_id=user))
        sharing.turn()
        if known_until.get(user, 0.0) > now_ms:
            predicted += 1
        else:
            known_until[user] = now_ms + 1_000
    assert predicted / 2_000 > 0.2
    assert sum(sharing.scored) == 2_000 - predicted
    assert sum(len(batch.calls) for batch in sharing.shared) == predicted
