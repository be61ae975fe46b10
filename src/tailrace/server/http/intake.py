"""What a connection receives that is no whole request of its known form: pieces, pipelines, unknown heads.

Made when a connection first needs it. It reads known heads by their bytes, all others through the parser, lets a client
that sends much take turns with the others, and counts what it holds of requests that are not whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, Protocol

from tailrace.errors import ServingError, UnauthorizedError, UnavailableError
from tailrace.server.http.flow import PIPELINE_MAX, Flow
from tailrace.server.http.forms import HeadForm, HeadMemory
from tailrace.server.http.head import Head
from tailrace.server.http.reader import RequestReader
from tailrace.server.http.shared import Shared
from tailrace.server.http.visitor import Visitor
from tailrace.server.proxies import peer_of

TURN_REQUESTS_MAX: Final = 64
TURN_BYTES_MAX: Final = 16 << 10
"""What is read of one connection, of known heads and through the parser, before the others have their turn. A client
that sends without end and reads nothing held up its neighbours for over a second (tests/server/test_faults.py)."""


STRANGER_BYTES_MAX: Final = 512
"""The same for who has shown no key, or a wrong one: a request or two. How often, `Strangers` says."""


class Served(Protocol):
    """The connection, as its intake sees it."""

    calls: deque[Any]
    closing: bool
    is_refused: bool
    form: HeadForm | None

    def serve(self, head: Head, body: bytes, form: HeadForm | None = None, raw: bytes = b"") -> None:
        """Serve one whole request."""
        ...

    def flow(self) -> Flow:
        """Return what holds the client back."""
        ...

    def holds(self) -> int:
        """Return how many bytes wait for their turn to be read."""
        ...

    def let_send(self, head: Head) -> None:
        """Tell a client that waits with its body to send it."""
        ...

    def end(self) -> None:
        """Read nothing more, and close once all is answered."""
        ...

    def refuse(self, error: ServingError, head: Head | None) -> None:
        """Answer what cannot be read any further, and close."""
        ...


class Intake:
    """Reads for one connection. visitor: whose it is, where its certificate says that."""

    def __init__(
        self, connection: Served, shared: Shared, transport: asyncio.Transport, visitor: Visitor | None = None
    ) -> None:
        self._visitor = visitor
        self._connection = connection
        self._shared = shared
        self._transport = transport
        self._reader: RequestReader | None = None
        self._awaited: tuple[HeadForm, bytes] | None = None
        self._body = bytearray()
        self._missing = 0
        self._began_s = 0
        self._bytes_counted = 0
        self._passed_bytes = 0
        self._turn_bytes_max = TURN_BYTES_MAX
        self._is_stranger = self._is_let = self._has_caller = False

    @property
    def is_partial(self) -> bool:
        """Whether a part of a request has come, or waits to be read."""
        reader = self._reader
        return self._awaited is not None or (reader is not None and reader.is_partial) or self._connection.holds() > 0

    @property
    def head(self) -> Head | None:
        """The head of the request that is not whole, if it was read."""
        return self._reader.head if self._reader is not None and self._reader.is_partial else None

    @property
    def began_s(self) -> int:
        """In which second the request began that is not whole; now, for what only waits for a turn."""
        if self._awaited is not None:
            return self._began_s
        return self._reader.began_s if self._reader is not None and self._reader.is_partial else self._shared.now_s

    def _heads(self) -> HeadMemory:
        """Return the heads that may be this client's: one that names a caller by its certificate is no other's."""
        return self._shared.heads if self._visitor is None else self._visitor.heads

    def await_body(self, form: HeadForm, raw: bytes, body_bytes: int, began_s: int) -> None:
        """Gather the body of a request whose head, `raw`, is known."""
        self._awaited = form, raw
        self._missing = body_bytes
        self._began_s = began_s

    def receive(self, data: bytes) -> None:
        """Read what came, or keep it while what came before is still to be read; then count what is held."""
        if self._connection.closing:
            self._pass_over(data)
        elif self._connection.holds():
            self._connection.flow().unread += data
        else:
            self._read(data)
        self._bound_bytes()

    def drop(self) -> None:
        """Forget what has come of requests, of a client that is refused or gone; what follows is passed over.

        Connection, intake and parser hold each other, and serving collects no cycles: so the parser goes too.
        """
        if self._reader is not None:
            self._reader.close()
        self._reader = self._awaited = None
        self._is_stranger = False
        self._body = bytearray()
        self._passed_bytes = 0
        if self._connection.holds():
            self._connection.flow().unread = b""
        self._shared.load.bytes -= self._bytes_counted
        self._bytes_counted = 0

    def _read(self, data: bytes) -> None:
        """Read requests, as many as make a turn: known heads by their bytes, the rest through the parser."""
        connection = self._connection
        if self._is_stranger and not (self._is_let or self._shared.strangers.let(self._go_on)):
            connection.flow().wait(data)
            return
        self._is_let = False
        at, raw = self._take_body(data) if self._awaited is not None else 0, b""
        if self._reader is None or not self._reader.is_partial:
            at, raw = self._read_known(data, at)
        if at < len(data) and not connection.closing:
            turn_bytes_max = self._turn_bytes_max
            self._parse(data[at : at + turn_bytes_max], raw)
            at += turn_bytes_max
        if at < len(data):
            if connection.closing:
                self._pass_over(data[at:])
            else:
                connection.flow().hold(data[at:])
        if len(connection.calls) > PIPELINE_MAX:
            connection.flow().pause()

    def _go_on(self) -> None:
        """Read what waited for its time, of who has shown no key; nothing where it is gone."""
        if self._connection.holds():
            self._is_let = True
            self._connection.flow().go_on()

    def _is_of_proxy(self) -> bool:
        """Say whether many callers share the connection: those of a proxy do not wait for one another."""
        proxies = self._shared.proxies
        return proxies is not None and proxies.trusts(peer_of(self._transport))

    def _read_known(self, data: bytes, at: int) -> tuple[int, bytes]:
        """Read requests with known heads; return where the parser must begin, and the head that is there."""
        connection = self._connection
        for _ in range(TURN_REQUESTS_MAX):
            if at == len(data) or connection.closing:
                return at, b""
            end = data.find(b"\r\n\r\n", at) + 4
            raw = data[at:end] if end > 3 else b""
            form, body_bytes = self._heads().find(raw)
            if form is None:
                return at, raw
            connection.form, at = form, end + body_bytes
            if form.head.caller is not None:
                self._has_caller, self._is_stranger = True, False
            if at > len(data):
                self.await_body(form, raw, body_bytes, self._shared.now_s)
                at = end + self._take_body(data[end:])
            else:
                connection.serve(form.head, data[end:at], form, raw)
        if at < len(data):
            self._connection.flow().hold(data[at:])
        return len(data), b""

    def _take_body(self, data: bytes) -> int:
        """Take what has come of the body that is awaited; serve its request once it is whole; return what was taken."""
        part = data[: self._missing]
        self._body += part
        self._missing -= len(part)
        if not self._missing and self._awaited is not None:
            (form, raw), self._awaited = self._awaited, None
            body, self._body = bytes(self._body), bytearray()
            self._connection.serve(form.head, body, form, raw)
        return len(part)

    def _parse(self, data: bytes, raw: bytes) -> None:
        """Read requests through the parser. raw: the head that the data begins with, if it is whole."""
        connection, shared = self._connection, self._shared
        reader = self._reader = self._reader or RequestReader(shared, self._visitor)
        messages, error = reader.read(data, raw)
        for head, body, seen, headers in messages:
            if connection.closing:
                return
            if body is None:
                connection.let_send(head)
                continue
            is_refused = type(head.fault) is UnauthorizedError
            self._turn_bytes_max = STRANGER_BYTES_MAX if is_refused else TURN_BYTES_MAX
            self._has_caller = self._has_caller or (head.caller is not None and not is_refused)
            self._is_stranger = is_refused and not self._has_caller and not self._is_of_proxy()
            if seen and not shared.draining:
                connection.form = self._heads().remember(seen, head, headers, connection.form) or connection.form
            connection.is_refused = reader.tunnel  # it may be sending still, what is meant for a tunnel
            connection.serve(head, body)
            if not head.keep_alive:
                connection.end()
        if error is not None:
            connection.refuse(error, self.head)

    def _pass_over(self, data: bytes) -> None:
        """Drop what comes after the last request; too much of it ends the connection."""
        self._passed_bytes += len(data)
        if not self._connection.calls and self._passed_bytes > self._shared.limits.body_bytes_max:
            self._transport.abort()

    def _count_held(self) -> int:
        """Count, and return, the bytes that are held of a request that is not whole."""
        held = len(self._body) + self._connection.holds() + (0 if self._reader is None else self._reader.bytes_held)
        self._shared.load.bytes += held - self._bytes_counted
        self._bytes_counted = held
        return held

    def _bound_bytes(self) -> None:
        """Count what is held; refuse this request where all connections together hold too much."""
        too_much = self._count_held() and self._shared.load.bytes > self._shared.limits.bytes_max
        if too_much and not self._connection.closing:
            self._connection.refuse(UnavailableError("too many requests come in parts", next="try again later"), None)
