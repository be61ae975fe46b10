"""The processes beside the workers, as children of the supervisor: the ingester and, if asked for, the refresher."""

from __future__ import annotations

import sys
from typing import Final

from tailrace.monitor.shared import OwnedBlock
from tailrace.release.pinned import Pin
from tailrace.server.child import Child
from tailrace.server.control import CompanionAssignment
from tailrace.server.options import ServeOptions
from tailrace.server.role import ChildRole
from tailrace.server.workers import WORKERS_DRAIN

INGESTER: Final = "ingester"
REFRESHER: Final = "refresher"
MODULES: Final = {INGESTER: "tailrace.server.ingester", REFRESHER: "tailrace.refresher"}


def open_companions(options: ServeOptions, pin: Pin) -> list[Child]:
    """Return the children beside the workers. They outlive the workers, which the ingester is fed by.

    The ingester is asleep until a worker has streams: without it their events are lost, so a start of it that fails
    ends the server. A view that is not refreshed is stale at worst.
    """
    ingester = _companion(INGESTER, options, pin, ends_server=True, asleep=True)
    if not options.refresh:
        return [ingester]
    return [ingester, _companion(REFRESHER, options, pin, ends_server=False, asleep=False)]


def _companion(name: str, options: ServeOptions, pin: Pin, *, ends_server: bool, asleep: bool) -> Child:
    role = ChildRole(
        name=name,
        command=(sys.executable, "-P", "-m", MODULES[name]),
        is_awaited=False,
        ends_server=ends_server,
        start_s=options.start_s,
        heartbeat_s=options.heartbeat_s,
        frozen_s=options.frozen_s,
        drain_s=options.drain_s,
        drain_order=WORKERS_DRAIN + 1,
    )
    block = OwnedBlock(name)
    assignment = CompanionAssignment(metrics_fd=block.fd, options=options, pin=pin)
    return Child(role, assignment, fds=(block.fd,), block=block, asleep=asleep)
