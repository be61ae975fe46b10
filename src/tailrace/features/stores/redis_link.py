"""One raw connection to a Redis, kept up in the background. Redis, Sentinel and Cluster are read through such links.

Replies are matched to commands by their order alone. So a batch that runs out of time leaves its command in line, and
its reply, when it comes, is read and dropped in its place: never another caller's data.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from itertools import repeat
from typing import Any, Final, Protocol

import hiredis

from tailrace.deadline import NS_PER_MS, Clock
from tailrace.errors import StoreError
from tailrace.features.stores.redis_address import NEXT, RedisAddress
from tailrace.traffic import STORES

CONNECT_S_MAX: Final = 0.25
RETRY_S_MIN: Final = 0.01
RETRY_S_MAX: Final = 0.25
OUTSTANDING_MAX: Final = 256
"""Commands in line for a reply; more are refused."""

STALL_NS_MAX: Final = 500 * NS_PER_MS
"""A connection that has owed a reply this long is dropped: its peer may be gone without a word."""

FAILURES: Final = (OSError, StoreError, ValueError)
"""What a try to connect may raise; OSError is of time too, ValueError of a name that no resolver takes."""


class Waiter(Protocol):
    """What waits for a reply: a future, or the answers of a node (redis_cluster.py)."""

    def done(self) -> bool:
        """Whether it has given up: then the reply is dropped."""
        ...

    def set_result(self, reply: Any, /) -> None:
        """Take the reply."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Take note that no reply comes."""
        ...


class RedisPlace(Protocol):
    """Where a link finds its Redis. look_s: how often it is to be asked whether that is still so; None for never."""

    look_s: float | None

    async def find(self) -> RedisAddress:
        """Return the address to connect to. Raises as a try to connect does."""
        ...

    async def has_moved(self, address: RedisAddress) -> bool:
        """Return whether another address has taken the place of this one; False where nobody can tell."""
        ...


class FixedPlace:
    """A Redis that stays where it is."""

    look_s: float | None = None

    def __init__(self, address: RedisAddress) -> None:
        self.address = address

    async def find(self) -> RedisAddress:
        """Return the address."""
        return self.address

    async def has_moved(self, address: RedisAddress) -> bool:
        """Return False."""
        return False


class RedisConnection(asyncio.Protocol):
    """One connection: commands out, replies in, matched by their order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reader = hiredis.Reader()
        self._transport: Any = None
        self.lost: asyncio.Future[None] = loop.create_future()
        self.waiting: deque[tuple[Waiter, int]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Give each whole reply to what waits for it."""
        reader, waiting = self._reader, self.waiting
        STORES.received += len(data)
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                waiter, _ = waiting.popleft()
                if not waiter.done():  # else it gave up: the reply is dropped in its place
                    waiter.set_result(reply)
        except (hiredis.ProtocolError, IndexError):  # not Redis, or a reply that nobody asked for: out of step
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all that wait."""
        for waiter, _ in self.waiting:
            if not waiter.done():
                waiter.set_exception(ConnectionError("Redis closed the connection"))
        self.waiting.clear()
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, command: tuple[Any, ...], waiter: Waiter, now_ns: int) -> None:
        """Put a command in line; its reply becomes the waiter's result."""
        packed = hiredis.pack_command(command)
        STORES.sent += len(packed)
        self._transport.write(packed)
        self.waiting.append((waiter, now_ns))

    def send_packed(self, commands: Iterable[bytes], waiters: Iterable[Waiter], now_ns: int) -> None:
        """Put some packed commands in line, in one write, each with what waits for its reply."""
        packed = b"".join(commands)
        STORES.sent += len(packed)
        self._transport.write(packed)
        self.waiting.extend(zip(waiters, repeat(now_ns), strict=False))

    def is_lost(self) -> bool:
        """Return whether the connection is gone, or going."""
        return self._transport.is_closing()  # type: ignore[no-any-return]

    def abort(self) -> None:
        """Drop the connection, and with it every reply still owed."""
        if self._transport is not None:
            self._transport.abort()


class RedisLink:
    """Keeps one connection. Down, it tries to connect again, at least every 250 ms.

    url: how it is called in messages. outstanding_max: commands in line for a reply.
    """

    def __init__(self, place: RedisPlace, url: str, clock: Clock, *, outstanding_max: int = OUTSTANDING_MAX) -> None:
        self.url = url
        self._place = place
        self._now_ns = clock.now_ns
        self._outstanding_max = outstanding_max
        self._connection: RedisConnection | None = None
        self._first: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._refusal: str = "not connected yet"

    async def open(self) -> None:
        """Connect, or go on trying in the background. To open what is open waits for the first try, no more."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._first = loop.create_future()
            self._task = loop.create_task(self._keep_connected(self._first))
        assert self._first is not None
        await asyncio.shield(self._first)

    def close(self) -> None:
        """Let go of the connection; what waits for it fails."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None and not self._connection.is_lost()

    def usable_connection(self) -> RedisConnection:
        """Return the connection. Raises ConnectionError without one, and drops one that has stalled."""
        connection = self._connection
        if connection is None or connection.is_lost():
            raise ConnectionError(f"{self.url}: {self._refusal}")
        waiting = connection.waiting
        if waiting:
            if self._now_ns() - waiting[0][1] > STALL_NS_MAX:
                self._connection = None
                connection.abort()
                raise ConnectionError(f"{self.url}: Redis stopped answering")
            if len(waiting) >= self._outstanding_max:
                raise ConnectionError(f"{self.url}: {self._outstanding_max} commands wait for an answer already")
        return connection

    async def _keep_connected(self, first: asyncio.Future[None]) -> None:
        """Connect, wait until the connection is lost, and so on until cancelled. `first`: done after the first try."""
        retry_s = RETRY_S_MIN
        while True:
            connection = address = None
            try:
                address = await self._place.find()
                connection = await connect(address, self._now_ns())
            except FAILURES as error:
                self._refusal = str(error) or "no answer in time"
            finally:
                if not first.done() and connection is None:
                    first.set_result(None)
            if connection is None or address is None:
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)
                continue
            self._connection, retry_s = connection, RETRY_S_MIN
            self._refusal = "Redis closed the connection"
            if not first.done():
                first.set_result(None)
            try:
                await self._wait_until_lost(connection, address)
            finally:
                connection.abort()
                if self._connection is connection:
                    self._connection = None

    async def _wait_until_lost(self, connection: RedisConnection, address: RedisAddress) -> None:
        """Wait until the connection is lost, or no longer the right one."""
        while not connection.lost.done():
            await asyncio.wait({connection.lost}, timeout=self._place.look_s)
            if not connection.lost.done() and await self._place.has_moved(address):
                return


async def connect(address: RedisAddress, now_ns: int) -> RedisConnection:
    """Return a connection on which Redis has answered. Raises one of `FAILURES`."""
    loop = asyncio.get_running_loop()
    connection = RedisConnection(loop)
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            await loop.create_connection(lambda: connection, address.host, address.port, ssl=address.tls)
            for command in address.greeting():
                future = loop.create_future()
                connection.send(command, future, now_ns)
                _check_greeting(address, command, await future)
    except BaseException:
        connection.abort()
        raise
    return connection


def _check_greeting(address: RedisAddress, command: tuple[Any, ...], reply: Any) -> None:
    if isinstance(reply, Exception):
        raise StoreError(f"Redis refused {command[0]}: {reply}", where=address.url, next=NEXT)
    if command[0] == "ROLE" and (not isinstance(reply, list) or reply[:1] != [b"master"]):
        raise StoreError("it is no master, or no more", where=address.url, next="wait until the sentinels agree")
