"""The links between workers and the ingester: made by the supervisor, one for each pair of processes that are there.

The supervisor reads no user's file, so it does not know whether there are streams: the first worker that has some asks
for the ingester, which is a child that sleeps until then. Consumers sleep until the ingester is ready.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from tailrace.server.child import Child
from tailrace.server.companions import CONSUMER, INGESTER
from tailrace.server.control import Link
from tailrace.server.process import ChildProcess


class EventLinks:
    """Links each worker that has asked for it to the ingester, and anew when either has been replaced."""

    def __init__(self, children: Iterable[Child]) -> None:
        children = list(children)
        self._ingester = next((child for child in children if child.role.name == INGESTER), None)
        self._consumers = [child for child in children if child.role.name == CONSUMER]
        self._workers = [child for child in children if child.slot is not None]

    def on_wanted(self, worker: Child) -> None:
        """Link a worker that asks for it; later, where the ingester is not there yet."""
        if self._ingester is None:
            return
        self._ingester.wake()
        self._link(worker)

    def on_ready(self, child: Child) -> None:
        """Link all workers that have asked, and wake the consumers, where it is the ingester that is ready."""
        if child is self._ingester:
            for worker in self._workers:
                self._link(worker)
            for consumer in self._consumers:
                consumer.wake()

    def _link(self, worker: Child) -> None:
        """Give both processes an end of a new socket pair."""
        process = worker.process
        ingester = None if self._ingester is None else self._ingester.process
        if process is None or ingester is None or ingester.state != "ready":
            return
        if not process.wants_events or process.state == "gone":
            return
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if _send(process, ours):
                _send(ingester, theirs)


def _send(process: ChildProcess, end: socket.socket) -> bool:
    return process.send(Link(), end.fileno())
