"""The admin port: /metrics, /status, /livez, /readyz. In the supervisor, apart from the traffic, tightly bounded."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import msgspec

from tailrace.errors import (
    HeadersTooLargeError,
    MalformedBodyError,
    MethodNotAllowedError,
    NotFoundError,
    RequestTimeoutError,
    ServingError,
    SetupError,
    UnavailableError,
)
from tailrace.monitor.snapshot import PipelineSnapshot
from tailrace.response.problem import CONTENT_TYPE as PROBLEM_TYPE
from tailrace.response.problem import problem_body
from tailrace.server.control import PipelineReady
from tailrace.server.logging import logger

CONNECTIONS_MAX: Final = 64
HEAD_BYTES_MAX: Final = 8 << 10
REQUEST_S: Final = 5.0
"""How long a client may take to ask, and to read its answer."""

_REASONS: Final = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
    503: "Service Unavailable",
}  # fmt: skip


class UnauthorizedError(ServingError):
    """The token is missing or wrong."""

    status = 401
    grpc_code = "UNAUTHENTICATED"
    title = "Unauthorized"


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker slot. pid 0: none runs at the moment. adopted_by: the slot that accepts for it meanwhile."""

    slot: int
    pid: int
    state: str
    restarts: int
    rss_bytes: int
    ready_s: float | None
    adopted_by: int | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of /status. pipelines: since the start; recent: over the last `recent_s`; warm_up: measured then."""

    version: str
    pid: int
    uptime_s: float
    ready: bool
    address: str
    workers: list[WorkerStatus]
    pipelines: tuple[PipelineSnapshot, ...]
    recent_s: float
    recent: tuple[PipelineSnapshot, ...]
    warm_up: tuple[PipelineReady, ...]


class AdminView(Protocol):
    """What the admin port shows."""

    def metrics_page(self) -> bytes:
        """Return the page of /metrics."""
        ...

    def status(self) -> Status:
        """Return the answer of /status."""
        ...

    def is_ready(self) -> bool:
        """Return whether traffic is served."""
        ...


class _Page(NamedTuple):
    """An answer: status code, content type, body."""

    code: int
    content_type: bytes
    body: bytes


class AdminServer:
    """Serves the admin pages; one request a connection."""

    def __init__(self, view: AdminView, token: str | None = None) -> None:
        self.address: tuple[str, int] = ("", 0)
        self._token = token
        self._open = 0
        self._server: asyncio.Server | None = None
        self._view = view
        self._pages: dict[str, Callable[[], _Page]] = {
            "/metrics": self._metrics,
            "/status": self._status,
        }
        self._probes: dict[str, Callable[[], _Page]] = {"/livez": _alive, "/readyz": self._readiness}

    async def open(self, host: str, port: int) -> None:
        """Listen. Raises SetupError where the address cannot be had."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=HEAD_BYTES_MAX)
        except OSError as error:
            raise SetupError(
                f"cannot listen: {error.strerror or error}", where=f"{host}:{port}", next="choose another admin port"
            ) from error
        name = self._server.sockets[0].getsockname()
        self.address = (name[0], name[1])

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        self._open += 1
        try:
            async with asyncio.timeout(REQUEST_S):
                await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client is gone, or does not read
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request and write its answer."""
        method = "GET"
        try:
            if self._open > CONNECTIONS_MAX:
                raise UnavailableError(f"{CONNECTIONS_MAX} connections are open", next="ask again later")
            method, path, headers = await _read_head(reader)
            page = self._find(method, path, headers)
        except ServingError as error:
            page = _Page(error.status, PROBLEM_TYPE, problem_body(error))
        except Exception as error:  # a page that fails must not take the supervisor's other pages along
            logger().error("admin page failed", exc_info=True)
            page = _Page(500, PROBLEM_TYPE, problem_body(ServingError(f"{type(error).__name__}: {error}")))
        writer.write(
            f"HTTP/1.1 {page.code} {_REASONS.get(page.code, 'Error')}\r\nContent-Length: {len(page.body)}\r\n".encode()
            + b"Content-Type: " + page.content_type
            + (b"\r\nWWW-Authenticate: Bearer" if page.code == UnauthorizedError.status else b"")
            + b"\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n"
            + (b"" if method == "HEAD" else page.body)
        )  # fmt: skip
        await writer.drain()

    def _find(self, method: str, path: str, headers: dict[str, str]) -> _Page:
        """Return the page of a path."""
        page = self._probes.get(path) or self._pages.get(path)
        if page is None:
            pages = ", ".join([*self._pages, *self._probes])
            raise NotFoundError(f"no such page: {path[:200]}", where=path[:200], next=f"the admin port has {pages}")
        if method not in {"GET", "HEAD"}:
            raise MethodNotAllowedError(f"{method[:20]} is not for {path}", where=path, next="use GET")
        if path in self._pages and self._token and not self._is_known(headers.get("authorization", "")):
            raise UnauthorizedError("this page needs the admin token", where=path, next="send Authorization: Bearer …")
        return page()

    def _is_known(self, authorization: str) -> bool:
        """Return whether the header carries the token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(authorization.encode(), f"Bearer {self._token}".encode())

    def _metrics(self) -> _Page:
        """Return the page of /metrics."""
        from tailrace.monitor.exposition import CONTENT_TYPE  # takes 50 ms that no start should wait for

        return _Page(200, CONTENT_TYPE.encode(), self._view.metrics_page())

    def _status(self) -> _Page:
        """Return the page of /status."""
        return _Page(200, b"application/json", msgspec.json.encode(self._view.status()))

    def _readiness(self) -> _Page:
        """Return the page of /readyz."""
        if not self._view.is_ready():
            raise UnavailableError("not ready", where="/readyz", next="ask again; a start takes seconds")
        return _Page(200, b"text/plain", b"ready\n")


def _alive() -> _Page:
    """Return the page of /livez."""
    return _Page(200, b"text/plain", b"alive\n")


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]]:
    """Return method, path (without its query) and headers, names in lower case."""
    try:
        async with asyncio.timeout(REQUEST_S - 1):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise HeadersTooLargeError(f"the head is over {HEAD_BYTES_MAX} bytes") from None
    except TimeoutError:
        raise RequestTimeoutError(f"no whole request within {REQUEST_S - 1:g} s") from None
    line, *fields = head.decode("latin-1").split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise MalformedBodyError("not an HTTP/1.1 request line", next="send GET /status HTTP/1.1")
    pairs = (field.partition(":") for field in fields if field)
    return words[0], words[1].partition("?")[0], {name.strip().lower(): value.strip() for name, _, value in pairs}
