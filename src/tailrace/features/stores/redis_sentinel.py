"""Redis Sentinel: who the master of a service is. The sentinels are asked in turn; the master must say it is one.

    sentinels ──"where is SERVICE?"──> address ──connect, ROLE──> master? ──yes──> it is read
        ^                                                            │no
        └── the connection is lost, or every second one of them names another ──┘

A failover is seen by the connection that is lost with the old master. One that stopped without a word, or is cut off
from the sentinels and not from us, is seen by asking them again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Final

from tailrace.deadline import Clock
from tailrace.errors import StoreError
from tailrace.features.stores.redis_address import Node, RedisAddress, RedisHosts
from tailrace.features.stores.redis_link import CONNECT_S_MAX, FAILURES, FixedPlace, RedisPlace, connect

LOOK_S: Final = 1.0


class SentinelPlace:
    """The master of a service."""

    look_s: float | None = LOOK_S

    def __init__(self, hosts: RedisHosts, clock: Clock) -> None:
        self._hosts = hosts
        self._now_ns = clock.now_ns
        self._sentinels = deque(hosts.hosts)
        self._plain = RedisAddress("", "", 0, 0, None, None, hosts.entry.tls)

    async def find(self) -> RedisAddress:
        """Return the master's address, as the first sentinel says that knows it. Raises StoreError where none does."""
        why = ""
        for sentinel in tuple(self._sentinels):
            try:
                node = await self._ask(sentinel)
            except FAILURES as error:
                why = str(error) or f"{sentinel[0]}:{sentinel[1]} does not answer in time"
                self._sentinels.rotate(-1)  # the next one is asked first from now on
                continue
            return self._hosts.entry.at(node, is_master=True)
        raise StoreError(f"no sentinel names a master of {self._hosts.service!r}: {why}", where=self._hosts.url,
                         next="see: redis-cli -p 26379 sentinel masters")  # fmt: skip

    async def has_moved(self, address: RedisAddress) -> bool:
        """Return whether the sentinels name another master."""
        with contextlib.suppress(StoreError):
            found = await self.find()
            return (found.host, found.port) != (address.host, address.port)
        return False

    async def _ask(self, sentinel: Node) -> Node:
        """Return where one sentinel says that the master is. Raises one of `FAILURES`."""
        connection = await connect(self._plain.at(sentinel), self._now_ns())
        try:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            connection.send(("SENTINEL", "get-master-addr-by-name", self._hosts.service), future, self._now_ns())
            async with asyncio.timeout(CONNECT_S_MAX):
                reply = await future
        finally:
            connection.abort()
        if not isinstance(reply, list) or len(reply) != 2:
            raise StoreError("it knows no such service" if reply is None else f"it answers {str(reply)[:100]!r}",
                             where=f"{sentinel[0]}:{sentinel[1]}")  # fmt: skip
        return reply[0].decode(), int(reply[1])


def find_place(url: str, clock: Clock) -> tuple[RedisPlace, str]:
    """Return the place that a URL names, and what may be shown of the URL. Raises StoreError for a wrong one."""
    if url.partition("://")[0].lower().endswith("+sentinel"):
        hosts = RedisHosts.of_sentinels(url)
        return SentinelPlace(hosts, clock), hosts.url
    address = RedisAddress.parse(url)
    return FixedPlace(address), address.url
