"""What a worker accepts on: the sockets of its slots, and the one at a path."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from tailrace.server.acceptor import Acceptor
from tailrace.server.slots import BACKLOG, shut_listener, turn_away

PENDING_S: Final = 0.05
"""How long a stopping worker waits for handshakes that were under way."""


class Doors:
    """Accepts connections and makes their protocols, until it closes.

    secret: makes those of connections that cross a network; None: as of the others.
    """

    def __init__(
        self, protocol: Callable[[], asyncio.Protocol], secret: Callable[[], asyncio.Protocol] | None = None
    ) -> None:
        self._protocol = protocol
        self._network_protocol = secret or protocol
        self._listeners: dict[int, socket.socket] = {}
        self._servers: dict[int, asyncio.Server] = {}
        self._acceptor: Acceptor | None = None

    async def open_slot(self, slot: int, descriptor: int) -> bool:
        """Accept on a slot's socket: a copy of it, since the supervisor's must stay open; False if it is open."""
        if slot in self._servers:
            os.close(descriptor)
            return False
        self._listeners[slot] = listener = socket.socket(fileno=descriptor)
        loop = asyncio.get_running_loop()
        self._servers[slot] = await loop.create_server(self._network_protocol, sock=listener, backlog=BACKLOG)
        return True

    def close_slot(self, slot: int) -> None:
        """Accept no more on a slot's socket, if it is open."""
        if slot in self._servers:
            self._servers.pop(slot).close()
            del self._listeners[slot]

    def open_unix(self, descriptor: int) -> None:
        """Accept on the socket at a path."""
        self._acceptor = Acceptor(socket.socket(fileno=descriptor), self._protocol)

    async def close(self, *, alone: bool, within_s: float) -> None:
        """Accept what is pending, and nothing more.

        alone: there is no supervisor that turns new connections away meanwhile, and shuts the sockets after.
        """
        listeners = [socket.socket(fileno=os.dup(each.fileno())) for each in self._listeners.values()] if alone else []
        for listener in listeners:
            turn_away(listener)
        if self._acceptor is not None:
            await self._acceptor.drain(shut=alone)
        await self._accept_pending(within_s)
        for server in self._servers.values():
            server.close()
        for listener in listeners:
            shut_listener(listener)
            listener.close()

    async def _accept_pending(self, within_s: float) -> None:
        """Go on accepting until nothing waits for it, while no new handshake begins."""
        queues = select.poll()
        for listener in self._listeners.values():
            queues.register(listener.fileno(), select.POLLIN)
        end_s = time.monotonic() + within_s
        await asyncio.sleep(PENDING_S)
        while queues.poll(0) and time.monotonic() < end_s:
            await asyncio.sleep(0)
