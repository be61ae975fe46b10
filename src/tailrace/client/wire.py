"""A connection of the client that blocks: one request, its whole answer, then the next request."""

from __future__ import annotations

import select
import socket
import ssl
import time
from typing import Any, Final

from tailrace.client.address import Address
from tailrace.client.answer import Answer, AnswerReader, UnreadableAnswerError
from tailrace.client.endpoints import Endpoint, late
from tailrace.client.failure import ExchangeError
from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.errors import ServerError, UnavailableError

READ_BYTES: Final = 256 << 10
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """A connection. Raises ExchangeError for whatever ends it."""

    def __init__(self, endpoint: Endpoint, ends_ns: int, answer_bytes_max: int) -> None:
        self._endpoint = endpoint
        self._socket = dial(endpoint, ends_ns)
        self._reader = AnswerReader(answer_bytes_max)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.descriptor = self._socket.fileno()
        self._first = b""

    @property
    def is_spoilt(self) -> bool:
        """Whether no other request may go out, whatever comes."""
        return self._reader.is_spoilt

    @property
    def is_usable(self) -> bool:
        """Whether another request may go out: the server has neither closed it nor said anything unasked."""
        return not (self._reader.is_spoilt or self._poll.poll(0))

    def close(self) -> None:
        """Let go of it at once, and of an answer that is under way."""
        self._socket.close()

    def send(self, request: bytes, ends_ns: int) -> None:
        """Send a request whole."""
        self._reader.begin()
        sent = 0
        try:
            sent = self._socket.send(request)
        except _NOT_NOW:
            sent = 0
        except OSError as error:
            raise self._lost(error) from error
        if sent < len(request):
            self._send_rest(memoryview(request)[sent:], ends_ns)

    def _send_rest(self, rest: memoryview, ends_ns: int) -> None:
        """Send what the socket did not take at once. A server that answers before it has all of it is read."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT | select.POLLIN)
        while rest:
            left_ns = ends_ns - time.monotonic_ns()
            if left_ns <= 0 or not (events := poll.poll(left_ns / NS_PER_MS)):
                raise late(self._endpoint)
            if events[0][1] & ~select.POLLOUT and self._has_spoken():
                self._reader.is_spoilt = True  # the rest of the request is owed for ever
                return
            try:
                rest = rest[self._socket.send(rest) :]
            except _NOT_NOW:
                continue
            except OSError as error:
                raise self._lost(error) from error

    def _has_spoken(self) -> bool:
        """Say whether the server has said anything, or left: what comes on a secret connection may be TLS's own."""
        if self._endpoint.tls is None:
            return True
        try:
            self._first = self._socket.recv(READ_BYTES)
        except _NOT_NOW:
            return False
        except OSError as error:
            raise self._lost(error) from error
        return True

    def read(self, ends_ns: int) -> Answer:
        """Return the answer."""
        while True:
            left_ns = ends_ns - time.monotonic_ns()
            if left_ns <= 0 or not (self._first or self._poll.poll(left_ns / NS_PER_MS)):
                raise late(self._endpoint)
            answer = self.read_some()
            if answer is not None:
                return answer

    def read_some(self) -> Answer | None:
        """Read what has come; return the answer once it is whole."""
        try:
            data = self._first or self._socket.recv(READ_BYTES)
        except _NOT_NOW:
            return None
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost(None)
        self._first = b""
        try:
            return self._reader.feed(data)
        except UnreadableAnswerError as error:
            raise unreadable(self._endpoint, error) from error

    def _lost(self, error: OSError | None) -> ExchangeError:
        return lost(self._endpoint, error)


def dial(endpoint: Endpoint, ends_ns: int) -> socket.socket:
    """Return a connected socket that does not block. Each address of the name is tried, all within the time."""
    problem: OSError | None = None
    for family, where in _places(endpoint):
        left_ns = ends_ns - time.monotonic_ns()
        if left_ns <= 0:
            break
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(left_ns / NS_PER_S)
            connection.connect(where)
            if family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if endpoint.tls is not None:
                connection = _secured(connection, endpoint, ends_ns)
            connection.setblocking(False)
        except OSError as error:
            problem = error
            connection.close()
        else:
            return connection
    if problem is None or isinstance(problem, TimeoutError):
        raise late(endpoint)
    raise unreachable(endpoint, problem) from problem


def _secured(connection: socket.socket, endpoint: Endpoint, ends_ns: int) -> socket.socket:
    """Return a connection made secret. Raises OSError; the one that was given is closed then."""
    assert endpoint.tls is not None
    connection.settimeout(max((ends_ns - time.monotonic_ns()) / NS_PER_S, 0.001))
    return endpoint.tls.wrap_socket(connection, server_hostname=endpoint.address.host)


def _places(endpoint: Endpoint) -> list[tuple[int, Any]]:
    address: Address = endpoint.address
    if address.path:
        return [(socket.AF_UNIX, address.path)]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise unreachable(endpoint, error) from error
    return [(family, where) for family, _, _, _, where in found]


def unreachable(endpoint: Endpoint, error: OSError) -> ExchangeError:
    """Return the failure of a connection that could not be made: nothing was sent."""
    what = f"cannot connect: {error.strerror or error}"
    return ExchangeError(
        UnavailableError(what, where=endpoint.address.url, next="look whether it runs"), is_unsent=True
    )


def lost(endpoint: Endpoint, error: Exception | None) -> ExchangeError:
    """Return the failure of a connection that ended before the answer: the call may have been computed."""
    what = f"the connection was lost before the answer: {error or 'closed'}"
    return ExchangeError(UnavailableError(what, where=endpoint.address.url, next="look at the server's log"))


def unreadable(endpoint: Endpoint, error: Exception) -> ExchangeError:
    """Return the failure of an answer that cannot be read."""
    return ExchangeError(
        ServerError(str(error), where=endpoint.address.url, next="look whether it is a Tailrace server")
    )
