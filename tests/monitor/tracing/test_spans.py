"""Which calls are traced, and what their spans say: of predictions as the observer has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tailrace.batch import Degraded, Provenance, RemoteAsked
from tailrace.monitor.predictions import CallFacts, Predictions
from tailrace.monitor.tracing.ids import child_id_of, is_sampled, trace_id_of
from tailrace.monitor.tracing.sampling import (
    BAD_PER_S_MAX,
    LATE_CALLS_MIN,
    SAMPLED_PER_S_MAX,
    Allowance,
    Kept,
    TailSampler,
)
from tailrace.monitor.tracing.spans import CLIENT, INTERNAL, SERVER, Span, carrier_of, ids_of, spans_of
from tailrace.monitor.tracing.traced import traced
from tailrace.testing import ManualClock

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ASKED = f"00-{TRACE}-00f067aa0ba902b7-01".encode()
UNASKED = f"00-{TRACE}-00f067aa0ba902b7-00".encode()
MS = 1_000_000
ROUTE = "POST /v1/pipelines/fraud/predict"


def served(
    calls: int = 3, *, whole_ms: float = 2.0, parents: dict[int, bytes] | None = None,
    degraded: dict[int, int] | None = None, errors: dict[int, str] | None = None, requests: int = 1,
    route: str = ROUTE, layers_ns: int = 100_000,
) -> tuple[Predictions, CallFacts]:  # fmt: skip
    """Return predictions of some calls in one batch, each of so many requests of one row, and what is known of them."""
    count = calls * requests
    of_call = np.repeat(np.arange(calls), requests)
    bits = np.array([(degraded or {}).get(call, 0) for call in of_call.tolist()], np.uint8)
    facts = CallFacts(
        request_call=of_call, batch=np.zeros(calls, np.int64), arrivals_ns=np.arange(calls), routes=[route] * calls,
        parents=[(parents or {}).get(call, b"") for call in range(calls)], states=[b"a=1"] * calls,
    )  # fmt: skip
    found = Predictions(
        pipeline="fraud", release="r1", slot=0, requests=[b"{}"] * count,
        request_ids=[f"id-{call}" for call in of_call.tolist()], traces=[""] * count, clients=["10.0.0.1"] * count,
        errors=[(errors or {}).get(call, "") for call in of_call.tolist()],
        answered_ns=np.full(count, 10**18), waits_ns=np.full(count, MS), whole_ns=np.full(count, round(whole_ms * MS)),
        layers_ns=np.full((count, 5), layers_ns), row_request=None, features={},
        provenance={"Profile": np.full(count, Provenance.STALE, np.uint8)}, event_ns={}, scores=np.zeros(count),
        decisions=np.zeros(count, np.int64), labels=("allow", "block"), reasons=None, degraded=bits,
        failed=np.array([(errors or {}).get(call, "") != "" for call in of_call.tolist()]), calls=facts,
    )  # fmt: skip
    return found, facts


def sampler(share: float = 0.0, clock: ManualClock | None = None) -> TailSampler:
    """Return what chooses calls of a pipeline that has 50 ms."""
    return TailSampler(share, {"fraud": 50 * MS}, (clock or ManualClock()).now_ns)


def chosen(found: tuple[Predictions, CallFacts], share: float = 0.0) -> dict[int, tuple[str, ...]]:
    """Return why calls are traced."""
    kept, beyond = sampler(share).choose(*found)
    assert not beyond
    return {each.call: each.reasons for each in kept}


def spans(found: tuple[Predictions, CallFacts], call: int = 0, request: int = 0) -> list[Span]:
    """Return the spans of one call."""
    ids = ids_of(found[0].request_ids[request], found[1].parents[call], int(found[1].arrivals_ns[call]))
    return spans_of(*found, Kept(call, request, ("rate",)), ids, None)


def test_caller_says_whether_a_call_is_traced() -> None:
    """One that is told not to be is not by the rate either; one of which nothing is told is, by its share."""
    assert chosen(served(parents={0: ASKED, 1: UNASKED})) == {0: ("caller",)}
    assert chosen(served(parents={0: ASKED, 1: UNASKED}), share=1.0) == {0: ("caller",), 2: ("rate",)}


def test_rate_is_of_all_requests_and_the_same_for_the_same() -> None:
    """A retry of a request is traced where the first was."""
    kept = [is_sampled(f"id-{place}", b"", 0.1) for place in range(10_000)]
    assert 900 < sum(kept) < 1_100
    assert kept == [is_sampled(f"id-{place}", b"", 0.1) for place in range(10_000)]


def test_what_ended_badly_is_traced_whatever_the_rate() -> None:
    """Slow, degraded and failed calls, also of callers that asked for no trace; with all reasons."""
    assert chosen(served(whole_ms=26, calls=1)) == {0: ("slow",)}
    assert chosen(served(whole_ms=24, calls=1)) == {}
    found = served(degraded={1: 1}, errors={2: "unavailable"}, parents={0: ASKED, 1: UNASKED})
    assert chosen(found) == {0: ("caller",), 1: ("degraded",), 2: ("failed",)}


def test_slowest_hundredth_of_late_is_slow() -> None:
    """Once there are enough calls to say what that is."""
    choose = sampler().choose
    usual = served(calls=LATE_CALLS_MIN, whole_ms=2.0)
    assert choose(*usual)[0] == []
    assert choose(*served(calls=1, whole_ms=3.0))[0] == [Kept(0, 0, ("slow",))]
    assert choose(*served(calls=1, whole_ms=2.0))[0] == []


def test_pipeline_that_is_not_known_has_no_slow_calls() -> None:
    """Of a release that began later, say; the rest is as for others."""
    kept, _ = TailSampler(0.0, {}, ManualClock().now_ns).choose(*served(whole_ms=49, degraded={0: 1}))
    assert [each.reasons for each in kept] == [("degraded",)]


def test_calls_that_are_traced_are_so_many_a_second() -> None:
    """A server of which all is degraded traces some of it, and tells how many it did not."""
    clock = ManualClock()
    choose = sampler(1.0, clock).choose
    many = BAD_PER_S_MAX + SAMPLED_PER_S_MAX + 50
    kept, beyond = choose(*served(calls=many, degraded=dict.fromkeys(range(many), 1)))
    assert (len(kept), beyond) == (many - 50, 50)
    assert choose(*served(calls=1)) == ([], 1)
    clock.advance(1_000)
    assert len(choose(*served(calls=1))[0]) == 1


def test_allowance_grows_with_time_up_to_a_second_of_it() -> None:
    """Never beyond, however long nobody asked."""
    clock = ManualClock()
    allowance = Allowance(4, clock.now_ns)
    clock.advance(3_600_000)
    assert [allowance.take() for _ in range(5)] == [True] * 4 + [False]
    clock.advance(250)
    assert [allowance.take(), allowance.take()] == [True, False]


def test_call_has_a_span_with_its_wait_and_layers_below() -> None:
    """One behind the other, from the arrival on, as they were measured."""
    own, *parts = spans(served())
    assert (own.name, own.kind, own.start_ns, own.end_ns) == (ROUTE, SERVER, 10**18 - 2 * MS, 10**18)
    assert [part.name for part in parts] == ["queue", "request", "features", "inference", "postprocess", "response"]
    assert [(part.kind, part.parent_id, part.trace_id) for part in parts] == [(INTERNAL, own.span_id, own.trace_id)] * 6
    assert [part.start_ns for part in parts] == [own.start_ns, *(part.end_ns for part in parts[:-1])]
    assert parts[0].end_ns - own.start_ns == MS
    assert parts[-1].end_ns <= own.end_ns
    assert len({own.span_id, *(part.span_id for part in parts)}) == 7
    assert parts[2].attributes["tailrace.view.Profile"] == "stale"


def test_span_says_what_was_asked_and_what_came_of_it() -> None:
    """By the semantic conventions where these have a name."""
    own = spans(served(calls=2, requests=3, degraded={0: int(Degraded.STORE_TIMEOUT)}))[0]
    assert own.attributes == {
        "http.request.method": "POST", "url.path": "/v1/pipelines/fraud/predict",
        "http.route": "/v1/pipelines/fraud/predict", "http.response.status_code": 200,
        "tailrace.pipeline": "fraud", "tailrace.release": "r1", "tailrace.kept": ["rate"], "tailrace.rows": 3,
        "tailrace.batch.calls": 2, "tailrace.request_id": "id-0", "client.address": "10.0.0.1",
        "tailrace.decision": ["allow"] * 3, "tailrace.degraded": ["store_timeout"],
    }  # fmt: skip


def test_remote_models_are_below_the_inference_layer_as_they_were_asked() -> None:
    """With their own times; one that left rows without a score is an error."""
    found, facts = served()
    facts.remote[0] = [RemoteAsked("far", 10**18, 10**18 + MS, True), RemoteAsked("near", 10**18, 10**18 + 5, False)]
    parts = {span.name: span for span in spans((found, facts))}
    far, near = parts["infer far"], parts["infer near"]
    ids = ids_of("id-0", b"", 0)
    assert (far.kind, far.span_id, far.parent_id) == (CLIENT, ids.remote("far"), parts["inference"].span_id)
    assert (far.start_ns, far.end_ns, far.error) == (10**18, 10**18 + MS, "")
    assert near.error == "rows without a score"


def test_array_of_requests_is_one_call_with_one_span() -> None:
    """However many requests it has."""
    assert sorted(chosen(served(calls=2, requests=5), share=1.0)) == [0, 1]


def test_failed_call_is_an_error_where_the_server_is_at_fault() -> None:
    """With the kind of the error and its status; a caller's fault is none of the server's."""
    own = spans(served(errors={0: "unavailable"}))[0]
    told = own.attributes
    assert (own.error, told["error.type"], told["http.response.status_code"]) == ("unavailable", "unavailable", 503)
    assert "tailrace.decision" not in told
    theirs = spans(served(errors={0: "invalid-request"}))[0]
    assert (theirs.error, theirs.attributes["http.response.status_code"]) == ("", 422)
    assert spans(served(errors={0: "what-is-this"}))[0].attributes["http.response.status_code"] == 500


def test_layers_that_were_not_measured_have_no_spans() -> None:
    """Of a call whose batch broke off nothing is known but its wait."""
    assert [each.name for each in spans(served(errors={0: "unavailable"}, layers_ns=0))] == [ROUTE, "queue"]


@pytest.mark.parametrize(
    ("route", "name", "told"),
    [
        ("/tailrace.fraud.Fraud/Predict", "tailrace.fraud.Fraud/Predict",
         {"rpc.system": "grpc", "rpc.service": "tailrace.fraud.Fraud", "rpc.method": "Predict"}),
        ("", "predict fraud", {}),
    ],
)  # fmt: skip
def test_span_is_named_by_its_protocol(route: str, name: str, told: dict[str, Any]) -> None:
    """A gRPC call by its method; one that nobody waits for, by its pipeline."""
    own = spans(served(route=route))[0]
    assert own.name == name
    assert own.attributes.items() >= told.items()
    assert not any(each.startswith("http.") for each in own.attributes)


def test_caller_s_trace_is_gone_on_with() -> None:
    """Its span is the parent, its state and flags stay."""
    own, *parts = spans(served(parents={0: ASKED}))
    assert (own.trace_id.hex(), own.parent_id.hex(), own.state, own.flags) == (TRACE, "00f067aa0ba902b7", "a=1", 1)
    assert own.is_remote
    assert not parts[0].is_remote


def test_request_without_a_trace_begins_one_that_its_id_tells() -> None:
    """Whoever knows the id finds the trace; without an id it is any."""
    own = spans(served())[0]
    assert (own.trace_id, own.parent_id) == (trace_id_of("id-0"), b"")
    assert trace_id_of("") != trace_id_of("")
    assert [len(trace_id_of(each)) for each in ("", "id")] == [16, 16]


def test_spans_of_calls_that_are_told_alike_differ() -> None:
    """A caller may ask twice with the same headers: the arrival tells them apart."""
    first, again, other = (ids_of("id", ASKED, arrival_ns) for arrival_ns in (5, 5, 6))
    assert first == again
    assert first.span != other.span


def test_remote_calls_of_a_batch_are_part_of_its_first_sampled_call() -> None:
    """Of none that is sampled the first of which something is told; nobody's where nothing is."""
    assert carrier_of([("", b""), ("a", UNASKED), ("b", ASKED), ("c", ASKED)], 0.0) == 2
    assert carrier_of([("", b""), ("a", UNASKED), ("b", b"")], 0.0) == 1
    assert carrier_of([("", b"")], 1.0) == -1
    found, facts = served()
    carrier = ids_of("id-1", b"", 1)
    linked = spans_of(found, facts, Kept(0, 0, ("rate",)), ids_of("id-0", b"", 0), carrier)
    links = {span.name: span.links for span in linked if span.links}
    assert links == {"inference": ((carrier.trace, child_id_of(carrier.span, "inference")),)}
    own = spans_of(found, facts, Kept(1, 1, ("rate",)), carrier, carrier)
    assert not any(span.links for span in own)


def test_calls_of_a_batch_link_to_the_one_that_its_remote_calls_are_part_of() -> None:
    """The first that is sampled, where it is traced; each batch has its own."""
    found, facts = served(calls=4, parents={0: UNASKED, 1: ASKED, 2: ASKED, 3: ASKED})
    facts.batch[3] = 1
    kept, _ = sampler().choose(found, facts)
    linked = [spans[4].links for spans in traced(found, facts, kept, 0.0)]
    carrier = ids_of("id-1", ASKED, 1)
    assert linked == [(), ((carrier.trace, carrier.inference),), ()]
    (lone,) = traced(found, facts, [kept[1]], 0.0)
    assert not any(span.links for span in lone)
