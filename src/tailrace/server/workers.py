"""The workers as children of the supervisor: their role, and one for each slot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from tailrace.monitor.shared import OwnedBlock, make_block_fd
from tailrace.release.pinned import Pin
from tailrace.server.child import Child
from tailrace.server.control import Assignment
from tailrace.server.options import ServeOptions
from tailrace.server.role import ChildRole
from tailrace.server.slots import Slot

WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "tailrace.server.worker")
"""-P: the user's folder shadows no module."""
WORKERS_DRAIN: Final = 0
"""The drain order of the workers; what they feed has a higher one, and outlives them."""


def worker_role(options: ServeOptions, command: Sequence[str] = WORKER_COMMAND) -> ChildRole:
    """Return the role of a worker: the server is nothing without it, and says so at the start."""
    return ChildRole(
        name="worker",
        command=tuple(command),
        is_awaited=True,
        ends_server=True,
        start_s=options.start_s,
        heartbeat_s=options.heartbeat_s,
        frozen_s=options.frozen_s,
        drain_s=options.drain_s,
        drain_order=WORKERS_DRAIN,
        loads=True,
    )


def open_workers(
    role: ChildRole,
    options: ServeOptions,
    slots: Sequence[Slot],
    pin: Pin,
    *,
    admitted: bool = True,
    rings: Sequence[int] = (),
) -> list[Child]:
    """Return a worker of a release for each slot, with metrics of its own, and buckets that they share.

    rings: by which the observer is told, as many of each slot; none where there is no observer.
    """
    workers: list[Child] = []
    shared = (make_block_fd("limits"),) if len(slots) > 1 else ()
    for slot in slots:
        block = OwnedBlock(f"slot-{slot.index}")
        own = tuple(rings[slot.index :: len(slots)])
        assignment = Assignment(
            slot=slot.index, metrics_fd=block.fd, options=options, pin=pin,
            limits_fd=shared[0] if shared else -1, ring_fds=own,
        )  # fmt: skip
        owned = shared if not workers else ()
        fds = (block.fd, *shared, *own)
        workers.append(Child(role, assignment, fds=fds, owned=owned, slot=slot, block=block, admitted=admitted))
    return workers
