"""Which node of a Redis Cluster has which slot, and a connection to each: kept true in the background.

The map is read from one node after the other: every 10 seconds, when a node sends us elsewhere, and ten times a second
while a node that has slots cannot be reached, so that a failover is followed as soon as one node knows of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

from tailrace.deadline import NS_PER_S, Clock
from tailrace.errors import StoreError
from tailrace.features.stores.redis_address import NEXT, Node, RedisHosts
from tailrace.features.stores.redis_link import (
    CONNECT_S_MAX,
    FAILURES,
    OUTSTANDING_MAX,
    FixedPlace,
    RedisConnection,
    RedisLink,
    connect,
)  # fmt: skip
from tailrace.features.stores.redis_slots import SlotMap

NODES_MAX: Final = 1_024
LOOK_S: Final = 10.0
LOOK_S_MIN: Final = 0.1
"""Between two looks, however many nodes send us elsewhere."""

_SLOTS_COMMAND: Final = ("CLUSTER", "SLOTS")


class Topology:
    """The nodes of one cluster. Where no node can be asked, it keeps what it knows and goes on trying."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._hosts = RedisHosts.of_cluster(url)
        self.url: Final = self._hosts.url
        self._clock = clock
        self._now_ns = clock.now_ns
        self._map = SlotMap()
        self._links: dict[Node, RedisLink] = {}
        self._sent_to: set[Node] = set()
        self._looks = 0
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None
        self._is_stale = asyncio.Event()
        self._refusal = "not connected yet"

    async def open(self) -> None:
        """Read the map and connect to its nodes, or go on trying. What is open is waited for once only."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._is_stale = asyncio.Event()
            self._first = loop.create_future()
            self._task = loop.create_task(self._keep_true(self._first))
        assert self._first is not None
        await asyncio.shield(self._first)

    def close(self) -> None:
        """Let go of every connection."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._map = SlotMap()

    def owner(self, slot: int) -> Node:
        """Return the node that has a slot. Raises ConnectionError where nobody is known to."""
        node = self._map.owner(slot)
        if node is None:
            self.look_soon()
            raise ConnectionError(f"{self.url}: no node is known to have slot {slot}: {self._refusal}")
        return node

    def connection(self, node: Node) -> RedisConnection:
        """Return the connection to a node. Raises ConnectionError without one."""
        link = self._links.get(node)
        try:
            if link is None:
                raise ConnectionError(f"{self.url}: not connected to {node[0]}:{node[1]} yet")
            return link.usable_connection()
        except ConnectionError:
            self.look_soon()
            raise

    def move(self, slot: int, node: Node) -> None:
        """Note that a slot has moved; the map is read anew soon."""
        self._map.move(slot, node)
        self.look_soon()

    def look_soon(self) -> None:
        """Have the map read anew."""
        self._is_stale.set()

    async def reach(self, nodes: Iterable[Node], deadline_ns: int) -> None:
        """Connect to nodes that we have been sent to, where they are new. Raises TimeoutError at the deadline."""
        self._sent_to.update(nodes)
        new = [node for node in nodes if node not in self._links]
        if not new:
            return
        try:
            async with asyncio.timeout(max(0, deadline_ns - self._now_ns()) / NS_PER_S):
                await self._open_links(new)
        except TimeoutError:
            raise TimeoutError("no time left to ask the node that Redis sent us to") from None

    async def _open_links(self, nodes: Iterable[Node]) -> None:
        """Connect to nodes; return after the first try of each."""
        for node in nodes:
            if node not in self._links:
                if len(self._links) >= NODES_MAX:
                    raise StoreError(f"the cluster has over {NODES_MAX} nodes", where=self.url, next=NEXT)
                address = self._hosts.entry.at(node)
                self._links[node] = RedisLink(
                    FixedPlace(address), address.url, self._clock, outstanding_max=OUTSTANDING_MAX * 64
                )
        await asyncio.gather(*[link.open() for link in map(self._links.get, nodes) if link is not None])

    async def _keep_true(self, first: asyncio.Future[None]) -> None:
        """Read the map again and again until cancelled. `first`: done after the first try."""
        while True:
            self._is_stale.clear()
            try:
                await self._read_map()
            except FAILURES as error:
                self._refusal = str(error) or "no answer in time"
                self._is_stale.set()
            finally:
                if not first.done():
                    first.set_result(None)
            await asyncio.sleep(LOOK_S_MIN)
            if all(link.is_connected for link in self._links.values()):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._is_stale.wait()

    async def _read_map(self) -> None:
        """Read the map from the next node that answers, and connect to its nodes. Raises one of `FAILURES`."""
        found = await self._ask_any()
        await self._open_links(found.nodes)
        self._map = found
        kept = {*found.nodes, *self._sent_to}
        self._sent_to.clear()
        for node in [node for node in self._links if node not in kept]:
            self._links.pop(node).close()

    async def _ask_any(self) -> SlotMap:
        """Return the map as the next node has it that answers."""
        why: Exception = StoreError("no node is known", where=self.url)
        connected = [node for node, link in self._links.items() if link.is_connected]
        turn = self._looks % max(len(connected), 1)  # one that is cut off from the others is not believed for long
        self._looks += 1
        for node in dict.fromkeys([*connected[turn:], *connected[:turn], *self._hosts.hosts]):
            try:
                return SlotMap.parse(await self._ask(node), node)
            except FAILURES as error:
                why = error
        raise why

    async def _ask(self, node: Node) -> Any:
        """Return what one node says of the slots. Raises one of `FAILURES`."""
        link = self._links.get(node)
        is_linked = link is not None and link.is_connected
        now_ns = self._now_ns()
        if is_linked and link is not None:
            connection = link.usable_connection()
        else:
            connection = await connect(self._hosts.entry.at(node), now_ns)
        try:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            connection.send(_SLOTS_COMMAND, future, now_ns)
            async with asyncio.timeout(CONNECT_S_MAX):
                return await future
        finally:
            if not is_linked:
                connection.abort()
