"""The links between workers and the ingester: made by the supervisor, one for each pair of processes that are there.

The supervisor reads no user's file, so it does not know whether there are streams: the first worker that has some asks
for the ingester, which is a child that sleeps until then.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from typing import Final

from tailrace.monitor.shared import OwnedBlock
from tailrace.release.pinned import Pin
from tailrace.server.child import Child
from tailrace.server.control import IngesterAssignment, Link
from tailrace.server.options import ServeOptions
from tailrace.server.process import ChildProcess
from tailrace.server.role import ChildRole
from tailrace.server.workers import WORKERS_DRAIN

INGESTER_COMMAND: Final = (sys.executable, "-P", "-m", "tailrace.server.ingester")
INGESTER: Final = "ingester"


def open_ingester(options: ServeOptions, pin: Pin) -> Child:
    """Return the ingester of a server, asleep. It outlives the workers, which feed it."""
    role = ChildRole(
        name=INGESTER,
        command=INGESTER_COMMAND,
        is_awaited=False,
        ends_server=True,
        start_s=options.start_s,
        heartbeat_s=options.heartbeat_s,
        frozen_s=options.frozen_s,
        drain_s=options.drain_s,
        drain_order=WORKERS_DRAIN + 1,
    )
    block = OwnedBlock(INGESTER)
    assignment = IngesterAssignment(metrics_fd=block.fd, options=options, pin=pin)
    return Child(role, assignment, fds=(block.fd,), block=block, asleep=True)


class EventLinks:
    """Links each worker that has asked for it to the ingester, and anew when either has been replaced."""

    def __init__(self, children: Iterable[Child]) -> None:
        children = list(children)
        self._ingester = next((child for child in children if child.role.name == INGESTER), None)
        self._workers = [child for child in children if child.slot is not None]

    def on_wanted(self, worker: Child) -> None:
        """Link a worker that asks for it; later, where the ingester is not there yet."""
        if self._ingester is None:
            return
        self._ingester.wake()
        self._link(worker)

    def on_ready(self, child: Child) -> None:
        """Link all workers that have asked, where it is the ingester that is ready."""
        if child is self._ingester:
            for worker in self._workers:
                self._link(worker)

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
