"""The control channel between the supervisor and one child: a socket pair, JSON messages (control.py), one a line.

The end of the channel is a message too: the other side has died. A child whose supervisor is gone drains and exits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from typing import Any, Final

import msgspec

from tailrace.monitor.observed import Observed
from tailrace.server.control import FromChild, Heartbeat, ToWorker
from tailrace.server.log_lines import LINES
from tailrace.server.process_use import rss_bytes

MESSAGE_BYTES_MAX: Final = 1 << 20
"""A longer message means a broken channel."""
_OUTBOX_BYTES_MAX: Final = 4 * MESSAGE_BYTES_MAX
_DESCRIPTORS_MAX: Final = 16
"""Taken in at one read; each message brings one at most."""

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
            self.send(Heartbeat(rss_bytes(os.getpid()), () if self._outbox else LINES.take()))
            await asyncio.sleep(period_s)


class WorkerChannel(ChildChannel):
    """A worker's end: `receive_blocking` gives the `Assignment`, then `receive` gives the other messages `ToWorker`."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, ToWorker)


class SupervisorChannel(Channel):
    """The supervisor's end of the channel to one child."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, FromChild)
