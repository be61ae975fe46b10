"""A server that goes away: what is in flight is answered, each connection is told, and none is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from http_server import RunningServer, head_of, payment_of, post, wait_for

Serve = Callable[..., RunningServer]
HEAVY = post('{"work": 80000}', path="/v1/pipelines/heavy/predict")


def test_drain_answers_what_is_in_flight_and_closes(serve: Serve) -> None:
    """Calls in flight get their answers, told as the last ones; idle connections end."""
    server = serve("heavy")
    busy, idle = [server.connect() for _ in range(4)], server.connect()
    for client in busy:
        client.send(HEAVY)
    wait_for(lambda: server.engines["heavy"].admission.rows_waiting == 4, "calls in flight")
    server.on_loop(server.http.drain)
    for client in busy:
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        client.assert_closed()
        client.sock.close()
    server.sweep(2)
    assert idle.sock.recv(1) == b""
    idle.sock.close()
    wait_for(lambda: not server.http.connections, "no connection")


def test_drain_loses_no_pipelined_answer(serve: Serve) -> None:
    """Of several answers on one connection only the last tells of the end, so that none behind it is thrown away."""
    server = serve("heavy", "log")
    with server.connect() as client:
        client.send(HEAVY + post(payment_of(label="a")) + HEAVY + head_of() + post(payment_of(label="b")) + HEAVY)
        wait_for(lambda: server.engines["heavy"].admission.rows_waiting == 3, "calls in flight")
        server.on_loop(server.http.drain)
        answers = [client.read() for _ in range(6)]
        assert [answer.status for answer in answers] == [200] * 6
        assert [answer.headers.get("connection") for answer in answers] == [None] * 5 + ["close"]
        client.assert_closed()


def test_drain_answers_a_request_that_is_still_coming(serve: Serve) -> None:
    """A request half sent when the end begins is answered when it is whole."""
    server = serve()
    request = post(payment_of(label="late"))
    with server.connect() as client, server.connect() as slow:
        client.send(request[:30])
        slow.send(post(payment_of(label="before")) + request[:30])
        server.settle()
        server.on_loop(server.http.drain)
        server.sweep(2)
        answer = client.ask(request[30:])
        assert (answer.json["label"], answer.headers["connection"]) == ("late", "close")
        client.assert_closed()
        assert slow.read().json["label"] == "before"
        assert slow.ask(request[30:]).headers["connection"] == "close"
        slow.assert_closed()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [(head_of(), 200), (post(payment_of()), 200), (post("{"), 400), (head_of("GET", "/no"), 404),
     (post(payment_of(-1.0)), 500), (post(payment_of(), "X-Budget-Ms: 0.00001"), 503)],
)  # fmt: skip
def test_request_on_a_draining_server_is_the_connections_last(serve: Serve, request_bytes: bytes, status: int) -> None:
    """Every kind of answer tells of the end and is followed by it, also where its head is remembered."""
    server = serve()
    with server.connect() as client:
        assert client.ask(request_bytes).status == status
        server.on_loop(server.http.drain)
        answer = client.ask(request_bytes)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        client.assert_closed()


def test_drain_does_not_wait_for_a_client_that_never_ends_its_request(serve: Serve) -> None:
    """A request that does not come to its end is timed out as ever."""
    server = serve(request_s=2)
    with server.connect() as client:
        client.send(b"POST /v1")
        server.settle()
        server.on_loop(server.http.drain)
        server.sweep(3)
        assert client.read().status == 408
        server.sweep(3)
        wait_for(lambda: not server.http.connections, "no connection")
