"""What is too large, too slow, too idle or too many: told where it can be, ended always, and memory stays bounded."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from http_server import (
    PATIENCE_S,
    RawClient,
    RunningServer,
    assert_serves,
    chunked,
    head_of,
    payment_of,
    post,
    rss_bytes,
    wait_for,
)

from tailrace.server.http.connection import Connection
from tailrace.server.http.shared import RESERVE_MAX, Shared

Serve = Callable[..., RunningServer]
MIB = 1 << 20


class Watched(Connection):
    """A connection that tells how many bytes it was handed."""

    bytes_read = 0

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        Watched.bytes_read = 0

    def data_received(self, data: bytes) -> None:
        """Count, and read on."""
        Watched.bytes_read += len(data)
        super().data_received(data)


class Narrow(Connection):
    """A connection whose kernel holds little of what its client does not read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Leave the socket a small buffer for sending."""
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
        super().connection_made(transport)


# -- too large --------------------------------------------------------------------------------------------------------


def test_body_declared_too_large_is_refused_unread(http_server: RunningServer) -> None:
    """413 comes on the head alone, and the connection ends."""
    with http_server.connect() as client:
        size = http_server.options.body_bytes_max + 1
        client.send(post(payment_of(label="before")))
        answer = client.ask(head_of("POST", "/v1/pipelines/log/predict", f"Content-Length: {size}"), head=False)
        assert answer.json["label"] == "before"
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert answer.problem()["next"]
        client.assert_closed()
    assert_serves(http_server)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_body_declared_absurdly_large_is_refused(client: RawClient, size: int) -> None:
    """Lengths at the edge of 64 bits are only too large."""
    assert client.ask(head_of("POST", "/v1/pipelines/log/predict", f"Content-Length: {size}")).status == 413
    client.assert_closed()


def test_body_of_10_mb_is_refused_without_being_read(serve: Serve) -> None:
    """A client that sends 10 MB without looking up still gets its 413, of a server that reads only a part of them."""
    server = serve(connection_type=Watched)
    body = b'{"amount": 1.0, "label": "' + b"x" * (10 * MIB) + b'"}'
    with server.connect() as client:
        client.try_send(post(body))
        answer = client.read()
        assert answer.status == 413
        answer.problem()
        client.assert_closed()
    assert Watched.bytes_read < 3 * MIB
    assert_serves(server)


def test_body_in_chunks_is_refused_once_too_large(serve: Serve) -> None:
    """A chunked body is counted as it comes; over the limit it is 413, and what follows is not taken for a request."""
    server = serve(connection_type=Watched)
    with server.connect() as client:
        client.try_send(chunked(*[b"x" * 10_000] * 1_000) + head_of())
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        client.assert_closed()
    assert Watched.bytes_read < 3 * MIB
    assert_serves(server)


def test_bodies_of_tiny_chunks_take_no_more_memory_than_they_are_long(http_server: RunningServer) -> None:
    """A body of two-byte chunks is kept as its bytes, not as half a million pieces."""
    before = rss_bytes()
    clients = [http_server.connect() for _ in range(4)]
    for client in clients:
        client.send(chunked(*[b"  "] * (MIB // 2 - 1), last=b""))
    http_server.settle()
    assert rss_bytes() - before < 4 * 12 * MIB
    for client in clients:
        assert client.ask(b"1\r\n5\r\n0\r\n\r\n").status == 422
        client.sock.close()


@pytest.mark.parametrize("filler", ["X-Filler: {}\r\n", "X-{}: a\r\n", None], ids=["value", "name", "target"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "endless"])
def test_head_over_the_limit_is_refused(http_server: RunningServer, filler: str | None, whole: bool) -> None:
    """A head over 16 KiB is 431, whether it comes to its end or not."""
    long = "x" * 20_000
    request = head_of("GET", "/livez?" + long) if filler is None else head_of()[:-2] + filler.format(long).encode()
    with http_server.connect() as client:
        client.send(request.removesuffix(b"\r\n") + (b"\r\n\r\n" if whole else b""))
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        answer.problem()
        client.assert_closed()
    assert_serves(http_server)


def test_head_under_the_limit_is_served(client: RawClient) -> None:
    """15 KiB of headers are no fault, in one piece or in many."""
    request = head_of("GET", "/livez", *[f"X-{number}: {'y' * 90}" for number in range(155)])
    assert 15_000 < len(request) < 16_000
    assert client.ask(request).status == 200
    for place in range(0, len(request), 1_000):
        client.send(request[place : place + 1_000])
    assert client.read().status == 200


def test_many_small_headers_are_refused(client: RawClient) -> None:
    """A head of thousands of headers is over the limit like any other."""
    assert client.ask(head_of("GET", "/livez", *["a:b"] * 5_000)).status == 431


def test_head_that_grows_piece_by_piece_is_refused(http_server: RunningServer) -> None:
    """A head that never ends is refused once over the limit, and is not gathered beyond."""
    with http_server.connect() as client:
        sent = client.send(b"GET /livez HTTP/1.1\r\n") and 0
        http_server.settle()
        while client.is_silent() and sent < 64:
            client.send(b"X-A: " + b"y" * 1_000 + b"\r\n")
            http_server.settle()
            sent += 1
        assert client.read().status == 431
        assert sent < 20


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(b"0\r\n", b"X-T: " + b"y" * 1_000 + b"\r\n"), (b"0\r\nX-T: ", b"y" * 1_000), (b"2;", b"y" * 1_000)],
    ids=["trailers", "trailer", "extension"],
)
def test_endless_trailer_or_extension_is_refused(http_server: RunningServer, begin: bytes, piece: bytes) -> None:
    """What is neither head nor body is bounded as a head is."""
    with http_server.connect() as client:
        client.send(chunked(b"[]", last=begin))
        http_server.settle()
        sent = 0
        while client.is_silent() and sent < 64:
            client.send(piece)
            http_server.settle()
            sent += 1
        assert client.read().status == 431
        assert sent < 20


def test_remembered_heads_are_bounded(http_server: RunningServer, client: RawClient) -> None:
    """Heads that never repeat do not fill the memory."""
    for number in range(1_500):
        client.send(head_of("GET", "/livez", f"X-Number: {number}"))
        client.read()
    assert len(http_server.http.shared.heads) <= 1_024


# -- too slow, too idle -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin",
    [b"G", head_of()[:-2], head_of("POST", "/v1/pipelines/log/predict", "Content-Length: 20"),
     chunked(b'{"amount":', last=b""), post(payment_of())[:-3]],
    ids=["line", "head", "body", "chunks", "end"],
)  # fmt: skip
def test_request_that_takes_too_long_to_come_is_told_so(serve: Serve, begin: bytes) -> None:
    """A request not whole after `request_s` is 408 and the connection ends; until then it is waited for."""
    server = serve(request_s=5)
    with server.connect() as client, server.connect() as other:
        client.send(begin)
        server.sweep(5)
        assert client.is_silent()
        server.sweep()
        answer = client.read()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        answer.problem()
        client.assert_closed()
        assert other.ask(post(payment_of())).status == 200


@pytest.mark.parametrize("request_bytes", [head_of(), post(payment_of())], ids=["head", "body"])
def test_request_of_a_byte_a_second_is_told_so(serve: Serve, request_bytes: bytes) -> None:
    """Sending something every second does not keep a slow request alive."""
    server = serve(request_s=5)
    with server.connect() as client:
        if request_bytes.startswith(b"POST"):
            client.send(request_bytes[:-20])
            request_bytes = request_bytes[-20:]
        for place in range(6):
            assert client.is_silent()
            client.send(request_bytes[place : place + 1])
            server.sweep()
        server.sweep()
        assert client.read().status == 408


def test_pending_answers_come_before_a_timeout(serve: Serve) -> None:
    """A slow second request costs the first one nothing."""
    server = serve(request_s=2)
    with server.connect() as client:
        client.send(post(payment_of(label="first")) + b"POST /v1")
        server.sweep(3)
        assert client.read().json["label"] == "first"
        assert client.read().status == 408


def test_idle_connection_is_closed(serve: Serve) -> None:
    """A connection without a request for `idle_s` ends without a word; a request starts the time anew."""
    server = serve(idle_s=10)
    with server.connect() as idle, server.connect() as active:
        for _ in range(5):
            assert active.ask(post(payment_of())).status == 200
            server.sweep(5)
        assert idle.sock.recv(1) == b""
        server.sweep(5)
        assert active.ask(head_of()).status == 200
        server.sweep(11)
        assert active.sock.recv(1) == b""
    wait_for(lambda: not server.http.connections, "no connection")


def test_empty_lines_do_not_keep_a_connection(serve: Serve) -> None:
    """A client that sends nothing but empty lines is idle."""
    server = serve(idle_s=10)
    with server.connect() as client:
        for _ in range(11):
            client.send(b"\r\n")
            server.sweep()
        client.assert_closed()


def test_refused_client_that_stays_is_dropped(serve: Serve) -> None:
    """A client that neither closes nor reads after its refusal does not hold its place."""
    server = serve(request_s=2)
    with server.connect() as client:
        assert client.ask(b"nonsense\r\n\r\n").status == 400
        server.sweep(2)
        assert len(server.http.connections) == 1
        server.sweep()
        wait_for(lambda: not server.http.connections, "no connection")


# -- slow readers -----------------------------------------------------------------------------------------------------


def read_nothing(server: RunningServer) -> RawClient:
    """Return a client with little room for answers."""
    client = server.connect()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.sock.setblocking(False)
    return client


def flood(server: RunningServer, client: RawClient, data: bytes, bytes_max: int) -> int:
    """Send over and over until the server reads no more; return how many bytes it took."""
    sent = stalls = 0
    while sent < bytes_max and stalls < 20:
        try:
            sent += client.sock.send(data)
            stalls = 0
        except BlockingIOError:
            stalls += 1
            server.settle()
    return sent


def test_client_that_never_reads_is_paused_then_dropped(serve: Serve) -> None:
    """Answers nobody reads are bounded: reading stops, others are served, and after `request_s` the client is gone."""
    server = serve(request_s=5, connection_type=Narrow)
    array = post(json.dumps([{"amount": 1.0, "label": "y" * 50}] * 500))
    before = rss_bytes()
    client = read_nothing(server)
    sent = flood(server, client, array, 256 * MIB)
    assert sent < 64 * MIB
    (connection,) = server.http.connections
    assert connection.flow().is_paused
    assert connection._transport.get_write_buffer_size() < 16 * MIB
    assert rss_bytes() - before < 64 * MIB
    assert_serves(server)
    server.sweep(5)
    assert connection in server.http.connections
    server.sweep(2)
    wait_for(lambda: connection not in server.http.connections, "the client dropped")
    assert_serves(server)
    client.sock.close()


def test_client_that_reads_late_gets_every_answer(serve: Serve) -> None:
    """Within its time a slow reader loses nothing: reading goes on where it stopped."""
    server = serve(connection_type=Narrow)
    with server.connect() as client:
        client.sock.setblocking(False)
        requests = b"".join(post(json.dumps([{"amount": 1.0, "label": f"{n:0200}"}] * 250)) for n in range(400))
        sent = 0
        for _ in range(200):
            try:
                sent += client.sock.send(requests[sent:])
            except BlockingIOError:
                server.settle()
        (connection,) = server.http.connections
        wait_for(lambda: connection.flow().is_paused, "reading paused")
        client.sock.settimeout(PATIENCE_S)
        sender = threading.Thread(target=client.send, args=(requests[sent:],), daemon=True)
        sender.start()
        assert [int(client.read().json[0]["label"]) for _ in range(400)] == list(range(400))
        sender.join(PATIENCE_S)


def test_drain_cuts_off_no_answer_of_a_slow_reader(serve: Serve) -> None:
    """An answer that its client has not read yet is sent to its last byte before an idle connection ends."""
    server = serve(connection_type=Narrow)
    with server.connect() as client:
        client.send(post(json.dumps([{"amount": 1.0, "label": f"{n:0900}"} for n in range(1_000)])))
        wait_for(lambda: server.batches("log"), "the answer")
        server.settle()
        (connection,) = server.http.connections
        assert connection._transport.get_write_buffer_size() > 0
        server.on_loop(server.http.drain)
        server.sweep(3)
        assert [int(each["label"]) for each in client.read().json] == list(range(1_000))
        client.assert_closed()


def test_client_that_closes_without_reading_holds_nothing(serve: Serve) -> None:
    """An answer that nobody takes does not keep a finished connection for ever."""
    server = serve(request_s=3, idle_s=5, connection_type=Narrow)
    client = read_nothing(server)
    client.sock.setblocking(True)
    client.send(post(json.dumps([{"amount": 1.0, "label": "y" * 900}] * 1_000), "Connection: close"))
    server.settle()
    wait_for(lambda: any(c._transport.is_closing() for c in server.http.connections), "the answer written")
    server.sweep(4)
    wait_for(lambda: not server.http.connections, "no connection")
    client.sock.close()


# -- too many ---------------------------------------------------------------------------------------------------------


def test_call_on_a_connection_over_the_limit_is_refused(serve: Serve) -> None:
    """A call on one too many is told 503 and closed; those that are there go on, and a place left is taken again."""
    server = serve(connections_max=3)
    clients = [server.connect() for _ in range(3)]
    for client in clients:
        assert client.ask(head_of()).status == 200
    for _ in range(2):
        with server.connect() as refused:
            answer = refused.ask(post(payment_of()))
            assert (answer.status, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "1")
            assert "too many connections" in answer.problem()["detail"]
            refused.assert_closed()
    assert clients[0].ask(post(payment_of())).status == 200
    clients.pop().sock.close()
    wait_for(lambda: len(server.http.connections) == 2, "a place")
    assert_serves(server)
    for client in clients:
        client.sock.close()


def test_health_check_is_answered_whatever_is_open(serve: Serve) -> None:
    """Connections that fill every place, and as many more as may wait without asking, starve no health check."""
    server = serve(connections_max=3)
    with ExitStack() as stack:
        full = [stack.enter_context(server.connect()) for _ in range(3)]
        for client in full:
            assert client.ask(post(payment_of())).status == 200
        over = [stack.enter_context(server.connect()) for _ in range(RESERVE_MAX + 5)]
        for _ in range(3):
            answer = stack.enter_context(server.connect()).ask(head_of())
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        over[4].assert_closed()  # the newcomers have taken the places of the oldest
        assert over[-1].is_silent()
        assert len(server.http.connections) <= 3 + RESERVE_MAX
        assert full[0].ask(post(payment_of())).status == 200
        server.sweep(2)
        over[-1].assert_closed()  # it has asked nothing
    wait_for(lambda: not server.http.connections, "no connection")


def test_idle_connection_is_not_closed_over_a_request_that_waits_unread(serve: Serve) -> None:
    """What has come in the same turn of the loop in which an idle connection would be closed is answered."""
    server = serve(idle_s=10)

    def sweep_over(client: RawClient, seconds: int) -> None:
        for _ in range(seconds - 1):
            server.http.sweep()
        client.send(post(payment_of(label="crossed")))
        server.http.sweep()

    with server.connect() as client:
        assert client.ask(post(payment_of())).status == 200
        server.on_loop(sweep_over, client, 11)
        assert client.read().json["label"] == "crossed"
        server.on_loop(server.http.drain)
        server.on_loop(sweep_over, client, 2)
        answer = client.read()
        assert (answer.json["label"], answer.headers["connection"]) == ("crossed", "close")
        client.assert_closed()


def test_connections_leave_nothing_behind(http_server: RunningServer) -> None:
    """Serving collects no garbage, so a connection that ends must not be part of a cycle."""
    http_server.settle()
    gc.collect()

    def alive() -> int:
        return sum(type(each) is Connection for each in gc.get_objects())

    before = alive()
    gc.disable()
    try:
        for request in (post(payment_of(), "X-Request-Id: 1"), b"nonsense\r\n\r\n", post(payment_of())[:-1], head_of()):
            for _ in range(50):
                with http_server.connect() as client:
                    client.send(request)
                    if request[-1:] != b",":
                        http_server.settle()
        wait_for(lambda: not http_server.http.connections, "no connection")
        http_server.settle()
        assert alive() - before < 10
    finally:
        gc.enable()
