"""A worker's link to the ingester: each call gets its own answer, in its own time, and what waits is bounded."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tailrace as tr
from tailrace.batch import Batch, Call
from tailrace.deadline import NS_PER_MS, NS_PER_S, MonotonicClock
from tailrace.features.updates import Fate
from tailrace.ingest import link as link_module
from tailrace.ingest.frames import EventFrame, FrameReader, encode_fates
from tailrace.ingest.link import EventLink, EventsRefusedError
from tailrace.server.events import EventsEndpoint


class Event(tr.Request):
    """An event of a stream."""

    number: int
    time: datetime


STREAM = tr.Stream("events", schema=Event, time="time", id="number")


class Peer:
    """The ingester's end, whose answers the test gives. frames: what has come."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = FrameReader(EventFrame)
        self.frames: list[Any] = []

    async def receive(self, count: int) -> None:
        """Wait until so many frames have come."""
        while len(self.frames) < count:
            self.frames += self._reader.read(await asyncio.get_running_loop().sock_recv(self._sock, 1 << 20))

    async def answer(self, frame: Any, fates: bytes) -> None:
        """Answer one frame."""
        await asyncio.get_running_loop().sock_sendall(self._sock, encode_fates(frame.number, fates))

    def close(self) -> None:
        """Be gone."""
        self._sock.close()


def run(scenario: Callable[[EventLink, Peer], Awaitable[None]]) -> None:
    """Run a scenario with a link and its peer."""

    async def linked() -> None:
        ours, theirs = socket.socketpair()
        link, peer = EventLink(MonotonicClock()), Peer(theirs)
        await link.attach(ours)
        async with asyncio.timeout(20):
            await scenario(link, peer)
        link.close()
        peer.close()
        await asyncio.sleep(0)

    asyncio.run(linked())


def after_s(seconds: float) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + int(seconds * NS_PER_S)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_each_send_gets_its_own_answer(order: list[int]) -> None:
    """Answers that come one by one, in any order, take no other's with them."""

    async def scenario(link: EventLink, peer: Peer) -> None:
        sends = [asyncio.create_task(link.send("stream:events", [number], after_s(10))) for number in range(4)]
        await peer.receive(4)
        for place in order:
            await peer.answer(peer.frames[place], bytes([place]))
            assert (await sends[place]).tolist() == [place]

    run(scenario)


def test_frames_that_nobody_waits_for_count_until_they_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingester that hangs is not sent more and more by callers that give up; once it answers, it takes more."""
    monkeypatch.setattr(link_module, "WAITING_MAX", 3)

    async def scenario(link: EventLink, peer: Peer) -> None:
        for number in range(3):
            with pytest.raises(TimeoutError):
                await link.send("stream:events", [number], after_s(0.01))
        with pytest.raises(ConnectionError, match="does not keep up"):
            await link.send("stream:events", [3], after_s(10))
        await peer.receive(3)
        await peer.answer(peer.frames[0], b"\0")
        await asyncio.sleep(0.05)
        last = asyncio.create_task(link.send("stream:events", [4], after_s(10)))
        await peer.receive(4)
        await peer.answer(peer.frames[3], b"\1")
        assert (await last).tolist() == [Fate(1)]

    run(scenario)


def test_bytes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond, a call is refused at once; one that is alone is sent whatever its size."""
    monkeypatch.setattr(link_module, "WAITING_BYTES_MAX", 1_000)

    async def scenario(link: EventLink, peer: Peer) -> None:
        large = asyncio.create_task(link.send("stream:events", ["x" * 2_000], after_s(10)))
        await peer.receive(1)
        with pytest.raises(ConnectionError, match="does not keep up"):
            await link.send("stream:events", ["x"], after_s(10))
        await peer.answer(peer.frames[0], b"\0")
        assert len(await large) == 1

    run(scenario)


def test_call_too_large_for_a_frame_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused here: the ingester would take it for a broken link."""
    monkeypatch.setattr(link_module, "FRAME_BYTES_MAX", 1_000)

    async def scenario(link: EventLink, peer: Peer) -> None:
        with pytest.raises(EventsRefusedError, match="too many for one call"):
            await link.send("stream:events", ["x" * 2_000], after_s(10))
        assert link.attached.is_set()

    run(scenario)


def test_lost_link_fails_what_waits() -> None:
    """And what comes after, until there is another link."""

    async def scenario(link: EventLink, peer: Peer) -> None:
        send = asyncio.create_task(link.send("stream:events", [1], after_s(10)))
        await peer.receive(1)
        peer.close()
        with pytest.raises(ConnectionError, match="gone"):
            await send
        with pytest.raises(ConnectionError, match="no ingester"):
            await link.send("stream:events", [1], after_s(10))
        assert not link.attached.is_set()

    run(scenario)


def test_call_in_a_hurry_decides_for_no_other() -> None:
    """Two calls of one tick: the one whose time runs out gets 504 then, the other its answer when it comes."""
    delivered: dict[str, tuple[int, Any]] = {}

    def transport(name: str) -> Any:
        def deliver(batch: Batch, places: Any) -> None:
            assert list(places) == [0]
            error = batch.errors.get(0)
            delivered[name] = (200, json.loads(batch.bodies[0])) if error is None else (error.status, error)

        return SimpleNamespace(deliver=deliver)

    async def scenario(link: EventLink, peer: Peer) -> None:
        endpoint = EventsEndpoint(STREAM, link, MonotonicClock(), 10, lambda kind: None)
        body = b'{"number": 1, "time": "2026-01-05T00:00:00Z"}'
        calls = {name: Call(transport(name), None, None, 0, 0, 1) for name in ("hurried", "calm")}
        assert endpoint.accept(calls["hurried"], body, NS_PER_MS) is None
        assert endpoint.accept(calls["calm"], body, 10 * NS_PER_S) is None
        await peer.receive(2)
        while "hurried" not in delivered:
            await asyncio.sleep(0.001)
        assert endpoint.calls_waiting == 1
        await peer.answer(peer.frames[1], np.array([Fate.COUNTED], np.uint8).tobytes())
        while "calm" not in delivered:
            await asyncio.sleep(0.001)
        assert delivered["hurried"][0] == 504
        assert delivered["calm"] == (200, {"counted": 1, "duplicates": 0, "refused": []})
        assert endpoint.take_calls_most() == 2
        assert endpoint.take_calls_most() == 0

    run(scenario)
