"""The network store: Redis, read over one raw connection a worker with one MGET a batch.

Replies are matched to commands by their order alone. So a batch that runs out of time leaves its command in line, and
its reply, when it comes, is read and dropped in its place: never another caller's data.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from tailrace.deadline import NS_PER_MS, NS_PER_S, Clock
from tailrace.errors import StoreError

CONNECT_S_MAX: Final = 0.25
RETRY_S_MIN: Final = 0.01
RETRY_S_MAX: Final = 0.25
OUTSTANDING_MAX: Final = 256
"""Commands in line for a reply; more are refused."""

STALL_NS_MAX: Final = 500 * NS_PER_MS
"""A connection that has owed a reply this long is dropped: its peer may be gone without a word."""

NEXT: Final = "see that Redis answers there: redis-cli -u URL ping"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is and how to enter: `redis://[[user]:password@]host[:port][/database]`, rediss:// for TLS.

    Of the options in its query, `ssl_ca_certs=FILE` names the authority that signed the server's certificate.
    """

    url: str
    host: str
    port: int
    database: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None

    @staticmethod
    def parse(url: str) -> RedisAddress:
        """Return the address in a URL. Raises StoreError for one that is none."""
        try:
            parts = urlsplit(url)
            host, port, database = parts.hostname or "localhost", parts.port or 6379, int(parts.path.strip("/") or 0)
            host.encode("idna")  # what no resolver takes: a..b, or a label of over 63 characters
        except ValueError:
            raise StoreError("not an address of Redis", where=_without_password(url),
                             next="write redis://host:port/database") from None  # fmt: skip
        tls = None
        if parts.scheme == "rediss":
            authority = parse_qs(parts.query).get("ssl_ca_certs", [None])[0]
            try:
                tls = ssl.create_default_context(cafile=authority)
            except OSError as error:
                raise StoreError(f"cannot read {authority}: {error}", where=_without_password(url),
                                 next="give a PEM file with ssl_ca_certs=") from None  # fmt: skip
        return RedisAddress(
            url=_without_password(url),
            host=host,
            port=port,
            database=database,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            tls=tls,
        )

    def greeting(self) -> list[tuple[Any, ...]]:
        """Return the commands that a new connection begins with; the last proves that Redis answers."""
        commands: list[tuple[Any, ...]] = []
        if self.password is not None:
            user = (self.username,) if self.username else ()
            commands.append(("AUTH", *user, self.password))
        if self.database:
            commands.append(("SELECT", str(self.database)))
        return [*commands, ("PING",)]


def _without_password(url: str) -> str:
    """Return what may be shown of a URL, a wrong one too."""
    scheme, mark, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}".partition("?")[0]


class _Connection(asyncio.Protocol):
    """One connection: commands out, replies in, matched by their order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reader = hiredis.Reader()
        self._transport: Any = None
        self.lost: asyncio.Future[None] = loop.create_future()
        self.waiting: deque[tuple[asyncio.Future[Any], int]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self.waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                future, _ = waiting.popleft()
                if not future.done():  # else it gave up: the reply is dropped in its place
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):  # not Redis, or a reply that nobody asked for: out of step
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for future, _ in self.waiting:
            if not future.done():
                future.set_exception(ConnectionError("Redis closed the connection"))
        self.waiting.clear()
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, command: tuple[Any, ...], future: asyncio.Future[Any], now_ns: int) -> None:
        """Put a command in line; its reply becomes the future's result."""
        self._transport.write(hiredis.pack_command(command))
        self.waiting.append((future, now_ns))

    def is_lost(self) -> bool:
        """Return whether the connection is gone, or going."""
        return self._transport.is_closing()  # type: ignore[no-any-return]

    def abort(self) -> None:
        """Drop the connection, and with it every reply still owed."""
        if self._transport is not None:
            self._transport.abort()


class RedisStore:
    """Reads Redis. Down, it fails at once and keeps trying to connect, at least every 250 ms."""

    network: Final = True

    def __init__(self, url: str, clock: Clock) -> None:
        self._address = RedisAddress.parse(url)
        self._now_ns = clock.now_ns
        self._connection: _Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: Any = None
        self._refusal: str = "not connected yet"

    async def open(self) -> None:
        """Connect, or go on trying in the background. To open what is open changes nothing."""
        if self._task is not None:
            return
        self._loop = asyncio.get_running_loop()
        first = self._loop.create_future()
        self._task = self._loop.create_task(self._keep_connected(first))
        await first

    def close(self) -> None:
        """Let go of the connection; what waits for it fails."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order.

        Raises TimeoutError at the deadline, ConnectionError without a connection, StoreError for any other reply.
        """
        if not keys:
            return []
        connection, now_ns = self._usable_connection(), self._now_ns()
        if now_ns >= deadline_ns:
            raise TimeoutError("no time left to ask Redis")
        future: asyncio.Future[Any] = self._loop.create_future()
        connection.send(("MGET", *keys), future, now_ns)
        timer = self._loop.call_later((deadline_ns - now_ns) / NS_PER_S, _give_up, future)
        try:
            reply = await future
        finally:
            timer.cancel()
        if type(reply) is not list or len(reply) != len(keys):
            raise StoreError(f"Redis answered {str(reply)[:100]!r}", where=self._address.url, next=NEXT)
        return reply

    def _usable_connection(self) -> _Connection:
        """Return the connection. Raises ConnectionError without one, and drops one that has stalled."""
        connection = self._connection
        if connection is None or connection.is_lost():
            raise ConnectionError(f"{self._address.url}: {self._refusal}")
        waiting = connection.waiting
        if waiting:
            if self._now_ns() - waiting[0][1] > STALL_NS_MAX:
                self._connection = None
                connection.abort()
                raise ConnectionError(f"{self._address.url}: Redis stopped answering")
            if len(waiting) >= OUTSTANDING_MAX:
                raise ConnectionError(f"{self._address.url}: {OUTSTANDING_MAX} commands wait for an answer already")
        return connection

    async def _keep_connected(self, first: asyncio.Future[None]) -> None:
        """Connect, wait until the connection is lost, and so on until cancelled. `first`: done after the first try."""
        retry_s = RETRY_S_MIN
        while True:
            connection = None
            try:
                connection = await self._connect()
            except (OSError, StoreError, ValueError) as error:  # the last: of a name that no resolver takes
                self._refusal = str(error) or "no answer in time"
            finally:
                if not first.done():
                    first.set_result(None)
            if connection is None:
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)
                continue
            self._connection, retry_s = connection, RETRY_S_MIN
            self._refusal = "Redis closed the connection"
            await connection.lost
            self._connection = None

    async def _connect(self) -> _Connection:
        """Return a connection on which Redis has answered. Raises OSError (of time too), ValueError or StoreError."""
        address, loop = self._address, self._loop
        connection = _Connection(loop)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await loop.create_connection(lambda: connection, address.host, address.port, ssl=address.tls)
                for command in address.greeting():
                    future = loop.create_future()
                    connection.send(command, future, self._now_ns())
                    reply = await future
                    if isinstance(reply, Exception):
                        raise StoreError(f"Redis refused {command[0]}: {reply}", where=address.url, next=NEXT)
        except BaseException:
            connection.abort()
            raise
        return connection


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError("Redis did not answer in time"))
