"""Server-Sent Events of the console: one message a second, made once and written to everybody who listens.

A listener has left HTTP: its connection is handed over with the answer's head, and only written to from then on. What
it costs is bounded: so many listeners at most, for each no more than one message beyond what its socket takes, and who
reads none for a while is dropped.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tailrace.errors import UnavailableError

LISTENERS_MAX: Final = 64
STUCK_MESSAGES_MAX: Final = 10
"""A listener that takes none of so many messages is dropped; it misses those in between."""
BUFFER_BYTES_MAX: Final = 1 << 16
"""What waits for a listener's socket before no message is written to it."""
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"X-Content-Type-Options: nosniff\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n"
)


class Listeners:
    """Who listens, and the last message, which a newcomer gets at once."""

    def __init__(self) -> None:
        self._open: dict[Listener, None] = {}
        self._last = b""
        self.refused = 0
        """How many were turned away since the start."""

    def __len__(self) -> int:
        return len(self._open)

    def tell(self, document: bytes) -> None:
        """Write a message to all; drop who has not read for long. document: JSON, of one line."""
        self._last = b"data: " + document + b"\n\n"
        for listener in list(self._open):
            listener.tell(self._last)

    def enter(self, transport: asyncio.Transport) -> Listener:
        """Take a connection: write the head and the last message. Raises UnavailableError where there are too many."""
        if len(self._open) >= LISTENERS_MAX:
            self.refused += 1
            raise UnavailableError(
                "too many consoles are open", where="/console/events", next="close one, or ask later"
            )
        listener = Listener(self, transport)
        self._open[listener] = None
        transport.write(HEAD + self._last)
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget one that is gone."""
        self._open.pop(listener, None)

    def close(self) -> None:
        """Drop all."""
        for listener in list(self._open):
            listener.drop()


class Listener(asyncio.Protocol):
    """One connection that is written to."""

    def __init__(self, listeners: Listeners, transport: asyncio.Transport) -> None:
        self._listeners = listeners
        self._transport = transport
        self._is_full = False
        self._missed = 0

    def tell(self, message: bytes) -> None:
        """Write a message, unless the last ones still wait."""
        if self._is_full or self._transport.get_write_buffer_size() > BUFFER_BYTES_MAX:
            self._missed += 1
            if self._missed >= STUCK_MESSAGES_MAX:
                self.drop()
            return
        self._missed = 0
        self._transport.write(message)

    def drop(self) -> None:
        """Close at once."""
        self._listeners.leave(self)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Ignore what is sent: nothing more is asked here."""

    def eof_received(self) -> bool:
        """Close: nobody listens any more."""
        return False

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Note that it does again."""
        self._is_full = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._listeners.leave(self)
