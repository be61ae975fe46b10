"""HTTP over TLS: the handshake of a connection, and the connection that comes of it.

A connection that is not secret yet has its place among the others, and its end: it is one of `connections_max`, and has
`request_s` to be done. What it computes it computes on a thread (tls/thread.py); the loop passes bytes.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, cast

import structlog

from tailrace.errors import HandshakeError, RequestTimeoutError
from tailrace.server.certified import Certified
from tailrace.server.http.connection import Connection, is_readable
from tailrace.server.http.intake import Intake
from tailrace.server.http.shared import Shared
from tailrace.server.http.visitor import Visitor
from tailrace.server.tls.certificates import Certificates
from tailrace.server.tls.peer import peer_of
from tailrace.server.tls.records import Records
from tailrace.server.tls.thread import HandshakeThread
from tailrace.server.tls.transport import TlsTransport

_NO_TLS: Final = frozenset(("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"))
"""What OpenSSL calls that which speaks HTTP before any handshake."""


class SecureConnection(Connection):
    """One client's connection over TLS. visitor: whose it is, where a certificate says that."""

    __slots__ = ("_halfway_s", "visitor")

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self.visitor: Visitor | None = None
        self._halfway_s = -1

    def _reads_in_parts(self) -> Intake:
        """Return what reads all that is no request of a known form; see `Connection`."""
        if self._intake is None:
            self._intake = Intake(self, self._shared, self._transport, self.visitor)
        return self._intake

    def _close_idle(self) -> None:
        """Close, unless a part of a request has come: a record that is not whole, or what the loop has not read yet."""
        transport = cast(TlsTransport, self._transport)
        if transport.records.is_partial:
            self._bound_record()
        elif not is_readable(transport.get_extra_info("socket")):
            self.end()
            transport.close()

    def _bound_record(self) -> None:
        """Refuse a client whose record takes longer than a request may."""
        now_s, request_s = self._shared.now_s, self._shared.limits.request_s
        if self._halfway_s < self._seen_s:
            self._halfway_s = now_s
        elif now_s - self._halfway_s > request_s:
            self.refuse(RequestTimeoutError(f"the request took over {request_s} s to send"), None)


class Secured:
    """Called, it makes the protocol of a new connection that is to be secret.

    shared: of the HTTP server that it is for. certified: tells callers by their certificates; None asks for none.
    """

    def __init__(self, shared: Shared, certificates: Certificates, certified: Certified | None = None) -> None:
        self.certificates = certificates
        self.certified = certified
        self.thread = HandshakeThread()
        self._shared = shared
        self._failed = 0
        self._logged_s = -1

    def __call__(self) -> Handshake:
        """Make the protocol of a new connection."""
        return Handshake(self._shared, self)

    def count_failure(self, reason: str) -> None:
        """Count a handshake that has failed, and log it, once a second at most."""
        shared = self._shared
        shared.count_failure(HandshakeError)
        self._failed += 1
        if self._logged_s < shared.now_s:
            failed, self._failed, self._logged_s = self._failed, 0, shared.now_s
            structlog.get_logger().warning("handshakes failed", handshakes=failed, last=reason)


class Handshake(asyncio.Protocol):
    """What a connection is until it is secret."""

    def __init__(self, shared: Shared, secured: Secured) -> None:
        self._shared = shared
        self._secured = secured
        self._records = Records(secured.certificates.context)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._began_s = shared.now_s

    # -- asyncio's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection; one over the limit is served from the reserve."""
        self._transport = cast(asyncio.Transport, transport)
        shared = self._shared
        if len(shared.connections) >= shared.limits.connections_max:
            shared = self._shared = shared.enter_reserve()
        shared.connections[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a client that is gone."""
        self._shared.connections.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Have the next step computed; what comes meanwhile waits in the socket."""
        self._transport.pause_reading()
        self._records.put(data)
        self._secured.thread.advance(self)

    # -- the thread's side ------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Go on; return whether the handshake is done. Raises ssl.SSLError."""
        return self._records.shake()

    def stepped(self, *, done: bool, fault: ssl.SSLError | None) -> None:
        """Answer, and go on: with what comes next, as a connection, or no further."""
        transport = self._transport
        if transport.is_closing():
            return
        if owed := self._records.take():
            transport.write(owed)
        if fault is not None:
            self._fail(fault.reason or "unreadable")
            return
        transport.resume_reading()
        if done:
            self._shared.connections.pop(self, None)
            connection = SecureConnection(self._shared)
            certified = self._secured.certified
            if certified is not None and (peer := peer_of(self._records.tls)) is not None:
                connection.visitor = certified.visitor_of(peer)
            TlsTransport(transport, self._records).begin(connection)

    def _fail(self, reason: str) -> None:
        """Leave. Who speaks HTTP here is told so in HTTP."""
        if reason in _NO_TLS:
            error = HandshakeError("this port speaks TLS", next="call it by https://")
            self._transport.write(self._shared.framing.error(None, error, b"", close=True))
        self._secured.count_failure(reason.lower().replace("_", " "))
        self._transport.close()

    # -- what the server calls, as it does with connections -----------------------------------------------------------

    def check_age(self, now_s: int, now_ns: int) -> None:
        """Close what takes too long."""
        if now_s - self._began_s > self._shared.limits.request_s:
            self._secured.count_failure(f"over {self._shared.limits.request_s:g} s")
            self._transport.abort()

    def drop(self) -> None:
        """Close at once, for one that needs the place more."""
        self._transport.abort()
