"""A client over TLS that is no more than its socket."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

from http_server import PATIENCE_S, RawClient


class Wrapped:
    """A socket over TLS, by hand: what is sent and received may be looked at, held back and altered on its way."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, name: str = "localhost") -> None:
        self.raw = socket.create_connection(address, PATIENCE_S)
        self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        try:
            self.pump(self.tls.do_handshake)
        except BaseException:
            self.raw.close()
            raise

    def pump(self, step: Any, *arguments: Any) -> Any:
        """Do a step of TLS to its end, with what must be sent and received for it."""
        while True:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                self._send_owed()
                data = self.raw.recv(65_536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            finally:
                self._send_owed()

    def _send_owed(self) -> None:
        """Send what TLS has to say, if the server still hears it."""
        if owed := self.outgoing.read():
            with contextlib.suppress(OSError):
                self.raw.sendall(owed)

    def sealed(self, data: bytes) -> bytes:
        """Return how data would be sent."""
        self.tls.write(data)
        return self.outgoing.read()

    def sendall(self, data: bytes) -> None:
        """Send data."""
        self.raw.sendall(self.sealed(data))

    def send(self, data: bytes) -> int:
        """Send data."""
        self.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        """Return what has come; b"" where a goodbye has. Raises ssl.SSLEOFError for an end without one."""
        try:
            return self.pump(self.tls.read, size)
        except ssl.SSLZeroReturnError:
            return b""

    def shutdown(self, how: int) -> None:
        """Say goodbye, and go on reading."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.raw.sendall(self.outgoing.read())

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self.raw.fileno()

    def close(self) -> None:
        """Leave without a goodbye."""
        self.raw.close()


class TlsClient(RawClient):
    """A `RawClient` over TLS."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        self.wrapped = Wrapped(address, context)
        self.sock: Any = self.wrapped
        self._buffer = b""
