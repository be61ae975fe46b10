"""Explains a request for the console: `tailrace explain` in a process of its own, for which the supervisor never waits.

It runs the release's code and may take a second of a core. So there is one at a time, with a limit of time and bytes,
and it ends with the connection that has asked for it. One whose client does not read its answer is the one for as long
as it may, and is closed then: so no more than one document is held.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

import msgspec

from tailrace.batch import JSON
from tailrace.core_share import hold_back
from tailrace.errors import InvalidRequestError, NotFoundError, ServerError, ServingError, UnavailableError
from tailrace.response.problem import CONTENT_TYPE as PROBLEM
from tailrace.response.problem import problem_body
from tailrace.server.options import ServeOptions

COMMAND: Final = (sys.executable, "-m", "tailrace.cli.main", "explain")
ID_CHARACTERS_MAX: Final = 1_024
TIME_S_MAX: Final = 60.0
SENT_S_MAX: Final = 30.0
"""How long a client may take to read what it has asked for: until then it is in the supervisor's memory."""
BYTES_MAX: Final = 16 << 20
ERROR_CHARACTERS_MAX: Final = 2_000
WHERE: Final = "/console/explanation"
HEADERS: Final = (
    b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nConnection: close"
)


class Explaining:
    """Explains requests of a server's log, one at a time. releases: the directory of its pinned releases."""

    def __init__(self, options: ServeOptions, releases: str, command: Sequence[str] = COMMAND) -> None:
        self._options = options
        self._releases = releases
        self._command = tuple(command)
        self._running: Explained | None = None

    def check(self) -> str:
        """Return the log's directory. Raises NotFoundError where there is none."""
        if self._options.log is None:
            raise NotFoundError("this server keeps no log of its predictions", where="/console/explain",
                                next="serve with --log DIR; requests that come then can be explained")  # fmt: skip
        return self._options.log

    def enter(self, transport: asyncio.Transport, query: bytes) -> Explained:
        """Take a connection that asks for an explanation. Raises ServingError where it cannot have one."""
        arguments = self._arguments(query)
        if self._running is not None and not self._running.is_done:
            raise UnavailableError("another request is being explained", where=WHERE,
                                   next="ask again in a moment")  # fmt: skip
        self._running = Explained(transport, arguments)
        return self._running

    def close(self) -> None:
        """End what runs."""
        if self._running is not None:
            self._running.stop()

    def _arguments(self, query: bytes) -> list[str]:
        """Return the command that answers a query. Raises InvalidRequestError for one that names no request."""
        asked = parse_qs(query.decode("ascii", "replace"), max_num_fields=8)
        wanted = (asked.get("id") or asked.get("trace") or [""])[0]
        if not 0 < len(wanted) <= ID_CHARACTERS_MAX or "\0" in wanted:
            raise InvalidRequestError("no request is named", where="id", next="ask for /console/explanation?id=…")
        given = ["--log", self.check(), "--releases", self._releases, "--json"]
        if self._options.store is not None:
            given += ["--store", self._options.store]
        given += ["--replay"] if asked.get("replay") == ["1"] else []
        given += [] if "id" in asked else ["--trace"]
        return [*self._command, *given, "--", wanted]


class Explained(asyncio.Protocol):
    """One connection that waits for an explanation, and gets it, or what kept it from one."""

    def __init__(self, transport: asyncio.Transport, arguments: Sequence[str]) -> None:
        self._transport = transport
        self._arguments = arguments
        self._is_gone = False
        self._task = asyncio.get_running_loop().create_task(self._answer())

    @property
    def is_done(self) -> bool:
        """Whether its answer was taken, or nobody waits any more."""
        return self._is_gone or self._task.done()

    def stop(self) -> None:
        """End it, and the process."""
        self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Ignore what is sent: the connection ends with the answer."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End the process that nobody waits for."""
        self._is_gone = True
        self._task.cancel()

    async def _answer(self) -> None:
        try:
            status, kind, body = await self._explained()
        except ServingError as error:
            status, kind, body = error.status, PROBLEM, problem_body(error)
        except asyncio.CancelledError:
            self._transport.abort()
            return
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: {len(body)}\r\n".encode()
        self._transport.write(head + b"Content-Type: " + kind + b"\r\n" + HEADERS + b"\r\n\r\n" + body)
        self._transport.close()
        if self._transport.get_write_buffer_size():
            try:
                await asyncio.sleep(SENT_S_MAX)  # which ends with the connection
            finally:
                self._transport.abort()

    async def _explained(self) -> tuple[int, bytes, bytes]:
        """Return the status of the answer, its type, and the document. Raises ServingError."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *self._arguments, stdin=DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
            )
        except OSError as error:
            raise ServerError(f"no process can be started: {error.strerror or error}", where=WHERE) from None
        hold_back(process.pid)  # decisions that are made come before those that are explained
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(TIME_S_MAX):
                found, told = await asyncio.gather(_first(process.stdout, BYTES_MAX), _first(process.stderr, 1 << 16))
        except TimeoutError:
            raise UnavailableError(f"it took over {TIME_S_MAX:.0f} s", where=WHERE, next="use the command line: "
                                   "tailrace explain … --at TIME searches an hour alone") from None  # fmt: skip
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if len(found) > BYTES_MAX:
            raise ServerError(f"it is longer than {BYTES_MAX >> 20} MiB", where=WHERE, next="use tailrace explain")
        return _answer_of(found, told)


def _answer_of(found: bytes, told: bytes) -> tuple[int, bytes, bytes]:
    """Return what is answered to what the process has printed. Raises ServerError where that is no document."""
    try:
        answered = msgspec.json.decode(found, type=_Answered).answered
    except msgspec.DecodeError:
        text = told.decode("utf-8", "replace").strip().removeprefix("error: ")
        raise ServerError(text[:ERROR_CHARACTERS_MAX] or "it ended without a word", where=WHERE) from None
    return 200 if answered else 404, JSON, found


async def _first(stream: asyncio.StreamReader, bytes_max: int) -> bytes:
    """Return the beginning of what a stream has, up to one byte more than asked for; the rest is read and dropped."""
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        kept += chunk[: bytes_max + 1 - len(kept)]
    return bytes(kept)


class _Answered(msgspec.Struct):
    """What must be known of the document: whether a request was found."""

    answered: list[msgspec.Raw]
