"""Hostile clients of gRPC: nothing crashes, nothing hangs, what they held is given back, others are answered."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import pytest

grpc = pytest.importorskip("grpc")
from grpc_server import WIRE, RunningGrpc, running_grpc, wire_of  # noqa: E402
from grpc_wire import (  # noqa: E402
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    WireClient,
    frame,
    head,
    message,
    setting,
)
from http_server import rss_bytes, wait_for  # noqa: E402

from tailrace.pipeline import Pipeline  # noqa: E402

PREDICT = f"{WIRE}/Predict"
BODY = b"\x09" + b"\0" * 6 + b"\xf8\x3f"


@pytest.fixture(scope="module")
def server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningGrpc]:
    """Return a server of short patience, so that its sweep ends what is late."""
    with running_grpc(wire_of(pipeline_of("log")), body_bytes_max=100_000, request_s=0.05, reading_max=8) as server:
        yield server


def assert_serves(server: RunningGrpc) -> None:
    """Assert that another client is answered, and that nothing is held any more."""
    with server.channel() as channel:
        assert channel.unary_unary(PREDICT)(BODY, timeout=10)
    wait_for(lambda: not server.server.core.calls, "no call is open")
    assert not server.server.core.reading


def status_in(frames: list[tuple[int, int, int, bytes]]) -> int:
    """Return the status that a call ends with, from the literal in its last head."""
    (last,) = [payload for kind, flags, _, payload in frames if kind == HEADERS and flags & END_STREAM]
    _, _, rest = last.partition(b"grpc-status")
    return int(rest[1 : 1 + rest[0]])


@pytest.mark.parametrize(
    "preface",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + b"x" * 200,
        PREFACE + b"\xff" * 200,
        PREFACE[:10] + b"\0" * 200,
        random.Random(1).randbytes(500),
    ],
)
def test_garbage_ends_its_connection(server: RunningGrpc, preface: bytes) -> None:
    """What is no HTTP/2 is told so by the end, whoever sends it."""
    with WireClient(server.port, preface=preface) as client:
        assert client.is_closed()
    assert_serves(server)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (frame(DATA, 0, 1, message(b"", length=0xFFFF_FFFF)), 8),
        (frame(DATA, 0, 1, message(b"x" * 1_000, length=100_001)), 8),
        (frame(DATA, END_STREAM, 1, message(BODY, flag=1)), 13),
        (frame(DATA, END_STREAM, 1, message(BODY, length=len(BODY) + 1)), None),
        (frame(DATA, END_STREAM, 1), 3),
        (frame(DATA, 0, 1, b"x" * 100, length=0xFF_FFFF), 14),
    ],
)
def test_length_that_lies_ends_its_call(server: RunningGrpc, data: bytes, status: int | None) -> None:
    """An absurd one, one over the limit, one of a message that is cut short, and one that no frame may have."""
    with WireClient(server.port) as client:
        client.begin(PREDICT)
        client.send(data)
        found = client.frames_to([HEADERS, RST_STREAM, GOAWAY])
        assert found
        assert status is None or status_in(found) == status
    assert_serves(server)


def test_message_that_does_not_come_is_not_waited_for(server: RunningGrpc) -> None:
    """Nothing of it, or half: the call ends after --request-s, on a connection that goes on."""
    with WireClient(server.port) as client:
        client.begin(PREDICT, 1)
        client.begin(PREDICT, 3)
        client.send(frame(DATA, 0, 3, message(BODY)[:7]))
        wait_for(lambda: len(server.server.core.reading) == 2, "both are awaited")
        wait_for(lambda: server.http.on_loop(server.server.sweep) or not server.server.core.reading, "none is")
        assert status_in(client.frames_to([RST_STREAM])) == 4
        client.begin(PREDICT, 5)
        client.send(frame(DATA, END_STREAM, 5, message(BODY)))
        client.frames_to([DATA], 5)
    assert_serves(server)


def test_messages_on_their_way_are_bounded(server: RunningGrpc) -> None:
    """One more than there may be is refused at once; the first is served when its message comes after all."""
    with WireClient(server.port) as client:
        for stream in range(1, 2 * 8, 2):
            client.begin(PREDICT, stream)
        wait_for(lambda: len(server.server.core.reading) == 8, "all are awaited")
        client.begin(PREDICT, 17)
        assert status_in(client.frames_to([HEADERS], 17)) == 14
        client.send(frame(DATA, END_STREAM, 1, message(BODY)))
        client.frames_to([DATA], 1)
    assert_serves(server)


def test_connection_that_is_cut_leaves_nothing(server: RunningGrpc) -> None:
    """In the middle of a head, of a frame's head, or of a message: whatever it had begun is over."""
    whole = frame(HEADERS, END_HEADERS, 1, head(PREDICT)) + frame(DATA, END_STREAM, 1, message(BODY))
    for cut in (5, 40, len(whole) - len(BODY) - 10, len(whole) - 3):
        with WireClient(server.port) as client:
            client.send(whole[:cut])
    assert_serves(server)


def test_compressed_message_is_refused(server: RunningGrpc) -> None:
    """Before it is inflated: a megabyte of nothing, or a small one."""
    with server.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(PREDICT)(b"\0" * 1_000_000, compression=grpc.Compression.Gzip, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert_serves(server)


def test_answer_that_is_not_read_is_given_up(server: RunningGrpc) -> None:
    """A client whose window is shut is cut off after --request-s, and holds nothing any more."""
    with WireClient(server.port, setting(4, 0)) as client:
        for stream in range(1, 13, 2):
            client.begin(PREDICT, stream)
            client.send(frame(DATA, END_STREAM, stream, message(BODY)))
        calls = server.server.core.calls
        wait_for(lambda: len(calls) == 6 and all(each.answered_ns for each in list(calls)), "all are answered")
        wait_for(lambda: server.http.on_loop(server.server.sweep) or not calls, "all are given up")
        client.frames_to([RST_STREAM])
    assert_serves(server)


def test_flood_of_metadata_is_refused(server: RunningGrpc) -> None:
    """One long value, and a head that goes on and on: the call is refused, or its connection ends."""
    with WireClient(server.port) as client:
        client.begin(PREDICT, 1, (b"x-a", b"a" * 40_000))
        client.send(frame(DATA, END_STREAM, 1, message(BODY)))
        assert not [each for each in client.frames_to([HEADERS, RST_STREAM, GOAWAY]) if each[0] == DATA]
    with WireClient(server.port) as client:
        client.send(frame(HEADERS, 0, 1, head(PREDICT)))
        for _ in range(500):
            client.send(frame(CONTINUATION, 0, 1, b"\0\x01a\x7e" + b"a" * 126))
        client.send(frame(CONTINUATION, END_HEADERS, 1))
        assert client.frames_to([HEADERS, RST_STREAM, GOAWAY])
    assert_serves(server)


def test_watchers_leave_places_for_calls(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Who watches health, for which no key is asked, as often as there are places, holds up no call."""
    with running_grpc(wire_of(pipeline_of("log")), calls_max=16) as server:
        core = server.server.core
        for _ in range(2):  # those that are gone have left their places
            with WireClient(server.port) as client:
                for stream in range(1, 2 * 32, 2):
                    client.begin("/grpc.health.v1.Health/Watch", stream)
                    client.send(frame(DATA, END_STREAM, stream, message(b"")))
                wait_for(lambda: len(core.lasting) == 12, "some are watched")
                assert status_in(client.frames_to([HEADERS], 25)[-1:]) == 14
                wait_for(lambda: len(core.calls) == 12, "the others are refused")
                with server.channel() as channel:
                    assert channel.unary_unary(PREDICT)(BODY, timeout=10)
            wait_for(lambda: not core.lasting, "the watchers are gone")


def test_metadata_that_are_no_text_are_told_to_nobody(server: RunningGrpc, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that no header may have, a key with one among them: the call is answered, and no log has them."""
    for number, text in enumerate((b"\xff\xfe", "é".encode(), b"a\x01b", b"a\x7f")):
        with WireClient(server.port) as client:
            client.begin(PREDICT, 1, (b"x-request-id", text), (b"x-trace", b"1"), (b"traceparent", text),
                         (b"authorization", b"Bearer secret%d\xff" % number))  # fmt: skip
            client.send(frame(DATA, END_STREAM, 1, message(BODY)))
            assert client.frames_to([DATA, RST_STREAM], 1)[-1][0] == DATA
            behind = client.frames_to([HEADERS], 1)
            assert status_in(behind) == 0
            assert b"x-release" in behind[-1][3]
            assert b"x-request-id" not in behind[-1][3]
    assert_serves(server)
    assert not caplog.records


def test_flood_of_calls_and_pings_gives_memory_back(server: RunningGrpc) -> None:
    """Calls that are taken back at once (CVE-2023-44487), by the thousand, and pings without end."""

    def flood() -> None:
        with WireClient(server.port) as client:
            for stream in range(1, 4_000, 2):
                client.send(frame(HEADERS, END_HEADERS, stream, head(PREDICT)), frame(RST_STREAM, 0, stream, b"\0" * 4))
            client.send(*(frame(PING, 0, 0, b"12345678") for _ in range(2_000)))
            client.sock.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                client.frames_to([GOAWAY])
        wait_for(lambda: not server.server.core.reading, "no message is awaited")  # for a moment all eight places are
        assert_serves(server)

    flood()
    before = rss_bytes()
    for _ in range(3):
        flood()
    assert rss_bytes() - before < 16 << 20
