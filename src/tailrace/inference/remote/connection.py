"""One connection to a remote model's server: a request, then its whole answer, then the next request.

Answers are matched to requests by the connection alone, so one whose answer was not read to its end is never used
again: the next caller would get it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import httptools

from tailrace.inference.remote.failure import RemoteError, RemoteFault
from tailrace.traffic import Traffic

HEAD_BYTES_MAX: Final = 64 << 10
"""Of an answer, beside its body."""


class Reply(NamedTuple):
    """An answer of a server. headers: by their names in lower case, the last of each name."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class ClosedIdleError(RemoteError):
    """The server closed a connection that was used before, and had sent nothing in answer: asking again is safe."""


class RemoteConnection(asyncio.Protocol):
    """A connection. lost: is called when it is gone. body_bytes_max: of one answer. traffic: counts its bytes."""

    def __init__(self, body_bytes_max: int, lost: Callable[[RemoteConnection], None], traffic: Traffic) -> None:
        self._traffic = traffic
        self._body_bytes_max = body_bytes_max
        self._lost = lost
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._bytes = 0
        self._is_used = self._is_spoilt = False
        self.idle_since_s = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether another request may go out on it."""
        return not (self._is_spoilt or self._transport is None or self._transport.is_closing())

    def ask(self, request: bytes, waiter: asyncio.Future[Reply]) -> None:
        """Send a request; the waiter gets its answer, or a RemoteError."""
        assert self._transport is not None
        self._waiter = waiter
        self._bytes = 0
        self._traffic.sent += len(request)
        self._transport.write(request)

    def abort(self) -> None:
        """Let go of it at once, and of an answer that is under way."""
        self._is_spoilt = True
        self._waiter = None
        if self._transport is not None:
            self._transport.abort()

    # -- what the loop calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read on in the answer."""
        self._traffic.received += len(data)
        if self._waiter is None:  # nobody asked
            self.abort()
            return
        self._bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(RemoteError(RemoteFault.UNREADABLE, f"the answer is not HTTP: {error}"))
            return
        if self._waiter is not None and self._bytes > self._body_bytes_max + HEAD_BYTES_MAX:
            self._fail(RemoteError(RemoteFault.TOO_LARGE, f"the answer is longer than {self._body_bytes_max} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits, and the pool."""
        if self._is_used and not self._bytes:
            self._fail(ClosedIdleError(RemoteFault.UNREACHABLE, "the server closed a connection that was idle"))
        else:
            self._fail(
                RemoteError(RemoteFault.UNREACHABLE, f"the connection was lost before the answer: {exc or 'closed'}")
            )
        self._transport = self._parser = None  # which has this connection
        self._lost(self)

    # -- what the parser calls --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin an answer."""
        self._headers, self._body = {}, []
        if self._waiter is None:  # a second answer in the bytes of the first one
            self._is_spoilt = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; a length that is too much is not waited for."""
        name = name.lower()
        self._headers[name] = value
        if name == b"content-length" and int(value) > self._body_bytes_max:
            what = f"the answer has {int(value)} bytes, and may have {self._body_bytes_max}"
            self._fail(RemoteError(RemoteFault.TOO_LARGE, what))

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the answer over; what only announces one (100 Continue) is passed over."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        if not self._parser.should_keep_alive():
            self._is_spoilt = True
        waiter, self._waiter = self._waiter, None
        self._is_used = True
        if waiter is not None and not waiter.done():
            waiter.set_result(Reply(status, self._headers, b"".join(self._body)))

    def _fail(self, error: RemoteError) -> None:
        """Tell who waits that no answer comes; the connection is let go of."""
        waiter = self._waiter
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
