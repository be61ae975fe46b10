"""The processes beside the workers, the supervisor's children: the ingester, and whichever others are asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

from tailrace.errors import SetupError
from tailrace.ingest.origin import StreamOrigin
from tailrace.monitor.claimed_ring import RINGS_A_SLOT
from tailrace.monitor.ring import make_ring_fd
from tailrace.monitor.shared import OwnedBlock
from tailrace.release.pinned import Pin
from tailrace.server.child import Child
from tailrace.server.control import CompanionAssignment
from tailrace.server.forwarding.address import SinkAddress
from tailrace.server.options import ServeOptions
from tailrace.server.role import ChildRole
from tailrace.server.workers import WORKERS_DRAIN

INGESTER: Final = "ingester"
REFRESHER: Final = "refresher"
CONSUMER: Final = "consumer"
COURIER: Final = "courier"
OBSERVER: Final = "observer"
FORWARDER: Final = "forwarder"
MODULES: Final = {
    INGESTER: "tailrace.server.ingester",
    REFRESHER: "tailrace.refresher",
    CONSUMER: "tailrace.server.consumer",
    COURIER: "tailrace.server.accepted.courier",
    OBSERVER: "tailrace.server.observing.observer",
    FORWARDER: "tailrace.server.forwarding.forwarder",
}


@contextmanager
def open_rings(options: ServeOptions) -> Iterator[tuple[int, ...]]:
    """Give the rings by which workers tell the observer, as many of each slot; none where it is not asked for.

    Raises SetupError where the observer lacks what it writes with.
    """
    if options.log is not None and find_spec("pyarrow") is None:
        raise SetupError("the log needs pyarrow", where="--log", next="pip install 'tailrace[arrow]'")
    if options.traces is not None:
        require_otlp()
    count = RINGS_A_SLOT * options.workers if options.is_observed else 0
    rings = tuple(make_ring_fd(f"ring-{number}") for number in range(count))
    try:
        yield rings
    finally:
        for ring in rings:
            os.close(ring)


def require_otlp() -> None:
    """Raise SetupError where the messages that traces are sent in are not there."""
    try:
        is_there = find_spec("opentelemetry.proto") is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise SetupError("traces need opentelemetry-proto", where="--traces", next="pip install 'tailrace[tracing]'")


def open_companions(options: ServeOptions, pin: Pin, rings: tuple[int, ...] = ()) -> list[Child]:
    """Return the children beside the workers. They outlive the workers, which the ingester is fed by.

    The ingester is asleep until a worker has streams: without it their events are lost, so a start of it that fails
    ends the server. A view that is not refreshed is stale at worst. A broker that is gone keeps its events, so that a
    consumer can wait for it. It is asleep until the ingester has made known to the stores what views there are. A
    courier without a secret to sign with can deliver nothing: a start of it that fails ends the server. Without the
    observer all is served, and nothing logged. rings: what it reads. A forwarder is drained when the observer is gone,
    whose last lines it sends.
    """
    children = [_companion(INGESTER, options, pin, ends_server=True, asleep=True)]
    if options.refresh:
        children.append(_companion(REFRESHER, options, pin, ends_server=False, asleep=False))
    if options.accepted is not None:
        children.append(_companion(COURIER, options, pin, ends_server=True, asleep=False))
    if rings:
        children.append(_companion(OBSERVER, options, pin, ends_server=False, asleep=False, rings=rings))
    for sink in options.log_to:
        shown = SinkAddress.parse(sink).shown
        children.append(
            _companion(FORWARDER, options, pin, ends_server=False, asleep=False, origin=sink, shown=shown, order=2)
        )
    return children + [
        _companion(CONSUMER, options, pin, ends_server=False, asleep=True, origin=origin, shown=_shown(origin))
        for origin in options.ingest
    ]


def _shown(origin: str) -> str:
    """Return what may be told of where events come from."""
    return StreamOrigin.parse(origin).shown


def _companion(
    name: str,
    options: ServeOptions,
    pin: Pin,
    *,
    ends_server: bool,
    asleep: bool,
    origin: str = "",
    shown: str = "",
    rings: tuple[int, ...] = (),
    order: int = 1,
) -> Child:
    role = ChildRole(
        name=name,
        command=(sys.executable, "-P", "-m", MODULES[name]),
        is_awaited=False,
        ends_server=ends_server,
        start_s=options.start_s,
        heartbeat_s=options.heartbeat_s,
        frozen_s=options.frozen_s,
        drain_s=options.drain_s,
        drain_order=WORKERS_DRAIN + order,
    )
    block = OwnedBlock(name)
    assignment = CompanionAssignment(metrics_fd=block.fd, options=options, pin=pin, origin=origin, ring_fds=rings)
    return Child(role, assignment, fds=(block.fd, *rings), block=block, asleep=asleep, origin=shown)
