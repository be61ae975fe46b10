"""A worker's link to the ingester: events go out, their fates come back. The loop never waits for a store's lock.

A link may be lost at any time, and comes back when the ingester does. What was sent and is not answered by then is not
known to be counted; it may be sent again, since an event that comes again is counted once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S, Clock
from tailrace.features.updates import Fate
from tailrace.ingest.frames import FRAME_BYTES_MAX, FateFrame, FrameReader, encode_events, pipeline_route

WAITING_MAX: Final = 4_096
WAITING_BYTES_MAX: Final = 32 << 20
"""Frames that wait for their answer, and their bytes. They bound what the ingester holds of a worker, too."""


class EventsRefusedError(Exception):
    """The ingester has counted none of the events; the text says why."""


class EventLink:
    """The worker's end. Without an ingester every event is refused at once."""

    def __init__(self, clock: Clock) -> None:
        self._now_ns = clock.now_ns
        self._connection: _Connection | None = None
        self._numbers = 0
        self.attached = asyncio.Event()
        """Set while there is an ingester."""

    async def attach(self, sock: socket.socket) -> None:
        """Use a connected socket from now on; the link before is let go."""
        self.close()
        loop = asyncio.get_running_loop()
        _, self._connection = await loop.create_connection(lambda: _Connection(self), sock=sock)
        self.attached.set()

    def close(self) -> None:
        """Let go of the connection; what waits for an answer fails."""
        connection, self._connection = self._connection, None
        self.attached.clear()
        if connection is not None:
            connection.abort()

    def lose(self, connection: _Connection) -> None:
        """Hear that a connection is lost."""
        if self._connection is connection:
            self._connection = None
            self.attached.clear()

    async def send(self, route: str, events: Sequence[Any], deadline_ns: int) -> NDArray[np.uint8]:
        """Have events counted; return the fate of each, of `Fate`.

        deadline_ns: monotonic. Raises TimeoutError then, ConnectionError without an ingester or for one that does not
        read, EventsRefusedError where it has counted none.
        """
        connection, now_ns = self._connection, self._now_ns()
        if connection is None:
            raise ConnectionError("there is no ingester just now")
        if now_ns >= deadline_ns:
            raise TimeoutError("no time left to count events")
        self._numbers += 1
        frame = encode_events(self._numbers, route, events)
        if len(frame) > FRAME_BYTES_MAX:
            raise EventsRefusedError(f"{len(events)} events of {len(frame):,} bytes are too many for one call")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[FateFrame] = loop.create_future()
        connection.send(self._numbers, frame, future)
        timer = loop.call_later((deadline_ns - now_ns) / NS_PER_S, _give_up, future)
        try:
            answer = await future
        finally:
            timer.cancel()
        if answer.fates is None or len(answer.fates) != len(events):
            raise EventsRefusedError(answer.why or "the answer is of other events")
        return np.frombuffer(answer.fates, np.uint8)


class _Sent(NamedTuple):
    """A frame that is not answered yet, whether or not somebody still waits for it."""

    future: asyncio.Future[FateFrame]
    size: int


class _Connection(asyncio.Protocol):
    """One connection to an ingester."""

    def __init__(self, link: EventLink) -> None:
        self._link = link
        self._reader = FrameReader(FateFrame)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._waiting: dict[int, _Sent] = {}
        self._waiting_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self, number: int, frame: bytes, future: asyncio.Future[FateFrame]) -> None:
        """Send a frame. Raises ConnectionError where too much waits already."""
        is_full = len(self._waiting) >= WAITING_MAX or self._waiting_bytes + len(frame) > WAITING_BYTES_MAX
        if self._waiting and is_full:
            raise ConnectionError("the ingester does not keep up")
        self._waiting[number] = _Sent(future, len(frame))
        self._waiting_bytes += len(frame)
        self._transport.write(frame)

    def data_received(self, data: bytes) -> None:
        """Hand out the answers."""
        try:
            for answer in self._reader.read(data):
                sent = self._waiting.pop(answer.number, None)
                if sent is None:
                    continue
                self._waiting_bytes -= sent.size
                if not sent.future.done():
                    sent.future.set_result(answer)
        except ValueError:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what waits."""
        self._link.lose(self)
        for sent in self._waiting.values():
            if not sent.future.done():
                sent.future.set_exception(ConnectionError("the ingester is gone"))
        self._waiting.clear()

    def abort(self) -> None:
        """Let go."""
        self._transport.abort()


class LinkedEvents:
    """The requests of one pipeline as events, counted by the ingester; an `EventSink`."""

    suspends: Final = True

    def __init__(self, link: EventLink, pipeline: str, clock: Clock) -> None:
        self._link = link
        self._route = pipeline_route(pipeline)
        self._now_ns = clock.now_ns

    async def record(self, requests: Any, deadline_ns: int) -> NDArray[np.bool_] | None:
        """Have requests counted; see `EventSink`. Half of the time is left for what follows."""
        now_ns = self._now_ns()
        try:
            fates = await self._link.send(self._route, requests, now_ns + (deadline_ns - now_ns) // 2)
        except (TimeoutError, ConnectionError, EventsRefusedError):
            return np.ones(len(requests), np.bool_)
        lost: NDArray[np.bool_] = fates > Fate.DUPLICATE
        return lost if np.count_nonzero(lost) else None


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError("the ingester did not answer in time"))
