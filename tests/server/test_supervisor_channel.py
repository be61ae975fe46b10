"""The control channel: messages arrive whole and in order, and the end of the channel is seen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from tailrace.release.pinned import Pin
from tailrace.server.channel import MESSAGE_BYTES_MAX, SupervisorChannel, WorkerChannel
from tailrace.server.control import Assignment, Drain, Failed, Heartbeat, PipelineReady, Ready
from tailrace.server.options import ServeOptions

ASSIGNMENT = Assignment(
    slot=1,
    metrics_fd=7,
    options=ServeOptions(files=("a.py",), store="redis://x"),
    pin=Pin(root="/r", folder="/r/servers/1", number=1, files=("/a.py",), folders=(("/", "/r/sources/d"),)),
)


@pytest.fixture
def ends() -> Iterator[tuple[SupervisorChannel, WorkerChannel]]:
    """Both ends of a channel."""
    ours, theirs = socket.socketpair()
    pair = SupervisorChannel(ours), WorkerChannel(theirs.detach())
    yield pair
    for channel in pair:
        channel.close()


def test_channel_carries_start_before_there_is_a_loop(ends: tuple[SupervisorChannel, WorkerChannel]) -> None:
    """A worker reads its task without a loop, the rest on one; nothing is lost in between."""
    supervisor, worker = ends
    supervisor.send(ASSIGNMENT)
    supervisor.send(Drain())
    assert worker.receive_blocking(5) == ASSIGNMENT
    assert asyncio.run(worker.receive()) == Drain()


def test_channel_keeps_the_order_of_many_messages(ends: tuple[SupervisorChannel, WorkerChannel]) -> None:
    """Messages larger than the socket's buffer arrive whole, in order, once the other side reads."""
    supervisor, worker = ends
    sent = [Failed("x" * 300_000), Ready(7, pipelines=(PipelineReady("fraud"),)), Failed("y" * 300_000)]

    async def exchange() -> list[object]:
        for message in sent:
            assert worker.send(message)
        beats = asyncio.create_task(worker.beat(0.001))  # what did not fit goes out with the next message
        received: list[object] = []
        while len(received) < len(sent):
            message = await asyncio.wait_for(supervisor.receive(), 10)
            received += [] if isinstance(message, Heartbeat) else [message]
        beats.cancel()
        return received

    assert asyncio.run(exchange()) == sent


def test_channel_that_is_not_read_is_bounded(ends: tuple[SupervisorChannel, WorkerChannel]) -> None:
    """A frozen reader costs its sender no endless memory: heartbeats are dropped, others refused."""
    _, worker = ends
    accepted = 0
    while worker.send(Failed("x" * 100_000)) and accepted < 1_000:
        accepted += 1
    assert accepted < 100
    assert len(worker._outbox) <= 6 * MESSAGE_BYTES_MAX


def test_channel_end_is_told_as_none(ends: tuple[SupervisorChannel, WorkerChannel]) -> None:
    """After the last message of a side that died comes None; sending to it fails quietly."""
    supervisor, worker = ends
    worker.send(Failed("no model"))
    worker.close()
    assert asyncio.run(supervisor.receive()) == Failed("no model")
    assert asyncio.run(supervisor.receive()) is None
    assert supervisor.send(Drain()) is False


def test_channel_nonsense_is_told_as_none() -> None:
    """A line that is no message ends the channel instead of breaking the reader."""
    ours, theirs = socket.socketpair()
    with theirs:
        channel = SupervisorChannel(ours)
        theirs.sendall(b'{"type": "Unheard"}\n')
        assert channel.receive_blocking(5) is None
        channel.close()


def test_channel_silent_for_too_long_is_told_as_none(ends: tuple[SupervisorChannel, WorkerChannel]) -> None:
    """A worker does not wait for ever for its task."""
    assert ends[1].receive_blocking(0.01) is None
