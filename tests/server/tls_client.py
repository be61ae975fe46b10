"""A client over TLS that is no more than its socket, and a listener for it beside that of a `RunningServer`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from http_server import PATIENCE_S, RawClient, RunningServer

from tailrace.server.http.secure import Secured
from tailrace.server.tls.certificates import Certificates


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


class SecretPort:
    """A port of a `RunningServer` that speaks TLS. look: has it do what a worker does once a second."""

    def __init__(self, server: RunningServer, certificates: Certificates) -> None:
        self.server = server
        self.certificates = certificates
        self.address = ("", 0)

    async def open(self) -> None:
        """Listen."""
        self.secured = Secured(self.server.http.shared, self.certificates)
        loop = asyncio.get_running_loop()
        self.listener = await loop.create_server(self.secured, "127.0.0.1", 0, backlog=2_048)
        self.address = self.listener.sockets[0].getsockname()

    def close(self) -> None:
        """Listen no more."""
        self.listener.close()
        self.secured.thread.close()

    def look(self) -> None:
        """Have the server look at its files."""
        self.server.on_loop(self.certificates.look)


@contextmanager
def secret_port(server: RunningServer, certificates: Certificates) -> Iterator[SecretPort]:
    """Give a server a port that speaks TLS."""
    port = SecretPort(server, certificates)
    asyncio.run_coroutine_threadsafe(port.open(), server.loop).result(PATIENCE_S)
    try:
        yield port
    finally:
        server.on_loop(port.close)
