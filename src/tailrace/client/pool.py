"""The blocking connections to one server: bounded, kept open, the one used last first."""

from __future__ import annotations

import threading
import time

from tailrace.client.endpoints import Endpoint, crowded
from tailrace.client.wire import Wire
from tailrace.deadline import NS_PER_S


class Pool:
    """Connections to one server, for all threads. connections_max: in use at once; who comes then waits."""

    def __init__(self, endpoint: Endpoint, *, connections_max: int, answer_bytes_max: int) -> None:
        self._endpoint = endpoint
        self._answer_bytes_max = answer_bytes_max
        self._connections_max = connections_max
        self._places = threading.BoundedSemaphore(connections_max)
        self._idle: list[Wire] = []  # at most as many as were in use; append and pop are one step each
        self._is_closed = False

    def take(self, ends_ns: int) -> Wire:
        """Return a connection that is the caller's until it is given back. Raises ExchangeError."""
        if not self._places.acquire(timeout=max((ends_ns - time.monotonic_ns()) / NS_PER_S, 0.0)):
            raise crowded(self._endpoint)
        try:
            while self._idle:
                try:
                    wire = self._idle.pop()
                except IndexError:  # another thread was quicker
                    break
                if wire.is_usable:
                    return wire
                wire.close()
            return Wire(self._endpoint, ends_ns, self._answer_bytes_max)
        except BaseException:
            self._places.release()
            raise

    def give_back(self, wire: Wire, *, is_read: bool) -> None:
        """Take a connection back. is_read: its answer was read to its end; else it is closed."""
        if is_read and not wire.is_spoilt and not self._is_closed:
            self._idle.append(wire)
        else:
            wire.close()
        self._places.release()

    def forget(self) -> None:
        """Begin anew in a forked process; the connections stay open in the other one."""
        self._places = threading.BoundedSemaphore(self._connections_max)
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Close what is idle, and later what is given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()
