"""One keep-alive connection of the generator: requests in flight, in order, over a raw non-blocking socket."""

from __future__ import annotations

import socket
from collections import deque
from enum import IntEnum
from typing import Any, Final, NamedTuple

from tailrace.errors import LoadtestError
from tailrace.loadtest.plan import Target
from tailrace.loadtest.reader import AnswerReader

RECEIVE_BYTES: Final = 64 << 10
UNSENT_BYTES_MAX: Final = 1 << 20
"""What may wait in this process for the kernel to take it; above, the connection takes no more requests."""


class Address(NamedTuple):
    """A resolved address: `socket.AF_INET`, `AF_INET6` or `AF_UNIX`, and what `connect` wants."""

    family: int
    sockaddr: tuple[Any, ...] | str


class State(IntEnum):
    """What state a connection is in."""

    DOWN = 0
    CONNECTING = 1
    UP = 2


class Connection:
    """A socket, what was asked on it, and what is still to be sent.

    inflight: shots in the order they were asked, answered from the left (HTTP/1.1 pipelining). tried_ns: when it last
    started to connect.
    """

    __slots__ = (
        "_address",
        "_queued",
        "_reader",
        "_requests",
        "_sock",
        "_unsent",
        "fd",
        "inflight",
        "state",
        "tried_ns",
    )

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sock: socket.socket | None = None
        self._reader = AnswerReader()
        self._requests: list[bytes] = []
        self._queued: list[int] = []
        self._unsent = b""
        self.inflight: deque[int] = deque()
        self.state = State.DOWN
        self.tried_ns = 0
        self.fd = -1

    def connect(self, now_ns: int) -> None:
        """Start to connect; the socket becomes writable when it is up or has failed. Raises OSError."""
        self.tried_ns = now_ns
        sock = socket.socket(self._address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if self._address.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(self._address.sockaddr)
        except OSError as error:
            if not isinstance(error, BlockingIOError) or self._address.family == socket.AF_UNIX:  # whose queue is full
                sock.close()
                raise
        self._sock, self.fd, self.state = sock, sock.fileno(), State.CONNECTING

    def finish_connect(self) -> None:
        """Take the connection into use. Raises the OSError it failed with."""
        assert self._sock is not None
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connect failed")
        self._reader = AnswerReader()
        self.state = State.UP

    def has_room(self, depth_max: int) -> bool:
        """Return whether one more request may go out on this connection."""
        return self.state is State.UP and len(self.inflight) < depth_max and len(self._unsent) < UNSENT_BYTES_MAX

    def queue(self, shot: int, request: bytes) -> bool:
        """Put a request up for the next flush; return whether it is the first one there."""
        self.inflight.append(shot)
        self._queued.append(shot)
        self._requests.append(request)
        return len(self._queued) == 1

    def take_queued(self) -> list[int]:
        """Return the shots put up since the last call; their requests go out with the next flush."""
        shots, self._queued = self._queued, []
        return shots

    def flush(self) -> bool:
        """Send what is put up, in one call; return whether the kernel took it all. Raises OSError when it is broken."""
        assert self._sock is not None
        requests = self._requests
        data = requests[0] if len(requests) == 1 and not self._unsent else self._unsent + b"".join(requests)
        requests.clear()
        try:
            taken = self._sock.send(data)
        except BlockingIOError:
            taken = 0
        self._unsent = data[taken:] if taken < len(data) else b""
        return not self._unsent

    def receive(self) -> list[tuple[int, bytes]]:
        """Return the answers that have come, as (status, body). Raises OSError when the connection is over."""
        assert self._sock is not None
        try:
            piece = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not piece:
            raise ConnectionResetError("closed by the server")
        return self._reader.feed(piece)

    @property
    def fault(self) -> str:
        """Why the next answer cannot be read; empty while it can."""
        return self._reader.fault

    @property
    def is_over(self) -> bool:
        """Whether no further answer can come on this connection."""
        return bool(self._reader.fault) or self._reader.closes

    def close(self) -> list[int]:
        """Let the socket go; return the shots that lose their answer by it, in order."""
        if self._sock is not None:
            self._sock.close()
        lost = list(self.inflight)
        self.inflight.clear()
        self._requests.clear()
        self._queued.clear()
        self._unsent = b""
        self._sock, self.fd, self.state = None, -1, State.DOWN
        return lost


def resolve(target: Target, unix: str | None = None) -> Address:
    """Return the first TCP address of a target's host, or that of a socket's path.

    Raises LoadtestError when the name is not known.
    """
    if unix is not None:
        return Address(socket.AF_UNIX, unix)
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LoadtestError(
            f"cannot find the host: {error.strerror}", where=target.authority, next="check its spelling"
        ) from None
    family, _, _, _, sockaddr = found[0]
    return Address(family, sockaddr)
