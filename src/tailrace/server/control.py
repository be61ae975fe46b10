"""What the supervisor and its children say to each other, by the control channel (channel.py).

The first message gives the child its task, and each role has its own; the others are the same for every child, but for
a worker's slots.
"""

from __future__ import annotations

import msgspec

from tailrace.alerting import DEFAULTS, Alerts
from tailrace.monitor.observed import Observed
from tailrace.release.pinned import Pin
from tailrace.server.log_lines import LogLine
from tailrace.server.options import ServeOptions


class Assignment(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Supervisor → worker, first of all: what to serve. It prepares, says `Warm`, and waits for its socket.

    metrics_fd: an inherited descriptor of its metric block. limits_fd: of the buckets that workers share, -1 for one
    that has no siblings. ring_fds: of the rings by one of which it tells the observer; none where there is no such.
    pin: what it loads, and nothing else.
    """

    slot: int
    metrics_fd: int
    options: ServeOptions
    pin: Pin
    limits_fd: int = -1
    ring_fds: tuple[int, ...] = ()


class CompanionAssignment(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Supervisor → process beside the workers, first of all: what is served. Members mean what they do in `Assignment`.

    origin: of the events of a consumer, as `ServeOptions.ingest` has it. ring_fds: the observer's, of all slots.
    """

    metrics_fd: int
    options: ServeOptions
    pin: Pin
    origin: str = ""
    ring_fds: tuple[int, ...] = ()


class Link(msgspec.Struct, frozen=True, tag=True):
    """Supervisor → worker and ingester: a link between them, a connected socket, comes along as a descriptor."""


class PreDrain(msgspec.Struct, frozen=True, tag=True):
    """Supervisor → worker: the drain will come; say on /readyz that you are not ready, and go on with all else."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Supervisor → child: take nothing new, finish what is in flight, exit with 0."""


class Listen(msgspec.Struct, frozen=True, tag=True):
    """Supervisor → worker: accept on a slot's socket, which comes along as a descriptor.

    Its own slot's makes the worker ready. Another's has no worker just now: until `HandBack`.
    """

    slot: int


class ListenUnix(msgspec.Struct, frozen=True, tag=True):
    """Supervisor → worker: accept on the socket at a path too, which all workers share; it comes along."""


class HandBack(msgspec.Struct, frozen=True, tag=True):
    """Supervisor → worker: the slot has its own worker again; stop accepting on its socket."""

    slot: int


class LayerCost(msgspec.Struct, frozen=True):
    """One line of a pipeline's budget table, measured at warm-up."""

    layer: str
    budget_ns: int
    p99_ns: int


class ReleasedModel(msgspec.Struct, frozen=True):
    """One model of a release.

    version: of a packaged one the first characters of its files' digest; of a remote one what its URL says, or its
    server said when the release was made; "" where nobody says, as of a Python one. backend: computes it; of a remote
    one the protocol that it is asked by. backend_reason: why it is no faster one, or could not be compared.
    registered: the version in a registry that it is, as `fraud@3`, registered_digest: of what it holds there; both ""
    for what is not from a registry.
    """

    name: str
    version: str
    backend: str
    backend_reason: str = ""
    registered: str = ""
    registered_digest: str = ""


class ReleasedPipeline(msgspec.Struct, frozen=True):
    """One pipeline of a release. schema: the digest of its request, response and views."""

    name: str
    schema: str
    models: tuple[ReleasedModel, ...]


class PipelineReady(msgspec.Struct, frozen=True):
    """What one pipeline that a worker serves costs. alerts: when its operator is told; None for never."""

    name: str
    budget_ns: int = 0
    buffer_ns: int = 0
    layers: tuple[LayerCost, ...] = ()
    alerts: Alerts | None = DEFAULTS


class WantsEvents(msgspec.Struct, frozen=True, tag=True):
    """Worker → supervisor: has streams, and waits for a link to the ingester."""


class Warm(msgspec.Struct, frozen=True, tag=True):
    """Worker → supervisor: could serve at once, had it a socket."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Child → supervisor: at work. ready_s: since the process began.

    Of a worker: release: the id of what it serves; released: its pipelines; pipelines: what these cost.
    """

    pid: int
    ready_s: float = 0.0
    rss_bytes: int = 0
    release: str = ""
    released: tuple[ReleasedPipeline, ...] = ()
    pipelines: tuple[PipelineReady, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Child → supervisor: cannot work; the text says what, where and what next."""

    error: str


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Child → supervisor, every `heartbeat_s`: the loop runs. lines: that it has logged since, the newest."""

    rss_bytes: int = 0
    lines: tuple[LogLine, ...] = ()


class Draining(msgspec.Struct, frozen=True, tag=True):
    """Child → supervisor: takes nothing any more; `in_flight` calls are left."""

    in_flight: int = 0


ToWorker = Assignment | PreDrain | Drain | Listen | ListenUnix | HandBack | Link
ToCompanion = CompanionAssignment | Drain | Link
FromChild = WantsEvents | Warm | Ready | Failed | Heartbeat | Draining | Observed
