"""The generator's connections, and which of them takes the next request.

An idle connection goes first, the one idle longest (so that all of them are used). With none idle, the request is
pipelined behind others: of the next two connections in turn, the one with fewer requests in flight takes it (the
power of two choices: Mitzenmacher, IEEE TPDS 12(10), 2001). So a schedule is kept with fewer connections than requests
in flight, and a stalled server collects its requests instead of pacing the generator.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from typing import Final

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.errors import LoadtestError
from tailrace.loadtest.connection import Address, Connection, State

RETRY_NS: Final = 100 * NS_PER_MS
"""A connection starts to connect at most this often."""
CONNECT_NS_MAX: Final = 2_000 * NS_PER_MS
OPEN_NS_MAX: Final = 10 * NS_PER_S
CONNECTING_MAX: Final = 64
"""Connections opened at once before the run; more could overflow the server's backlog and wait for a retransmission."""


class Pool:
    """All connections of one generator, watched by one epoll."""

    def __init__(self, address: Address, size: int, depth_max: int) -> None:
        self.epoll = select.epoll()
        self.reconnects = 0
        self._depth_max = depth_max
        self._connections = [Connection(address) for _ in range(size)]
        self._by_fd: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._turn = 0

    def open(self, where: str) -> None:
        """Connect everything, a few at a time, before the run. Raises LoadtestError when the server is not reached."""
        deadline_ns = time.monotonic_ns() + OPEN_NS_MAX
        for first in range(0, len(self._connections), CONNECTING_MAX):
            waiting = {}
            for connection in self._connections[first : first + CONNECTING_MAX]:
                try:
                    connection.connect(time.monotonic_ns())
                except OSError as error:
                    raise unreachable(error, where) from None
                waiting[connection.fd] = connection
                self.epoll.register(connection.fd, select.EPOLLOUT)
            self._by_fd |= waiting
            while waiting:
                events = self.epoll.poll(max(0.0, (deadline_ns - time.monotonic_ns()) / NS_PER_S))
                if not events and time.monotonic_ns() >= deadline_ns:
                    raise unreachable(TimeoutError(f"no connection within {OPEN_NS_MAX / NS_PER_S:.0f} s"), where)
                for fd, _ in events:
                    if fd not in waiting:
                        continue  # one already open was closed again; the run will find that out
                    try:
                        self.settle(waiting.pop(fd))
                    except OSError as error:
                        raise unreachable(error, where) from None
        self.reconnects = 0

    def choose(self) -> Connection | None:
        """Return the connection for the next request; None when none has room."""
        if self._idle:
            return self._idle.popleft()
        connections, turn = self._connections, self._turn
        self._turn = (turn + 1) % len(connections)
        one, other = connections[turn], connections[self._turn]
        shorter = one if len(one.inflight) <= len(other.inflight) else other
        if shorter.has_room(self._depth_max):
            return shorter
        with_room = [connection for connection in connections if connection.has_room(self._depth_max)]
        return min(with_room, key=lambda connection: len(connection.inflight), default=None)

    def find(self, fd: int) -> Connection:
        """Return the connection of a file descriptor that epoll named."""
        return self._by_fd[fd]

    def rest(self, connection: Connection) -> None:
        """Take back a connection that has answered all it was asked."""
        self._idle.append(connection)

    def watch(self, connection: Connection, *, for_room: bool) -> None:
        """Wake for what the connection receives and, `for_room`, also when it can send again."""
        self.epoll.modify(connection.fd, select.EPOLLIN | (select.EPOLLOUT if for_room else 0))

    def connect(self, connection: Connection, now_ns: int) -> None:
        """Start to connect; a refusal at once leaves the connection down."""
        try:
            connection.connect(now_ns)
        except OSError:
            return
        self._by_fd[connection.fd] = connection
        self.epoll.register(connection.fd, select.EPOLLOUT)

    def settle(self, connection: Connection) -> None:
        """Finish connecting: up and idle. Raises the OSError it failed with."""
        connection.finish_connect()
        self.watch(connection, for_room=False)
        self._idle.append(connection)
        self.reconnects += 1

    def drop(self, connection: Connection, now_ns: int) -> list[int]:
        """Close a connection and start a new one; return the shots that lose their answers."""
        self.epoll.unregister(connection.fd)
        del self._by_fd[connection.fd]
        if connection in self._idle:
            self._idle.remove(connection)
        lost = connection.close()
        if now_ns - connection.tried_ns >= RETRY_NS:
            self.connect(connection, now_ns)
        return lost

    def revive(self, now_ns: int) -> None:
        """Connect again what is down, and give up on what takes too long to connect."""
        for connection in self._connections:
            waited_ns = now_ns - connection.tried_ns
            if connection.state is State.CONNECTING and waited_ns >= CONNECT_NS_MAX:
                self.drop(connection, now_ns)
            elif connection.state is State.DOWN and waited_ns >= RETRY_NS:
                self.connect(connection, now_ns)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.close()
        self.epoll.close()


def unreachable(error: OSError, where: str) -> LoadtestError:
    """Return the error that says that a server cannot be reached, and why."""
    why = os.strerror(error.errno).lower() if error.errno else str(error)
    return LoadtestError(f"cannot connect: {why}", where=where, next="start the server, or check the host and the port")
