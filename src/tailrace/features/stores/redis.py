"""The network store: Redis, read over one raw connection a worker with one MGET a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.stores.redis_address import NEXT
from tailrace.features.stores.redis_link import RedisLink
from tailrace.features.stores.redis_sentinel import find_place


class RedisStore:
    """Reads one Redis, or the master that sentinels name. Down, it fails at once and keeps trying to connect."""

    network: Final = True

    def __init__(self, url: str, clock: Clock) -> None:
        place, shown = find_place(url, clock)
        self._link = RedisLink(place, shown, clock)
        self._now_ns = clock.now_ns
        self._loop: Any = None

    async def open(self) -> None:
        """Connect, or go on trying in the background. To open what is open changes nothing."""
        self._loop = asyncio.get_running_loop()
        await self._link.open()

    def close(self) -> None:
        """Let go of the connection; what waits for it fails."""
        self._link.close()

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order.

        Raises TimeoutError at the deadline, ConnectionError without a connection, StoreError for any other reply.
        """
        if not keys:
            return []
        connection, now_ns = self._link.usable_connection(), self._now_ns()
        if now_ns >= deadline_ns:
            raise TimeoutError("no time left to ask Redis")
        future: asyncio.Future[Any] = self._loop.create_future()
        connection.send(("MGET", *keys), future, now_ns)
        timer = self._loop.call_later((deadline_ns - now_ns) / NS_PER_S, give_up, future)
        try:
            reply = await future
        finally:
            timer.cancel()
        if type(reply) is not list or len(reply) != len(keys):
            raise StoreError(f"Redis answered {str(reply)[:100]!r}", where=self._link.url, next=NEXT)
        return reply


def give_up(future: asyncio.Future[Any]) -> None:
    """End the wait for a reply, where it still goes on."""
    if not future.done():
        future.set_exception(TimeoutError("Redis did not answer in time"))
