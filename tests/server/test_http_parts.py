"""Requests in parts, lost answers, calls without rows, time in the socket: what the loop holds and owes is bounded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from http_server import RunningServer, ample, chunked, payment_of, post, wait_for
from structlog.testing import capture_logs

from tailrace.batch import Batch
from tailrace.errors import ServingError
from tailrace.pipeline import Pipeline
from tailrace.request.schema import Request
from tailrace.server.http.reader import RequestReader

Serve = Callable[..., RunningServer]
PART = b'{"amount": 1.0, "label": "' + b"x" * 3_000


def begun(kind: str) -> bytes:
    """Return the beginning of a request whose body is announced as 9,000 bytes, of which 3,000 come."""
    if kind == "chunked":
        return chunked(PART, last=b"")
    extra = "X-Unknown: 1\r\n" if kind == "unknown head" else ""
    head = f"POST /v1/pipelines/log/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n{extra}\r\n"
    return head.encode() + PART


@pytest.mark.parametrize("kind", ["known head", "unknown head", "chunked"])
def test_bodies_in_parts_are_bounded_over_all_connections(serve: Serve, kind: str) -> None:
    """Beyond the limit a request in part is refused with 503; once the clients are gone nothing is held."""
    server = serve("log", partial_bytes_max=20_000)
    with server.connect() as teacher:
        body = PART + b"x" * (9_000 - len(PART) - 2) + b'"}'
        assert teacher.ask(post(body)).status == 200  # a head of 9,000 bytes is known from now on
    clients = [server.connect() for _ in range(10)]
    for client in clients:
        client.send(begun(kind))
        server.settle()
    refused = [client for client in clients if not client.is_silent()]
    assert 2 <= len(refused) <= 6
    for client in refused:
        answer = client.read()
        assert (answer.status, answer.problem()["title"]) == (503, "Unavailable")
    assert server.load.bytes <= 20_000
    if kind == "known head":
        whole = next(client for client in clients if client not in refused)
        assert whole.ask(b"x" * (9_000 - len(PART) - 2) + b'"}').status == 200
    for client in clients:
        client.sock.close()
    wait_for(lambda: not server.http.connections, "no connection")
    assert server.load.bytes == 0


class OnceFaulty:
    """A function that raises the first time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.raised = False

    def __call__(self, *arguments: Any) -> Any:
        """Raise, or do as it should."""
        if not self.raised:
            self.raised = True
            raise RuntimeError("it is broken")
        return self._function(*arguments)


@pytest.mark.parametrize("what", ["deliver", "record"])
def test_fault_in_delivery_or_recording_leaves_no_call_without_an_answer(
    pipeline_of: Callable[[str], Pipeline], what: str
) -> None:
    """The sweep answers what was lost with 500 and closes; the engine goes on, and nothing stays counted."""
    with RunningServer([pipeline_of("log")]) as server, server.connect() as client, capture_logs() as lines:
        engine = server.engines["log"]
        if what == "deliver":
            server.http.deliver = OnceFaulty(server.http.deliver)  # type: ignore[method-assign]
        else:
            (recorder,) = engine._recorders
            recorder.record = OnceFaulty(recorder.record)  # type: ignore[method-assign]
        client.send(post(payment_of(2.0, "first")))
        server.settle()
        if what == "deliver":
            assert client.is_silent()
            time.sleep(1.1)  # past the budget and a second; the sweep compares with the machine's clock
            server.sweep()
            answer = client.read()
            assert (answer.status, answer.headers["connection"]) == (500, "close")
            client.assert_closed()
        else:
            assert client.read().status == 200
        with server.connect() as other:
            assert other.ask(post(payment_of(3.0, "second"))).json["label"] == "second"
        assert engine.calls_waiting == 0
        assert engine.admission.rows_waiting == 0
    assert len(lines) == 1


def test_calls_without_rows_are_counted_and_cut_into_batches(serve: Serve) -> None:
    """Empty arrays are calls like others: no batch has more of them than rows are best, and each is answered."""
    server = serve("log")
    engine, sizes = server.engines["log"], []
    (recorder,) = engine._recorders
    record = recorder.record

    def looked(batch: Batch, finished_ns: int) -> None:
        sizes.append(len(batch.calls))
        record(batch, finished_ns)

    recorder.record = looked  # type: ignore[method-assign]
    clients = [server.connect() for _ in range(8)]
    server.on_loop(setattr, engine.plan.inference.stage, "rows_best", 16)
    server.hold(lambda: [client.send(post("[]") * 64) for client in clients])
    for client in clients:
        assert [client.read().json for _ in range(64)] == [[]] * 64
        client.sock.close()
    assert sum(sizes) == 8 * 64
    assert max(sizes) <= 16


def test_time_in_the_socket_is_reported_and_counts_against_the_budget(
    pipeline_of: Callable[[str], Pipeline],
) -> None:
    """A call that waits unread while the loop is at work is reported with that time, for every pipeline of the loop."""
    log, payment = ample(pipeline_of("log")), ample(pipeline_of("payment"))
    with RunningServer([log, payment]) as server, server.connect() as client, server.connect() as other:
        engine = server.engines["log"]
        step = engine.plan.postprocess
        run = step.run

        def slow(batch: Batch) -> None:
            time.sleep(0.2)
            run(batch)

        step.run = slow  # type: ignore[method-assign]
        body = json.dumps(
            {"transaction_id": "t", "customer_id": 1, "terminal_id": "T", "amount": 5.0, "time": "2026-01-02T03:04:05Z"}
        )
        client.send(post(payment_of()))
        wait_for(lambda: engine._calls_running, "the loop at work")
        other.send(post(body, path="/v1/pipelines/payment/predict"))
        assert (client.read().status, other.read().status) == (200, 200)
        series = server.block.find("tailrace_request_seconds", "payment")
        assert server.block.cells[series.offset + series.length - 1] > 0.1e9


class OddError(ServingError):
    status = 599
    title = "Odd"


class Odd(Request):
    """A request that refuses one amount in a way of its own."""

    amount: float
    label: str = ""

    def __post_init__(self) -> None:
        """Refuse it."""
        if self.amount == 777.0:
            raise OddError("an odd one")


def test_user_error_with_a_status_without_a_phrase_is_answered(
    pipeline_of: Callable[[str], Pipeline],
) -> None:
    """A status that HTTP has no phrase for is sent and counted like any other."""
    odd = ample(replace(pipeline_of("log"), request=Odd, features=[Odd.amount]))
    with RunningServer([odd]) as server, server.connect() as client:
        assert client.ask(post(payment_of(777.0))).problem()["status"] == 599
        assert client.ask(post(payment_of(2.0))).status == 200


@pytest.mark.parametrize("writes", [1, 2])
def test_head_with_parts_that_vary_meets_no_parser_again(
    http_server: RunningServer, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """From the third request on, a trace id and a length that change are set apart, in one write or in two."""
    reads: list[bytes] = []
    read = RequestReader.read

    def counted(self: RequestReader, data: bytes, raw: bytes = b"") -> Any:
        reads.append(data)
        return read(self, data, raw)

    monkeypatch.setattr(RequestReader, "read", counted)
    with http_server.connect() as client:
        for number in range(20):
            trace = f"traceparent: 00-{number:032x}-{number:016x}-01"
            request = post(payment_of(2.0 + number, "same"), f"X-Kind: {writes}", trace, "Accept-Encoding: gzip")
            head, _, body = request.partition(b"\r\n\r\n")
            if writes == 2:
                client.send(head + b"\r\n\r\n")
                http_server.settle()
                client.send(body)
            else:
                client.send(request)
            assert client.read().json["label"] == "same"
            if number == 2:
                reads.clear()
    assert len(reads) <= 1  # a length of another number of digits is another form


def test_request_id_of_one_caller_is_never_sent_to_another(http_server: RunningServer) -> None:
    """A caller whose own id is blank gets none, and not the one of the caller whose head was remembered."""
    with http_server.connect() as first, http_server.connect() as second:
        for number in range(4):
            answer = first.ask(post(payment_of(), "X-Form: id", f"X-Request-Id: secret-{number}"))
            assert answer.headers["x-request-id"] == f"secret-{number}"
        answer = second.ask(post(payment_of(), "X-Form: id", "X-Request-Id:" + " " * 9))
        assert "x-request-id" not in answer.headers


def test_headers_that_one_client_changes_do_not_hide_those_of_others(http_server: RunningServer) -> None:
    """However many headers a client makes up and changes, a trace id that varies is set apart again afterwards."""
    with http_server.connect() as client:
        for number in range(3):
            client.ask(post(payment_of(), *(f"X-Junk-{each}: {number}" for each in range(40))))
        for number in range(4):
            client.ask(post(payment_of(), "X-After: junk", f"traceparent: 00-{number:032x}-{number:016x}-01"))
    assert any(form.varies is not None for form in http_server.http.shared.heads if b"X-After" in b"".join(form.stays))


@pytest.mark.parametrize("status", [204, 99, "402"])
def test_user_error_with_an_impossible_status_is_a_500(pipeline_of: Callable[[str], Pipeline], status: Any) -> None:
    """A status that would end the answer elsewhere, or is none, costs neither the connection nor its neighbours."""
    odd = ample(replace(pipeline_of("log"), request=Odd, features=[Odd.amount]))
    with RunningServer([odd]) as server, server.connect() as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(OddError, "status", status)
        client.send(post(payment_of(2.0, "a")) + post(payment_of(777.0)) + post(payment_of(3.0, "b")))
        answers = [client.read() for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 500, 200]
        assert [answers[0].json["label"], answers[2].json["label"]] == ["a", "b"]
