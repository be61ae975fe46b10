"""Requests in parts over many connections: their bytes are bounded, whatever they are parts of, and all given back."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from http_server import Answer, RawClient, RunningServer, assert_serves, chunked, payment_of, post, wait_for

Serve = Callable[..., RunningServer]
BYTES_MAX = 115_000
BODY = payment_of(2.0, "x" * 60_000).encode()
HELD = 25_000
"""Bytes of each request that are sent at first: three such fit, and one of them may grow to its 60,000."""
FITTING = 3

WHOLES = {
    "known head": post(BODY),
    "known head alone": post(BODY),  # as many clients send it: in a write of its own
    "unknown head": post(BODY, "X-A: 1", "X-A: 2"),  # that is never remembered, for it says a thing twice
    "chunked": chunked(BODY),
}


@pytest.fixture
def server(serve: Serve) -> RunningServer:
    """Return a server with room for few parts, that knows the usual head."""
    server = serve(partial_bytes_max=BYTES_MAX, request_s=5)
    with server.connect() as client:
        assert client.ask(post(BODY)).status == 200
    return server


@pytest.fixture
def clients(server: RunningServer) -> Iterator[Callable[[], RawClient]]:
    """Return what connects clients, which leave at the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(server.connect())


def held(server: RunningServer) -> int:
    """Return how many bytes the server counts as held, when it has read all that was sent."""
    server.settle()
    return int(server.on_loop(lambda: server.http.shared.load.bytes))


def begin(server: RunningServer, client: RawClient, kind: str, size: int = HELD) -> bytes:
    """Send so many bytes of a request, in parts; return the rest of it."""
    part, rest = WHOLES[kind][:size], WHOLES[kind][size:]
    if kind == "known head alone":
        end = part.index(b"\r\n\r\n") + 4
        assert client.ask(post(BODY)).status == 200
        client.send(part[:end])
        server.settle()
        part = part[end:]
    for at in range(0, len(part), 10_000):
        client.try_send(part[at : at + 10_000])
        server.settle()
    return rest


def refused(client: RawClient) -> Answer:
    """Read the refusal of a client that was one too many."""
    answer = client.read()
    assert (answer.status, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "1")
    assert "parts" in answer.problem()["detail"]
    return answer


@pytest.mark.parametrize("kind", WHOLES)
def test_bodies_in_part_are_bounded_over_all_connections(
    server: RunningServer, clients: Callable[[], RawClient], kind: str
) -> None:
    """Who goes over the limit is told 503 and gives back its bytes; all others are served once they finish."""
    some = [clients() for _ in range(FITTING)]
    rests = [begin(server, client, kind) for client in some]
    assert FITTING * HELD * 0.9 <= held(server) <= BYTES_MAX
    for _ in range(3):
        many = clients()
        begin(server, many, kind, 55_000)
        refused(many)
        assert held(server) <= BYTES_MAX
        assert all(client.is_silent() for client in some)
    for client, rest in zip(some, rests, strict=True):
        for at in range(0, len(rest), 2_000):  # still in parts, beside those that were refused
            client.send(rest[at : at + 2_000])
            server.settle()
        assert client.read().status == 200
    assert held(server) == 0
    assert_serves(server)


@pytest.mark.parametrize("kind", WHOLES)
@pytest.mark.parametrize("how", ["close", "reset", "timeout", "refused"])
def test_bytes_of_a_request_that_ends_in_part_are_given_back(
    server: RunningServer, clients: Callable[[], RawClient], kind: str, how: str
) -> None:
    """Whether the client leaves, resets, is too slow or sends nonsense behind it: nothing stays counted."""
    client = clients()
    rest = begin(server, client, kind)
    assert held(server) >= 0.9 * HELD
    if how == "timeout":
        server.sweep(6)
        assert client.read().status == 408
        assert held(server) == 0  # at once, though the client is still there
        client.send(rest)
        assert held(server) == 0
    elif how == "refused":
        client.send(rest + b"\0\0 nonsense \r\n\r\n")
        assert held(server) == 0
    elif how == "reset":
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
    else:
        client.sock.close()
    wait_for(lambda: held(server) == 0, "no bytes held")
    assert_serves(server)
