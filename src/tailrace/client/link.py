"""A connection of the client on an event loop: one request, its whole answer, then the next request."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import cast

from tailrace.client.answer import Answer, AnswerReader, UnreadableAnswerError
from tailrace.client.endpoints import Endpoint
from tailrace.client.failure import ExchangeError
from tailrace.client.wire import lost, unreadable


class Link(asyncio.Protocol):
    """A connection."""

    def __init__(self, endpoint: Endpoint, answer_bytes_max: int) -> None:
        self._endpoint = endpoint
        self._reader = AnswerReader(answer_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._poll = select.poll()

    @property
    def is_spoilt(self) -> bool:
        """Whether no other request may go out, whatever comes."""
        return self._reader.is_spoilt or self._transport is None or self._transport.is_closing()

    @property
    def is_usable(self) -> bool:
        """Whether another request may go out.

        The socket is asked too: a server may have closed it, and the loop not have been told yet.
        """
        return not (self.is_spoilt or self._poll.poll(0))

    def ask(self, request: bytes, waiter: asyncio.Future[Answer]) -> None:
        """Send a request; the waiter gets its answer, or a ExchangeError."""
        if self._transport is None:
            waiter.set_exception(lost(self._endpoint, None))
            return
        self._waiter = waiter
        self._reader.begin()
        self._transport.write(request)

    def close(self) -> None:
        """Let go of it at once, and of an answer that is under way."""
        self._reader.is_spoilt = True
        self._waiter = None
        if self._transport is not None:
            self._transport.abort()

    # -- what the loop calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)
        connection = transport.get_extra_info("socket")
        self._poll.register(connection.fileno(), select.POLLIN)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Read on in the answer."""
        if self._waiter is None:  # nobody asked
            self.close()
            return
        try:
            answer = self._reader.feed(data)
        except UnreadableAnswerError as error:
            self._fail(unreadable(self._endpoint, error))
            return
        if answer is None:
            return
        waiter, self._waiter = self._waiter, None
        if self._reader.is_spoilt or not self._is_sent():
            self.close()
        if not waiter.done():
            waiter.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._transport = None
        self._fail(lost(self._endpoint, exc))

    def _is_sent(self) -> bool:
        return self._transport is not None and self._transport.get_write_buffer_size() == 0

    def _fail(self, failure: ExchangeError) -> None:
        """Tell who waits that no answer comes; the connection is let go of."""
        waiter = self._waiter
        self.close()
        if waiter is not None and not waiter.done():
            waiter.set_exception(failure)
