"""A few blocking requests to a server, before traffic, under one deadline.

A socket's timeout is of one step: a server that sends a byte now and then never exceeds it, and a name takes as long as
the resolver does. So a thread makes the requests, is waited for as long as there is time, and has its socket shut then.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Final, TypeVar

from tailrace.inference.remote.address import RemoteAddress
from tailrace.inference.remote.failure import RemoteError, RemoteFault
from tailrace.inference.remote.protocol import SHOWN_MAX

EXCHANGE_S_MAX: Final = 5.0
"""Of all requests together."""
STEP_S_MAX: Final = 2.0
BYTES_MAX: Final = 1 << 20
"""Of one answer."""
THREAD: Final = "remote-exchange"

T = TypeVar("T")


class Exchange:
    """Requests to one server. authorization: a header's value."""

    def __init__(self, address: RemoteAddress, authorization: str | None) -> None:
        self._address = address
        self._headers = {"Authorization": authorization} if authorization else {}
        self._socket: socket.socket | None = None
        self._is_over = False

    def run(self, ask: Callable[[Exchange], T]) -> T:
        """Return what comes of some requests. Raises RemoteError: after `EXCHANGE_S_MAX` at the latest."""
        found: Future[T] = Future()

        def work() -> None:
            try:
                found.set_result(ask(self))
            except BaseException as error:  # whatever it is, who waits has it
                found.set_exception(error)

        thread = Thread(target=work, name=THREAD, daemon=True)
        thread.start()
        thread.join(EXCHANGE_S_MAX)
        if found.done():
            return found.result()
        self._is_over = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        raise self._late()

    def get(self, path: str) -> bytes:
        """Return the body of an answer of status 200. Raises RemoteError."""
        address, connection = self._address, self._connection()
        try:
            connection.connect()
            self._socket = connection.sock  # which the connection forgets, where the server is to close it
            if self._is_over:
                raise self._late()
            connection.request("GET", path, headers=self._headers)
            reply = connection.getresponse()
            body = reply.read(BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            what = f"{address.authority}: {error or type(error).__name__}"
            raise RemoteError(RemoteFault.UNREACHABLE, what) from None
        finally:
            connection.close()
        if reply.status != 200:
            said = body[:SHOWN_MAX].decode("utf-8", "replace")
            raise RemoteError(RemoteFault.STATUS, f"{address.authority} answered {reply.status} for {path}: {said!r}")
        if len(body) > BYTES_MAX:
            what = f"{address.authority} says more than {BYTES_MAX} bytes of its model"
            raise RemoteError(RemoteFault.TOO_LARGE, what)
        return body

    def _connection(self) -> http.client.HTTPConnection:
        address, tls = self._address, self._address.tls()
        if tls is None:
            return http.client.HTTPConnection(address.host, address.port, timeout=STEP_S_MAX)
        return http.client.HTTPSConnection(address.host, address.port, timeout=STEP_S_MAX, context=tls)

    def _late(self) -> RemoteError:
        what = f"{self._address.authority} has not answered whole in {EXCHANGE_S_MAX:g} s"
        return RemoteError(RemoteFault.LATE, what)
