"""What one client does never costs another its answer: clients that leave, half-close, idle, or send rubbish."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from http_server import RawClient, RunningServer, ample, assert_serves, chunked, head_of, payment_of, post, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

import tailrace as tr
from tailrace.pipeline import Pipeline

Serve = Callable[..., RunningServer]


def reset(sock: socket.socket) -> None:
    """Close so that the server is told by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("piece", [1, 40, -5, None], ids=["line", "head", "body", "whole"])
def test_client_gone_mid_request_costs_its_neighbours_nothing(
    http_server: RunningServer, how: str, piece: int | None
) -> None:
    """A client that leaves within its request, or right behind it, is dropped; those of the same turn are answered."""
    neighbours = [http_server.connect() for _ in range(8)]
    leavers = [http_server.connect() for _ in range(8)]

    def act() -> None:
        for neighbour, leaver in zip(neighbours, leavers, strict=True):
            leaver.send(post(payment_of(label="leaver"))[:piece])
            neighbour.send(post(payment_of(label="neighbour")))
            if how == "reset":
                reset(leaver.sock)
            else:
                leaver.sock.close()

    http_server.hold(act)
    for neighbour in neighbours:
        answer = neighbour.read()
        assert (answer.status, answer.json["label"]) == (200, "neighbour")
        assert neighbour.ask(head_of()).status == 200
        neighbour.sock.close()
    wait_for(lambda: not http_server.http.connections, "no connection")
    assert http_server.engines["log"].admission.rows_waiting == 0


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_gone_before_its_answer_costs_its_neighbours_nothing(serve: Serve, how: str) -> None:
    """While the model runs on its thread some clients of the batch leave; the others have their answers."""
    server = serve("heavy")
    request = post('{"work": 20000}', path="/v1/pipelines/heavy/predict")
    clients = [server.connect() for _ in range(6)]
    server.hold(lambda: [client.send(request) for client in clients])
    wait_for(lambda: server.engines["heavy"].admission.rows_waiting, "calls in flight")
    for client in clients[::2]:
        reset(client.sock) if how == "reset" else client.sock.close()
    for client in clients[1::2]:
        assert client.read().json["score"] == pytest.approx(0.75)
        assert client.ask(request).status == 200
        client.sock.close()
    wait_for(lambda: not server.http.connections, "no connection")


def test_client_gone_while_its_answer_is_sent_costs_its_neighbours_nothing(http_server: RunningServer) -> None:
    """A client that takes a part of its answers and resets is dropped; the server goes on."""
    for _ in range(10):
        with http_server.connect() as neighbour:
            leaver = http_server.connect()
            leaver.send(post(json.dumps([{"amount": 1.0, "label": "y" * 500}] * 1_000)) * 5)
            leaver.sock.recv(10)
            neighbour.send(post(payment_of(label="neighbour")))
            reset(leaver.sock)
            assert neighbour.read().json["label"] == "neighbour"
    wait_for(lambda: not http_server.http.connections, "no connection")


@pytest.mark.parametrize("count", [1, 3, 400])
def test_half_closed_client_gets_its_answers(http_server: RunningServer, count: int) -> None:
    """A client that shuts its sending side has every answer it asked for, then the end."""
    with http_server.connect() as client:

        def act() -> None:
            client.send(b"".join(post(payment_of(label=str(number))) for number in range(count)))
            client.sock.shutdown(socket.SHUT_WR)

        http_server.hold(act)
        assert [client.read().json["label"] for _ in range(count)] == [str(number) for number in range(count)]
        client.assert_closed()


def test_half_closed_client_gets_answers_that_take_time(serve: Serve) -> None:
    """The end of what a client sends does not overtake the model."""
    server = serve("heavy")
    with server.connect() as client:
        client.send(post('{"work": 20000}', path="/v1/pipelines/heavy/predict") * 2)
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.read().status for _ in range(2)] == [200, 200]
        client.assert_closed()


def test_half_closed_client_with_a_request_cut_short_gets_the_answers_before(serve: Serve) -> None:
    """What was asked for in full is answered, whatever is missing behind it."""
    server = serve("heavy")
    request = post('{"work": 20000}', path="/v1/pipelines/heavy/predict")
    with server.connect() as client:
        client.send(request + request[:-4])
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read().status == 200
        client.assert_closed()


def test_half_closed_client_without_a_request_is_closed(http_server: RunningServer) -> None:
    """Nothing asked for, or only half of it: the connection ends."""
    for data in (b"", b"POST /v1", post(payment_of())[:-1]):
        with http_server.connect() as client:
            client.send(data)
            client.sock.shutdown(socket.SHUT_WR)
            client.assert_closed()


def test_refused_client_that_half_closes_is_closed(http_server: RunningServer) -> None:
    """A refused client that says it has ended is let go at once."""
    with http_server.connect() as client:
        assert client.ask(b"nonsense\r\n\r\n").status == 400
        client.sock.shutdown(socket.SHUT_WR)
        wait_for(lambda: not http_server.http.connections, "no connection")


def test_idle_connections_cost_an_active_one_nothing(http_server: RunningServer) -> None:
    """Beside 500 idle connections, some within a request, every request of an active one is answered."""
    idle = [http_server.connect() for _ in range(500)]
    for number, client in enumerate(idle):
        if number % 5 == 0:
            client.send(b"POST /v1/pipelines/log/predict HTTP/1.1\r\nContent-Le")
    with http_server.connect() as client:
        for number in range(300):
            assert client.ask(post(payment_of(label=str(number)))).json["label"] == str(number)
        client.send(post(payment_of(label="p")) * 300)
        assert [client.read().status for _ in range(300)] == [200] * 300
    for number, client in enumerate(idle):
        if number % 5:
            assert client.ask(head_of()).status == 200
        client.sock.close()


def test_bad_neighbours_cost_a_good_client_nothing(http_server: RunningServer) -> None:
    """One caller's bad input, in the same turn, leaves every good call its answer."""
    bad = [post("{"), post('{"amount": "x"}'), post(payment_of(-1.0)), b"nonsense\r\n\r\n", chunked(b"[", b"]")[:-4],
           post(payment_of(), "Content-Length: 4"), head_of("GET", "/no")]  # fmt: skip
    with http_server.connect() as good:
        for number in range(20):
            others = [http_server.connect() for _ in bad]

            def act(others: list[RawClient] = others, number: int = number) -> None:
                for place, (other, data) in enumerate(zip(others, bad, strict=True)):
                    other.send(data)
                    good.send(post(payment_of(label=f"{number} {place}")))

            http_server.hold(act)
            assert [good.read().json["label"] for _ in bad] == [f"{number} {place}" for place in range(len(bad))]
            for other in others:
                other.sock.close()


class Brittle(tr.Request):
    """A request that cannot be read at an amount of 6,666, in a way that msgspec passes on."""

    amount: float
    label: str = ""

    def __post_init__(self) -> None:
        """Divide by what the caller sent."""
        assert 1 / (self.amount - 6666)


def test_request_that_raises_when_read_fails_its_own_call_only(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Through the parser and then by a remembered head: 500 for that call; its neighbours and connection go on."""
    brittle = ample(replace(pipeline_of("log"), request=Brittle, features=[Brittle.amount]))
    good, bad = post(payment_of(2.0, "good")), post(payment_of(6666.0, "b"))
    with RunningServer([brittle]) as server, server.connect() as client, capture_logs() as lines:
        for known in (0, 1):
            assert len(server.http.shared.heads) == known
            client.send(good + bad * 3 + good)
            answers = [client.read() for _ in range(5)]
            assert [answer.status for answer in answers] == [200, 500, 500, 500, 200]
            assert answers[1].problem()["detail"] == "ZeroDivisionError in reading this request"
            assert server.counts("tailrace_errors_total", "log") == {"internal-error": 3 * (known + 1)}
            server.sweep()
    assert [(line["pipeline"], line["calls"]) for line in lines] == [("log", 1), ("log", 3)]  # once a second
    assert "ZeroDivisionError" in lines[0]["error"]


FRAGMENTS = [
    *[b"POST ", b"GET ", b"CONNECT a:1", b"/v1/pipelines/log/predict", b"/livez", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"],
    *[b"Content-Length: ", b"5", b"-1", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n", b"X-Budget-Ms: 5\r\n"],
    *[b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\n", b"Upgrade: h2c\r\n"],
    *[b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"\0", b"\n", b'{"amount": 1.0}', b"[", b"]", post(payment_of()), head_of()],
]
rubbish = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=40)), max_size=25).map(b"".join)


@given(data=rubbish, cut=st.integers(0, 1 << 16))
@settings(max_examples=200, deadline=None)
def test_rubbish_is_answered_or_closed(http_server: RunningServer, data: bytes, cut: int) -> None:
    """Whatever comes, in two pieces, the server answers or closes once the client has ended; a good one is served."""
    with http_server.connect() as client, http_server.connect() as good:
        cut %= len(data) + 1
        client.send(data[:cut])
        good.send(post(payment_of(label="good")))
        http_server.settle()
        client.try_send(data[cut:])
        client.end()
        found = client.read_to_end()
        assert found == b"" or found.startswith(b"HTTP/1.1 "), found
        assert b" 500 " not in found.partition(b"\r\n")[0]
        assert good.read().json["label"] == "good"


@pytest.mark.parametrize("seed", range(5))
def test_changed_requests_are_answered_or_closed(http_server: RunningServer, seed: int) -> None:
    """Good requests with bytes changed, dropped and doubled bring every status but a fault of the server's."""
    source = random.Random(seed)
    well = (
        post(payment_of(2.0, "a"), "X-Trace: 1", "Accept-Encoding: gzip") + chunked(b'{"amount"', b": 3.0}") + head_of()
    )
    statuses: set[bytes] = set()
    for _ in range(100):
        data = bytearray(well)
        for _ in range(source.randint(1, 6)):
            place = source.randrange(len(data))
            data[place : place + source.randint(0, 3)] = source.randbytes(source.randint(0, 3))
        with http_server.connect() as client:
            client.try_send(bytes(data))
            client.sock.shutdown(socket.SHUT_WR)
            statuses |= {line[9:12] for line in client.read_to_end().split(b"\r\n") if line.startswith(b"HTTP/1.1 ")}
    assert b"200" in statuses
    assert b"400" in statuses
    assert b"500" not in statuses
    assert_serves(http_server)
