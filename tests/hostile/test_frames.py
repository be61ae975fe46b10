"""Hostile connections to the gRPC port: none is decided, none stays, and the neighbours' calls are answered."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

grpc = pytest.importorskip("grpc")
from grpc_server import WIRE, RunningGrpc, running_grpc, wire_of  # noqa: E402
from hostile_frames import BODY, CASES, HELLO, SOUND, TAKEN, opened  # noqa: E402
from http_server import PATIENCE_S, rss_bytes, wait_for  # noqa: E402
from structlog.testing import capture_logs  # noqa: E402

from tailrace.pipeline import Pipeline  # noqa: E402
from tailrace.server.grpc.core import SLOW_NS  # noqa: E402

GROWN_BYTES_MAX = 24 << 20
SILENT_S = 0.02
"""How long nothing comes, where a server has said all that it has to say."""


@pytest.fixture(scope="module")
def running(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningGrpc]:
    """Serve a pipeline over gRPC."""
    with running_grpc(wire_of(pipeline_of("log"))) as server:
        yield server


@pytest.fixture(scope="module")
def neighbour(running: RunningGrpc) -> Iterator[Callable[[], object]]:
    """Return what makes a sound call on a connection that stays."""
    with running.channel() as channel:
        predict = channel.unary_unary(f"{WIRE}/Predict")
        yield lambda: predict(BODY, timeout=PATIENCE_S)


def told(running: RunningGrpc, data: bytes) -> bytes:
    """Send data, and return what is answered until the server ends the connection or is silent."""
    with socket.create_connection(("127.0.0.1", running.port), PATIENCE_S) as sock:
        with suppress(OSError):
            sock.sendall(data)
        sock.settimeout(SILENT_S)
        found = b""
        with suppress(OSError):
            while part := sock.recv(65_536):
                found += part
    return found


def decided(running: RunningGrpc) -> int:
    """Return how many calls were decided so far."""
    running.http.settle()
    return running.http.count("tailrace_requests_total", "wire", "200", "")


def test_sound_call_by_the_same_bytes_is_decided(running: RunningGrpc) -> None:
    """What is wrong with the others is not how they are written."""
    before = decided(running)
    assert b"grpc-status" in told(running, SOUND) or decided(running) > before
    assert decided(running) == before + 1


@pytest.mark.parametrize("name", CASES)
def test_hostile_connection_is_not_decided(running: RunningGrpc, neighbour: Callable[[], object], name: str) -> None:
    """It ends, or waits for more; a neighbour's call on its own connection is answered beside it, and after."""
    before = decided(running)
    with capture_logs() as logs:
        told(running, CASES[name])
        neighbour()
    assert [line for line in logs if line["log_level"] in ("error", "critical")] == []
    assert decided(running) == before + 1


@pytest.mark.parametrize("name", TAKEN)
def test_call_that_is_taken_is_decided_once(running: RunningGrpc, neighbour: Callable[[], object], name: str) -> None:
    """What grpcio lets through is answered, costs nobody anything, and is told back to nobody as a line of its own."""
    before = decided(running)
    with capture_logs() as logs:
        answer = told(running, TAKEN[name])
        neighbour()
    assert [line for line in logs if line["log_level"] in ("error", "critical")] == []
    assert decided(running) == before + 2
    assert name == "two messages" or b"grpc-status\x010" in answer
    assert b"\r\nb: c" not in answer


def test_calls_without_messages_leave_places_for_others(running: RunningGrpc, neighbour: Callable[[], object]) -> None:
    """Who opens as many calls as there are places, on many connections, and sends no message, holds up nobody."""
    with ExitStack() as stack:
        for _ in range(10):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), PATIENCE_S))
            sock.sendall(HELLO + b"".join(opened(number) for number in range(1, 200, 2)))
        core = running.server.core
        wait_for(lambda: len(core.reading) >= core._reading_max, "all places are taken")
        time.sleep(2 * SLOW_NS / 1e9)
        for _ in range(50):
            neighbour()
    wait_for(lambda: not core.reading, "their places are free again")


@pytest.mark.slow
def test_hostile_connections_leave_no_memory_behind(running: RunningGrpc, neighbour: Callable[[], object]) -> None:
    """What they took is given back."""
    sizes = []
    for _ in range(3):
        for data in CASES.values():
            told(running, data)
        neighbour()
        sizes.append(rss_bytes())
    assert sizes[-1] - sizes[0] < GROWN_BYTES_MAX


def test_connections_that_say_nothing_leave_room(running: RunningGrpc, neighbour: Callable[[], object]) -> None:
    """Two hundred that are open and silent, at every point of their beginning, hold up nobody."""
    socks = []
    try:
        for number in range(200):
            sock = socket.create_connection(("127.0.0.1", running.port), PATIENCE_S)
            socks.append(sock)
            sock.sendall(SOUND[: number % len(SOUND)])
        began_s = time.monotonic()
        for _ in range(20):
            neighbour()
        assert time.monotonic() - began_s < 2
    finally:
        for sock in socks:
            sock.close()
