"""The trace of a call: kept from its head to samples, log lines and remote models; anything else is as if not sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from http_server import AMPLE, RunningServer, ample, payment_of, post
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import tailrace as tr
from inference.protocol_server import ProtocolServer
from tailrace.batch import Batch
from tailrace.deadline import MonotonicClock
from tailrace.monitor.sampler import Sampler
from tailrace.monitor.samples import SampleWriter
from tailrace.pipeline import Pipeline
from tailrace.server.trace_context import STATE_BYTES_MAX, trace_of

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{ID}-00f067aa0ba902b7-01"
STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"


class Origins:
    """A recorder that keeps where calls come from."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] = []

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Keep those of a batch."""
        self.found += [call.origin() for call in batch.calls]


@pytest.fixture(scope="module")
def server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve one pipeline, whose heads these tests alone fill."""
    with RunningServer([ample(pipeline_of("log"))]) as server:
        yield server


@pytest.fixture
def origins(server: RunningServer) -> Iterator[list[dict[str, str]]]:
    """Return where the calls of a test come from, as they are answered."""
    recorder, engine = Origins(), server.engines["log"]
    before, engine._recorders = engine._recorders, (*engine._recorders, recorder)
    yield recorder.found
    engine._recorders = before


# -- what is a trace --------------------------------------------------------------------------------------------------

MALFORMED = (
    PARENT.upper(), PARENT[:-1], f"{PARENT}0", f"{PARENT}-00", f"ff{PARENT[2:]}", f"0{PARENT[2:]}",
    PARENT.replace("-", "_"),
    PARENT.replace(ID, "0" * 32), PARENT.replace("00f067aa0ba902b7", "0" * 16), PARENT.replace("4b", "4g"), "", "-",
    f"{PARENT}, {PARENT}", f"{PARENT}\n", f"cc{PARENT[2:]}.what", f"cc{PARENT[2:]}-", f"cc{PARENT[2:]}-a b",
)  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_trace_is_none(text: str) -> None:
    """What the standard has no place for is no trace: zeros, the version ff, capitals, another length."""
    assert trace_of(text.encode(), STATE.encode()) is None


@pytest.mark.parametrize("text", [PARENT, f"cc{PARENT[2:]}", f"cc{PARENT[2:]}-what-the.future/brings"])
def test_trace_is_kept_as_it_came(text: str) -> None:
    """Version 00, and later ones with more behind them."""
    trace = trace_of(text.encode(), STATE.encode())
    assert trace is not None
    assert (trace.parent, trace.state, trace.id) == (text.encode(), STATE.encode(), ID)


@given(st.binary(max_size=70))
def test_whatever_is_sent_is_a_trace_of_plain_letters_or_none(data: bytes) -> None:
    """No bytes come through that could end a header's line, or a log's."""
    trace = trace_of(data, data)
    assert trace is None or (trace.parent.isascii() and trace.parent.decode().isprintable())


@pytest.mark.parametrize("state", ["a" * (STATE_BYTES_MAX + 1), "a=ü", "a=\x07"])
def test_state_that_is_none_is_left_out(state: str) -> None:
    """The trace is handed on without it."""
    trace = trace_of(PARENT.encode(), state.encode())
    assert trace is not None
    assert trace.state == b""


# -- from the head ----------------------------------------------------------------------------------------------------


def trace_number(number: int) -> tuple[str, str]:
    """Return a trace's id, and a traceparent with it."""
    return f"{number + 1:032x}", f"00-{number + 1:032x}-00f067aa0ba902b7-01"


@pytest.mark.parametrize("writes", [1, 2])
@pytest.mark.parametrize("name", ["traceparent", "Traceparent"])
def test_each_call_has_the_trace_of_its_own_head(
    server: RunningServer, origins: list[dict[str, str]], writes: int, name: str
) -> None:
    """A head that is recognised by its form has the trace that it brought, not that of the one that was parsed."""
    with server.connect() as client:
        for number in range(8):
            request = post(payment_of(), f"{name}: {trace_number(number)[1]}", f"X-Request-Id: r-{number}")
            head, end, body = request.partition(b"\r\n\r\n")
            client.send(head + end if writes == 2 else request)
            if writes == 2:
                server.settle()
                client.send(body)
            answer = client.read()
            assert answer.headers["x-request-id"] == f"r-{number}"
            assert "traceparent" not in answer.headers  # the standard has no such header of an answer
    server.settle()
    found = [(each["trace"], each["request_id"]) for each in origins]
    assert found == [(trace_number(number)[0], f"r-{number}") for number in range(8)]


def test_trace_of_one_caller_is_never_anothers(server: RunningServer, origins: list[dict[str, str]]) -> None:
    """Callers whose heads share a form, pipelined and beside each other; one of them sends none, one a blank one."""
    with server.connect() as first, server.connect() as second:
        for number in range(4):
            first.ask(post(payment_of(), f"traceparent: {trace_number(number)[1]}"))
        second.ask(post(payment_of(), f"traceparent: {'x' * 55}"))
        second.ask(post(payment_of(), f"traceparent: {' ' * 55}"))
        second.ask(post(payment_of()))
        many = range(10, 30)
        first.send(b"".join(post(payment_of(), f"traceparent: {trace_number(number)[1]}") for number in many))
        for _ in many:
            first.read()
    server.settle()
    expected = [trace_number(number)[0] for number in range(4)] + ["", "", ""] + [trace_number(n)[0] for n in many]
    assert [each.get("trace", "") for each in origins] == expected


def test_trace_that_comes_twice_is_none(server: RunningServer, origins: list[dict[str, str]]) -> None:
    """Of two, none says which one holds; the call is answered all the same."""
    with server.connect() as client:
        for _ in range(3):
            assert client.ask(post(payment_of(), f"traceparent: {PARENT}", f"traceparent: {PARENT}")).status == 200
    server.settle()
    assert [each.get("trace") for each in origins] == [None] * 3


# -- where it goes ----------------------------------------------------------------------------------------------------


class Row(tr.Request):
    a: float


class Scored(tr.Response):
    score: float


@pytest.fixture
def far() -> Iterator[ProtocolServer]:
    """Yield a server of a remote model."""
    with ProtocolServer(width=1) as found:
        yield found


@pytest.mark.parametrize("coalesce", [None, tr.Coalesce()])
def test_remote_model_is_told_the_trace_of_a_call(far: ProtocolServer, coalesce: tr.Coalesce | None) -> None:
    """Both headers go on unchanged with a batch of one call, and none with a call that has none, or a wrong one."""
    pipeline = tr.Pipeline(
        name="far", request=Row, response=Scored, features=[Row.a], budget=AMPLE,
        model=tr.RemoteModel("fraud", url=far.url()), coalesce=coalesce,
    )  # fmt: skip
    path = "/v1/pipelines/far/predict"
    with RunningServer([pipeline]) as server, server.connect() as client:
        asked = len(far.requests)
        for headers in ((f"traceparent: {PARENT}", f"tracestate: {STATE}"), (f"traceparent: {PARENT}",), (),
                        (f"traceparent: {PARENT[:-1]}", f"tracestate: {STATE}"), (f"tracestate: {STATE}",),
                        (f"traceparent: {PARENT}", "tracestate: a=1", "tracestate: b=2")):  # fmt: skip
            assert client.ask(post('{"a": 0.5}', *headers, path=path)).json == {"score": 0.5}
        told = [(each.headers.get("traceparent"), each.headers.get("tracestate")) for each in far.requests[asked:]]
        assert told == [(PARENT, STATE), (PARENT, None), (None, None), (None, None), (None, None), (PARENT, "a=1, b=2")]
        server.hold(
            lambda: client.send(b"".join(post('{"a": 0.5}', f"traceparent: {PARENT}", path=path) for _ in "ab"))
        )
        assert [client.read().status for _ in "ab"] == [200, 200]
        assert "traceparent" not in far.requests[-1].headers  # of a batch of two calls it is nobody's


def test_sample_says_where_a_call_comes_from(
    pipeline_of: Callable[[str], Pipeline], server: RunningServer, tmp_path: Path
) -> None:
    """Request id, trace and client stand beside a sampled request; each request of an array has its call's."""
    writer = SampleWriter(tmp_path / "sample", structlog.get_logger())
    engine = server.engines["log"]
    before = engine._recorders
    try:
        with server.connect() as client:
            for body in (payment_of(2.0), f"[{payment_of(3.0)}, {payment_of(4.0)}]"):
                engine._recorders = (*before, Sampler(pipeline_of("log"), "r1", writer, MonotonicClock()))
                client.ask(post(body, f"traceparent: {PARENT}", "X-Request-Id: r-7"))
                server.settle()  # an answer is recorded after it is sent
    finally:
        engine._recorders = before
        writer.close()
    lines: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "sample").read_text().splitlines()]
    assert [line["request"]["amount"] for line in lines] == [2.0, 3.0, 4.0]
    assert {(line["trace"], line["request_id"], line["client"]) for line in lines} == {(ID, "r-7", "127.0.0.1")}


def test_line_of_the_log_says_which_call_failed(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in a layer is logged with the id and the trace of a call that it has cost."""
    engine = server.engines["log"]

    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(engine.plan.postprocess, "run", fail)
    engine._log_at_ns = 0
    with capture_logs() as logs, server.connect() as client:
        assert client.ask(post(payment_of(), f"traceparent: {PARENT}", "X-Request-Id: r-8")).status == 500
    (line,) = (line for line in logs if line["event"] == "calls failed")
    assert (line["trace"], line["request_id"], line["client"]) == (ID, "r-8", "127.0.0.1")
