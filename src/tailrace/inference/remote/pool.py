"""The connections to a remote model's server: bounded, kept open, and closed before the server would.

A connection is made in the background and outlives the call it was made for: a call with 5 ms left would otherwise
break off every handshake that takes 10, for ever. Who has no connection waits in line for the next one that is free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, TypeVar

from tailrace.inference.remote.address import RemoteAddress
from tailrace.inference.remote.connection import ClosedIdleError, RemoteConnection, Reply
from tailrace.inference.remote.failure import RemoteError, RemoteFault
from tailrace.traffic import Traffic

CONNECT_S_MAX: Final = 1.0
IDLE_S_MAX: Final = 4.0
"""A connection that was idle so long is closed: uvicorn, in front of MLServer and KServe, closes it after 5 s."""
LOOK_S: Final = 1.0
"""Between two looks for such connections."""
WAITING_MAX: Final = 256
"""Calls that wait for a connection, where there may not be more connections than that."""

T = TypeVar("T")


class RemotePool:
    """Connections to one server. A pool may be used on one loop after another; what was open on the one is closed.

    connections_max: open or being made at once. body_bytes_max: of one answer.
    """

    def __init__(self, address: RemoteAddress, *, connections_max: int, body_bytes_max: int) -> None:
        self._address = address
        self._tls = address.tls()
        self._connections_max = connections_max
        self._waiting_max = max(WAITING_MAX, connections_max)
        self._body_bytes_max = body_bytes_max
        self.traffic = Traffic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._connections: set[RemoteConnection] = set()
        self._idle: list[RemoteConnection] = []
        self._dials: set[asyncio.Task[None]] = set()
        self._waiting: deque[asyncio.Future[RemoteConnection]] = deque()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def ask(self, request: bytes, left_s: float) -> Reply:
        """Return the answer to a request. Raises RemoteError: after `left_s` at the latest.

        A request is sent a second time where the server had closed an idle connection before it read the first one.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._enter(loop)
        ends_s = loop.time() + left_s
        try:
            return await self._ask_once(loop, request, ends_s)
        except ClosedIdleError:
            for connection in self._idle:  # as old: they are closed too, or are about to be
                connection.abort()
            self._idle.clear()
            return await self._ask_once(loop, request, ends_s)

    def close(self) -> None:
        """Let go of all connections."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if self._loop is not None and not self._loop.is_closed():
            self._abort_all()
        self._loop = None

    # -- one exchange -----------------------------------------------------------------------------------------------

    async def _ask_once(self, loop: asyncio.AbstractEventLoop, request: bytes, ends_s: float) -> Reply:
        connection = self._take_idle() or await self._wait_for_connection(loop, ends_s)
        waiter: asyncio.Future[Reply] = loop.create_future()
        timer = loop.call_at(ends_s, _expire, waiter)
        connection.ask(request, waiter)
        try:
            reply = await waiter
        except BaseException:  # late, cancelled or lost: its answer, if one comes, is nobody else's
            connection.abort()
            raise
        finally:
            timer.cancel()
            del waiter  # which has its error, whose traceback has this frame
        self._put_back(connection)
        return reply

    def _take_idle(self) -> RemoteConnection | None:
        """Return the connection that was used last, if one is idle."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
        return None

    async def _wait_for_connection(self, loop: asyncio.AbstractEventLoop, ends_s: float) -> RemoteConnection:
        """Return a new connection, or one that comes free before it is made."""
        if len(self._waiting) >= self._waiting_max:
            raise RemoteError(RemoteFault.BUSY, f"{self._waiting_max} calls wait for a connection already")
        waiter: asyncio.Future[RemoteConnection] = loop.create_future()
        timer = loop.call_at(ends_s, _expire, waiter)
        self._waiting.append(waiter)
        self._dial_for_waiting()
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._put_back(waiter.result())
            raise
        finally:
            timer.cancel()
            del waiter  # which has its error, whose traceback has this frame

    def _put_back(self, connection: RemoteConnection) -> None:
        """Give a connection to who waits longest, or keep it; one that has ended goes."""
        if not connection.is_usable:
            connection.abort()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        assert self._loop is not None
        connection.idle_since_s = self._loop.time()
        self._idle.append(connection)

    # -- connections come and go ------------------------------------------------------------------------------------

    def _dial_for_waiting(self) -> None:
        """Make connections for those who wait, as many as there may be."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        wanted = min(len(self._waiting), self._connections_max - len(self._connections)) - len(self._dials)
        if wanted > 0 and self._loop is not None:
            task = self._loop.create_task(self._dial(self._loop))
            self._dials.add(task)
            task.add_done_callback(self._end_dial)

    async def _dial(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make one connection."""
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                _, connection = await loop.create_connection(
                    self._make_connection, self._address.host, self._address.port, ssl=self._tls
                )
        except OSError as error:  # TimeoutError is one, and so is what TLS finds wrong
            self._fail_first(str(error) or f"no connection in {CONNECT_S_MAX:g} s")
        else:
            if not connection.is_usable:
                self._fail_first("the server closed the connection at once")
                return
            self._connections.add(connection)
            self._put_back(connection)

    def _end_dial(self, dial: asyncio.Task[None]) -> None:
        """Count a dial that has ended no more, and make the next connection: until then there was no room for one."""
        self._dials.discard(dial)
        if dial.get_loop() is self._loop and not dial.cancelled():
            self._dial_for_waiting()

    def _make_connection(self) -> RemoteConnection:
        return RemoteConnection(self._body_bytes_max, self._forget, self.traffic)

    def _fail_first(self, why: str) -> None:
        """Tell who waits longest that there is no connection."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(RemoteError(RemoteFault.UNREACHABLE, f"{self._address.authority}: {why}"))
                return

    def _forget(self, connection: RemoteConnection) -> None:
        """Count a connection that is gone no more."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._dial_for_waiting()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on a loop: what another one had has gone with it."""
        self._connections.clear()
        self._idle.clear()
        self._dials.clear()
        self._waiting.clear()
        self._loop = loop
        self._keeper = loop.create_task(self._keep())

    async def _keep(self) -> None:
        """Close what is idle for long, until the loop ends; then all."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                oldest_s = loop.time() - IDLE_S_MAX
                for connection in [each for each in self._idle if each.idle_since_s < oldest_s]:
                    self._idle.remove(connection)
                    connection.abort()
        finally:
            if loop is self._loop:
                self._abort_all()

    def _abort_all(self) -> None:
        """Let go of every connection, and of those that are being made."""
        for dial in self._dials:
            dial.cancel()
        for connection in list(self._connections):
            connection.abort()
        self._idle.clear()
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(RemoteError(RemoteFault.UNREACHABLE, "the pool was closed"))


def _expire(waiter: asyncio.Future[T]) -> None:
    """Tell who waits that the time is over."""
    if not waiter.done():
        waiter.set_exception(RemoteError(RemoteFault.LATE, "no answer by the deadline"))
