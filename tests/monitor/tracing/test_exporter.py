"""Spans on their way: what an endpoint may answer, and what becomes of them where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("opentelemetry.proto")

from otlp_receiver import OtlpReceiver, receiving
from tailrace.errors import SetupError
from tailrace.monitor.tracing import exporter as exporters
from tailrace.monitor.tracing.endpoint import TraceEndpoint, read_headers
from tailrace.monitor.tracing.exporter import CAUSE_CHARACTERS_MAX, TRIES_MAX, CallSpans, SpanExporter, asked_s
from tailrace.monitor.tracing.spans import SERVER, Span

PATIENCE_S = 10.0
RESOURCE = {"service.name": "shop", "service.version": "r1"}


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Yield what takes traces."""
    with receiving() as found:
        yield found


@pytest.fixture
def exporter(receiver: OtlpReceiver) -> Iterator[SpanExporter]:
    """Yield what sends to it, with no patience."""
    found = SpanExporter(
        TraceEndpoint.of(receiver.url, "x-key=a%20secret"), gather_s=0.01, timeout_s=0.2, back_off_s=0.01
    )
    yield found
    found.close(PATIENCE_S)


def spans(count: int) -> CallSpans:
    """Return some spans of a call."""
    made = [
        Span(
            name="POST /v1", kind=SERVER, trace_id=bytes([1] * 16), span_id=place.to_bytes(8), parent_id=b"",
            start_ns=5, end_ns=7, attributes={"tailrace.rows": 3, "tailrace.kept": ["slow"]}, error="timeout",
            links=((bytes([2] * 16), bytes([3] * 8)),), is_remote=True, flags=1, state="a=1",
        )
        for place in range(1, count + 1)
    ]  # fmt: skip
    return CallSpans(RESOURCE, made)


def wait_for(check: Callable[[], Any]) -> None:
    """Wait until something holds."""
    end_s = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_spans_are_sent_as_the_protocol_has_them(receiver: OtlpReceiver, exporter: SpanExporter) -> None:
    """Compressed, with the headers that were asked for, to the standard's path; each with all that it says."""
    exporter.put(spans(1))
    wait_for(lambda: exporter.outcomes["exported"] == 1)
    (found,) = receiver.spans
    assert found == {
        "name": "POST /v1", "kind": 2, "trace": "01" * 16, "span": "00" * 7 + "01", "parent": "", "state": "a=1",
        "flags": 0x301, "start": 5, "end": 7, "status": 2, "message": "timeout",
        "links": [("02" * 16, "03" * 8)], "resource": RESOURCE, "tailrace.rows": 3, "tailrace.kept": ["slow"],
    }  # fmt: skip
    assert receiver.paths == ["/v1/traces"]
    (headers,) = receiver.headers
    assert headers["content-type"] == "application/x-protobuf"
    assert (headers["content-encoding"], headers["x-key"]) == ("gzip", "a secret")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_endpoint_that_is_busy_is_asked_again(receiver: OtlpReceiver, exporter: SpanExporter, status: int) -> None:
    """Spans come once, however often they were sent."""
    receiver.answers = [(status, {"Retry-After": "0"})] * 2
    exporter.put(spans(3))
    wait_for(lambda: exporter.outcomes["exported"] == 3)
    assert len(receiver.paths) == 3
    assert len(receiver.spans) == 3


def test_endpoint_that_asks_for_no_time_that_can_be_told_is_asked_again(
    receiver: OtlpReceiver, exporter: SpanExporter
) -> None:
    """A digit that is no number's had ended the thread, and with it all that came."""
    receiver.answers = [(503, {"Retry-After": "²"})]
    exporter.put(spans(1))
    wait_for(lambda: exporter.outcomes["exported"] == 1)


def test_name_that_no_host_can_have_loses_spans_and_no_thread() -> None:
    """Those that come later are counted too."""
    exporter = SpanExporter(TraceEndpoint.of(f"http://{'a' * 64}.example"), gather_s=0.01, back_off_s=0.001)
    for lost in (1, 2):
        exporter.put(spans(1))
        wait_for(lambda lost=lost: exporter.outcomes["failed"] == lost)
    exporter.close(PATIENCE_S)


def test_cause_is_told_as_far_as_a_person_reads(receiver: OtlpReceiver, exporter: SpanExporter) -> None:
    """It is in the status, once a second."""
    receiver.rejected, receiver.cause = 1, "no room " * 1_000
    exporter.put(spans(1))
    wait_for(lambda: exporter.outcomes["rejected"] == 1)
    assert exporter.fault == receiver.cause[:CAUSE_CHARACTERS_MAX]


def test_endpoint_that_asks_for_time_has_it(receiver: OtlpReceiver, exporter: SpanExporter) -> None:
    """Retry-After is heeded, beyond the back-off of its own."""
    receiver.answers = [(503, {"Retry-After": "1"})]
    began_s = time.monotonic()
    exporter.put(spans(1))
    wait_for(lambda: exporter.outcomes["exported"])
    assert time.monotonic() - began_s >= 1


def test_time_asked_for_is_read_as_seconds_and_as_a_date() -> None:
    """Whatever else stands there asks for nothing."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert asked_s("7") == 7
    assert asked_s("Thu, 01 Jan 2026 00:00:09 GMT", lambda: now) == 9
    assert [asked_s(each, lambda: now) for each in (None, "", "soon", "-3", "Wed, 31 Dec 2025 00:00:00 GMT")] == [0] * 5


def test_endpoint_that_refuses_is_not_asked_again(receiver: OtlpReceiver, exporter: SpanExporter) -> None:
    """A wrong token stays wrong; what comes later is sent all the same."""
    receiver.answers = [(401, {})]
    exporter.put(spans(2))
    wait_for(lambda: exporter.outcomes["failed"] == 2)
    assert exporter.fault == "it answers 401"
    exporter.put(spans(1))
    wait_for(lambda: exporter.outcomes["exported"] == 1)
    assert exporter.fault == ""
    assert len(receiver.paths) == 2


def test_spans_that_are_refused_of_many_are_counted(receiver: OtlpReceiver, exporter: SpanExporter) -> None:
    """A partial success is none of the rest, and is not sent again."""
    receiver.rejected = 2
    exporter.put(spans(5))
    wait_for(lambda: exporter.outcomes["exported"] == 3)
    assert (exporter.outcomes["rejected"], exporter.fault) == (2, "no room")
    assert len(receiver.paths) == 1


def test_slow_endpoint_is_given_up_and_then_made_up_for(receiver: OtlpReceiver, exporter: SpanExporter) -> None:
    """One that does not answer in time has the spans once more when it does."""
    receiver.delay_s = 0.3
    exporter.put(spans(1))
    wait_for(lambda: "timed out" in exporter.fault)
    receiver.delay_s = 0.0
    wait_for(lambda: exporter.outcomes["exported"] == 1)


def test_endpoint_that_is_gone_costs_its_spans_alone() -> None:
    """They are tried so often and counted; to hand others over takes no time meanwhile."""
    exporter = SpanExporter(TraceEndpoint.of("http://127.0.0.1:9"), gather_s=0.01, back_off_s=0.001)
    began_s = time.monotonic()
    exporter.put(spans(4))
    assert time.monotonic() - began_s < 0.5
    wait_for(lambda: exporter.outcomes["failed"] == 4)
    assert "refused" in exporter.fault
    exporter.close(PATIENCE_S)
    assert exporter.waiting == 0


def test_spans_that_wait_are_so_many_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are dropped, and counted, while nobody takes any."""
    monkeypatch.setattr(exporters, "SPANS_MAX", 20)
    exporter = SpanExporter(TraceEndpoint.of("http://127.0.0.1:9"), gather_s=60.0)
    for _ in range(9):
        exporter.put(spans(4))
    assert (exporter.waiting, exporter.outcomes["dropped"]) == (20, 16)
    exporter.close(0.2)
    assert sum(exporter.outcomes.values()) == 36
    assert exporter.waiting == 0


def test_what_waits_at_the_end_is_sent(receiver: OtlpReceiver) -> None:
    """A server that stops takes the time for it, and no more."""
    exporter = SpanExporter(TraceEndpoint.of(receiver.url), gather_s=60.0)
    exporter.put(spans(6))
    exporter.close(PATIENCE_S)
    assert len(receiver.spans) == exporter.outcomes["exported"] == 6
    assert TRIES_MAX > 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://collector:4318", (False, "collector", 4318, "/v1/traces")),
        ("https://traces.example/", (True, "traces.example", 443, "/v1/traces")),
        ("http://[::1]:80/otlp", (False, "::1", 80, "/otlp/v1/traces")),
        ("https://traces.example/v1/traces", (True, "traces.example", 443, "/v1/traces")),
    ],
)
def test_address_is_read_as_the_standard_has_it(url: str, shown: tuple[Any, ...]) -> None:
    """The path of traces is below the base."""
    assert TraceEndpoint.of(url)[:4] == shown


@pytest.mark.parametrize(
    "url", ["", "collector:4318", "grpc://collector:4317", "http://", "http://a:b/", "http://a/?x=1", "http://a/b c"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """At the start, with what to write."""
    with pytest.raises(SetupError, match=r"no address|to be encoded"):
        TraceEndpoint.of(url)


def test_headers_are_read_and_their_values_never_told() -> None:
    """They are secrets, mostly."""
    assert read_headers("a=1, b=x%20y,") == {"a": "1", "b": "x y"}
    for wrong in ("a", "=s3cret", "a b=s3cret", "a=s3cret%0d%0a"):
        with pytest.raises(SetupError) as fault:
            read_headers(wrong)
        assert "s3cret" not in str(fault.value)
