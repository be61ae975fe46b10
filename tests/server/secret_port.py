"""A port that speaks TLS, beside that of a `RunningServer`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tailrace.server.http.secure import Secured
from tailrace.server.tls.certificates import Certificates


class SecretPort:
    """A port of a `RunningServer` that speaks TLS. look: has it do what a worker does once a second."""

    def __init__(self, server: Any, certificates: Certificates) -> None:
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
def secret_port(server: Any, certificates: Certificates) -> Iterator[SecretPort]:
    """Give a server a port that speaks TLS."""
    port = SecretPort(server, certificates)
    asyncio.run_coroutine_threadsafe(port.open(), server.loop).result(20.0)
    try:
        yield port
    finally:
        server.on_loop(port.close)
