"""Results to a webhook: one POST each, on connections that are kept."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from tailrace.deadline import NS_PER_S, parse_duration
from tailrace.inference.remote.address import RemoteAddress
from tailrace.inference.remote.connection import ClosedIdleError, RemoteConnection, Reply
from tailrace.inference.remote.failure import RemoteError
from tailrace.response.destinations import Webhook
from tailrace.server.accepted.sending import SendError
from tailrace.traffic import Traffic

ANSWER_BYTES_MAX: Final = 64 << 10
"""Of a receiver's answer, of which only the status counts; one that is longer is a failure."""
IDLE_S_MAX: Final = 15.0
WAIT_ASKED_S_MAX: Final = 3_600.0
SHOWN_MAX: Final = 120
GONE: Final = 410


class WebhookSender:
    """Sends to one webhook. A redirection is not followed: it is a status like any other. See `Sender`."""

    def __init__(self, webhook: Webhook) -> None:
        self._address = RemoteAddress.parse(webhook.url)
        self._tls = self._address.tls()
        self._timeout_s = parse_duration(webhook.timeout) / NS_PER_S
        self._idle: list[RemoteConnection] = []
        self._all: set[RemoteConnection] = set()
        self.where = webhook.url

    async def send(self, headers: Mapping[str, str], body: bytes) -> None:
        """Send one result. Raises SendError."""
        request = self._request(headers, body)
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._exchange(request)
        except TimeoutError:
            raise SendError(f"no answer within {self._timeout_s:g} s") from None
        except (RemoteError, OSError, ssl.SSLError) as error:
            raise SendError(str(error) or type(error).__name__) from None
        if not 200 <= reply.status < 300:
            said = reply.body[:SHOWN_MAX].decode("utf-8", "replace")
            what = f"the receiver answered {reply.status}: {said!r}"
            raise SendError(what, wait_s=_wait_asked_s(reply), is_final=reply.status == GONE)

    def close(self) -> None:
        """Let go of the connections."""
        for connection in list(self._all):
            connection.abort()

    async def _exchange(self, request: bytes) -> Reply:
        """Send a request, and again on a new connection where the kept one was closed meanwhile."""
        while (connection := self._kept()) is not None:
            with suppress(ClosedIdleError):
                return await self._ask(connection, request)
        return await self._ask(await self._connect(), request)

    async def _ask(self, connection: RemoteConnection, request: bytes) -> Reply:
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        connection.ask(request, waiter)
        try:
            reply = await waiter
        except BaseException:  # cancelled, too: what it is answered later must not be another's answer
            connection.abort()
            raise
        if connection.is_usable:
            connection.idle_since_s = time.monotonic()
            self._idle.append(connection)
        return reply

    def _kept(self) -> RemoteConnection | None:
        """Return a connection that was used lately, None where there is none."""
        oldest_s = time.monotonic() - IDLE_S_MAX
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and connection.idle_since_s >= oldest_s:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> RemoteConnection:
        address, loop = self._address, asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl": self._tls, "server_hostname": address.host} if self._tls else {}
        _, connection = await loop.create_connection(
            partial(RemoteConnection, ANSWER_BYTES_MAX, self._all.discard, Traffic()),
            address.host,
            address.port,
            **options,
        )
        self._all.add(connection)
        return connection

    def _request(self, headers: Mapping[str, str], body: bytes) -> bytes:
        head = self._address.head(self._address.path or "/", "application/json", None)
        more = "".join(f"\r\n{name}: {value}" for name, value in headers.items()).encode()
        begin, _, length = head.rpartition(b"\r\n")
        return b"%b%b\r\nUser-Agent: tailrace\r\n%b%d\r\n\r\n%b" % (begin, more, length, len(body), body)


def _wait_asked_s(reply: Reply) -> float:
    """Return the seconds of a Retry-After; 0 where there is none, or a date."""
    value = reply.headers.get(b"retry-after", b"")
    return min(float(value), WAIT_ASKED_S_MAX) if value.isdigit() and len(value) < 8 else 0.0
