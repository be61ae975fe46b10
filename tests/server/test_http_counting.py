"""What is counted: every call once by its code and reason, and how little the hot path does for each."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
from http_server import RunningServer, chunked, head_of, payment_of, post, wait_for

from tailrace.server.http.connection import Connection

Serve = Callable[..., RunningServer]


class CountingTransport:
    """A transport that counts the writes of all connections of a test."""

    writes = 0

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Count, and write."""
        CountingTransport.writes += 1
        self._transport.write(data)


class Counted(Connection):
    """A connection that writes through a counting transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put the count between."""
        super().connection_made(cast(Any, CountingTransport(cast(asyncio.Transport, transport))))


def test_calls_are_counted_once_each_by_code_and_kind(serve: Serve) -> None:
    """After a known series of requests the counters hold exactly its numbers."""
    server = serve("log", "log_with_fallback", connections_max=50, request_s=3)
    series = {
        post(payment_of(1.0)): 7,
        post(json.dumps([{"amount": 1.0}] * 5)): 2,
        post(payment_of(-1.0)): 3,
        post("{"): 4,
        post('{"amount": "x"}'): 5,
        post(payment_of(), "X-Budget-Ms: 0.0001"): 6,
        post(payment_of(-1.0), path="/v1/pipelines/log_with_fallback/predict"): 2,
        post("", path="/no"): 3,
        head_of("DELETE"): 2,
        head_of("GET", "/livez", "Expect: miracle"): 1,
        head_of(): 9,
    }
    with server.connect() as client:
        for request, times in series.items():
            client.send(request * times)
            for _ in range(times):
                client.read()
    for bad, status in ((b"nonsense\r\n\r\n", 400), (head_of("POST", "/livez", "Content-Length: 9999999"), 413),
                        (head_of("GET", "/" + "x" * 20_000), 431), (chunked(b"[]")[:-5] + b"zz\r\n", 400)):  # fmt: skip
        with server.connect() as client:
            assert client.ask(bad).status == status
    with server.connect() as client:
        client.send(b"POST")
        server.sweep(4)
        assert client.read().status == 408
    wait_for(lambda: not server.http.connections, "no connection")
    filling = [server.connect() for _ in range(50)]
    server.settle()
    for _ in range(3):
        with server.connect() as client:
            assert client.ask(post(payment_of())).status == 503
    for client in filling:
        client.sock.close()
    assert server.counts("tailrace_requests_total", "log") == {"200": 9, "400": 4, "422": 5, "500": 3, "503": 6}
    assert server.counts("tailrace_errors_total", "log") == {
        "malformed-body": 4, "invalid-request": 5, "inference-failed": 3
    }  # fmt: skip
    assert server.counts("tailrace_shed_total", "log") == {"deadline": 6}
    assert server.count("tailrace_rows_total", "log") == 7 + 2 * 5 + 3
    assert server.counts("tailrace_requests_total", "log_with_fallback") == {"200": 2}
    assert server.counts("tailrace_degraded_total", "log_with_fallback") == {"model_error": 2}
    assert server.counts("tailrace_requests_total", "") == {
        "400": 2, "404": 3, "405": 2, "408": 1, "413": 1, "417": 1, "431": 1, "503": 3
    }  # fmt: skip


def test_call_whose_client_is_gone_is_counted_once(serve: Serve) -> None:
    """An answer nobody waits for any more was a call all the same."""
    server = serve("heavy")
    for _ in range(3):
        with server.connect() as client:
            client.send(post('{"work": 20000}', path="/v1/pipelines/heavy/predict"))
            wait_for(lambda: server.engines["heavy"].admission.rows_waiting, "the call in flight")
        wait_for(lambda: not server.engines["heavy"].admission.rows_waiting, "the call answered")
    server.settle()
    assert server.counts("tailrace_requests_total", "heavy") == {"200": 3}


@pytest.mark.parametrize("count", [1, 2, 50])
def test_pipelined_calls_of_a_batch_are_one_write(serve: Serve, count: int) -> None:
    """However many calls of a connection a batch answers, it writes to it once."""
    server = serve(connection_type=Counted)
    data = b"".join(post(payment_of(1.0 + number, str(number))) for number in range(count))
    with server.connect() as client, server.connect() as other:
        for _ in range(3):
            CountingTransport.writes, batches = 0, server.batches("log")
            server.hold(lambda: (client.send(data), other.send(data)))
            for each in (client, other):
                assert [each.read().json["label"] for _ in range(count)] == [str(number) for number in range(count)]
            server.settle()
            assert 2 <= CountingTransport.writes <= 2 * (server.batches("log") - batches)
        assert server.batches("log") <= 6


def test_answers_in_one_line_are_one_write(serve: Serve) -> None:
    """Answers that need no engine wait behind a call in flight, and leave with its answer in one write."""
    server = serve(connection_type=Counted)
    with server.connect() as client:
        CountingTransport.writes = 0
        client.send(post(payment_of()) + head_of() + post("{") + post(payment_of()) + head_of("GET", "/no"))
        assert [client.read().status for _ in range(5)] == [200, 200, 400, 200, 404]
        assert CountingTransport.writes == 1


def test_calls_on_an_embedded_store_make_no_task(http_server: RunningServer) -> None:
    """No request makes a task of its own; nor does a batch where nothing is waited for."""
    with http_server.connect() as client:
        made = http_server.tasks_made
        for number in range(200):
            assert client.ask(post(payment_of(1.0 + number))).status == 200
        client.send(post(payment_of()) * 300 + post(json.dumps([{"amount": 1.0}] * 100)) + post("{") + head_of())
        for _ in range(303):
            client.read()
        assert http_server.tasks_made == made


def test_answers_leave_without_delay(serve: Serve) -> None:
    """Small answers are sent at once: Nagle's algorithm is off on every connection."""
    server = serve()
    with server.connect() as client:
        assert client.ask(head_of()).status == 200
        (connection,) = server.http.connections
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
