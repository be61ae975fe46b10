"""The control channel between the supervisor and one child: a socket pair, JSON messages, one a line.

The first message gives the child its task, and each role has its own; the others are the same for every child, but for
a worker's slots. The end of the channel is a message too: the other side has died. A child whose supervisor is gone
drains and exits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from typing import Any, Final

import msgspec

from tailrace.alerting import DEFAULTS, Alerts
from tailrace.monitor.observed import Observed
from tailrace.release.pinned import Pin
from tailrace.server.log_lines import LINES, LogLine
from tailrace.server.options import ServeOptions

MESSAGE_BYTES_MAX: Final = 1 << 20
"""A longer message means a broken channel."""
_OUTBOX_BYTES_MAX: Final = 4 * MESSAGE_BYTES_MAX
_DESCRIPTORS_MAX: Final = 16
"""Taken in at one read; each message brings one at most."""


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

_encode = msgspec.json.Encoder().encode


class Channel:
    """One end of the channel. Sending never waits; receiving is a coroutine, or blocks before there is a loop."""

    def __init__(self, sock: socket.socket, messages: Any) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._decode = msgspec.json.Decoder(messages).decode
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._descriptors: deque[int] = deque()

    def send(self, message: msgspec.Struct, descriptor: int | None = None) -> bool:
        """Send one message; return False where the other side is gone or does not read.

        What does not fit into the socket goes out with the next message. What is said again and again is dropped then,
        heartbeats and what is observed: the next one says the same, or more. descriptor: is copied to the other side,
        which takes it with `take_descriptor`; a message with one is sent at once or not at all.
        """
        if descriptor is not None:
            return self._send_with(message, descriptor)
        if not (self._outbox and isinstance(message, Heartbeat | Observed)):
            self._outbox += _encode(message) + b"\n"
        if len(self._outbox) > _OUTBOX_BYTES_MAX:
            return False
        try:
            del self._outbox[: self._sock.send(self._outbox)]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def _send_with(self, message: msgspec.Struct, descriptor: int) -> bool:
        """Send one message with a descriptor, behind what waits."""
        try:
            while self._outbox:
                del self._outbox[: self._sock.send(self._outbox)]
            line = _encode(message) + b"\n"
            self._outbox += line[socket.send_fds(self._sock, [line], [descriptor]) :]
        except OSError:  # also for a socket that is full
            return False
        return True

    def take_descriptor(self) -> int:
        """Return the descriptor that came with the message just received; it is the caller's from now on."""
        return self._descriptors.popleft()

    async def receive(self) -> Any:
        """Return the next message; None when the other side is gone (or speaks nonsense)."""
        while (line := self._take_line()) is None:
            try:
                if not self._feed(self._read()):
                    return None
            except BlockingIOError:
                await self._wait_readable()
            except OSError:
                return None
        return self._parse(line)

    def _read(self) -> bytes:
        """Return what has come; descriptors that came along wait for `take_descriptor`."""
        data, descriptors, _, _ = socket.recv_fds(self._sock, 65_536, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
        self._descriptors += descriptors
        return data

    async def _wait_readable(self) -> None:
        """Wait until something has come, or the other side is gone."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._sock, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._sock)

    def receive_blocking(self, timeout_s: float) -> Any:
        """Return the next message without a loop; None when the other side is gone, or silent for `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        try:
            while (line := self._take_line()) is None:
                self._sock.settimeout(max(end_s - time.monotonic(), 0.001))
                if not self._feed(self._read()):
                    return None
        except OSError:
            return None
        finally:
            self._sock.setblocking(False)
        return self._parse(line)

    def close(self) -> None:
        """Close this end; the other side sees the end of the channel."""
        self._sock.close()

    def _feed(self, data: bytes) -> bool:
        """Take bytes in; False at the end of the channel or when a message is too long."""
        self._inbox += data
        return bool(data) and len(self._inbox) <= MESSAGE_BYTES_MAX

    def _take_line(self) -> bytes | None:
        """Take the next whole line out of the inbox."""
        end = self._inbox.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._inbox[:end])
        del self._inbox[: end + 1]
        return line

    def _parse(self, line: bytes) -> Any:
        """Return the line's message; None where it is none."""
        try:
            return self._decode(line)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None


class ChildChannel(Channel):
    """The child's end, from the descriptor its command line names (the last argument).

    messages: the types that its role may be sent. `receive` gives None when the supervisor is gone: drain and exit.
    """

    def __init__(self, fd: int, messages: Any) -> None:
        super().__init__(socket.socket(fileno=fd), messages)

    async def beat(self, period_s: float) -> None:
        """Send heartbeats until cancelled."""
        while True:
            self.send(Heartbeat(rss_bytes(), () if self._outbox else LINES.take()))
            await asyncio.sleep(period_s)


class WorkerChannel(ChildChannel):
    """A worker's end: `receive_blocking` gives the `Assignment`, then `receive` gives the other messages `ToWorker`."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, ToWorker)


class SupervisorChannel(Channel):
    """The supervisor's end of the channel to one child."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, FromChild)


def rss_bytes() -> int:
    """Return this process's resident memory."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
