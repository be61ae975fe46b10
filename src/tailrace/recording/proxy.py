"""A proxy that keeps calls: it stands before a server for as long as calls are recorded, and passes their bytes on.

    client ─▶ Proxy ─▶ server          Only the head is added to: `X-Trace: 1`, for the release and the layers' times.
                └─▶ Exchange ─▶ take(call)

Nothing in the server knows of it, so nothing there takes time; and what it keeps is what the client sent, were it no
HTTP at all.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tailrace.errors import SetupError
from tailrace.recording.condition import Wanted
from tailrace.recording.file import RecordedCall
from tailrace.recording.place import Place
from tailrace.recording.redaction import Redaction, without_secrets
from tailrace.recording.stream import Kind, MessageStream, Part, fields_of
from tailrace.recording.times import layers_of

READ_BYTES: Final = 64 << 10
BODY_BYTES_MAX: Final = 16 << 20
"""Of a body that is kept; of a longer one only the head is."""
HELD_BYTES_MAX: Final = 128 << 20
"""Of the bodies of calls under way, all connections together; beyond, a body is passed on and not kept."""
CONNECTIONS_MAX: Final = 256
PIPELINED_MAX: Final = 1_000
"""Calls of one connection whose answers are owed; a client that sends more waits."""
TRACE: Final = b"X-Trace: 1\r\n"


@dataclass(slots=True)
class Exchange:
    """A call under way. head, body: as they came; garbled: what was no HTTP, if it was none."""

    at: dt.datetime
    began_s: float
    head: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    body_bytes: int = 0
    garbled: bool = False
    answer_head: bytes = b""
    answer: bytearray = field(default_factory=bytearray)
    answer_bytes: int = 0
    first_ms: float = 0.0
    is_head: bool = False

    @property
    def path(self) -> str:
        """The path that was asked for, without what is behind a question mark."""
        words = self.head.partition(b"\r\n")[0].split(b" ")
        return words[1].partition(b"?")[0].decode("latin-1") if len(words) > 1 and not self.garbled else ""

    @property
    def request_id(self) -> str:
        """The client's own id of the request."""
        return fields_of(self.head).get(b"x-request-id", b"").decode("latin-1")

    @property
    def status(self) -> int:
        """The status of the answer; 0 where there is none."""
        words = self.answer_head.split(b" ", 2)
        return int(words[1][:3]) if len(words) > 1 and words[1][:3].isdigit() else 0


class Proxy:
    """Passes connections on to a server. place: where it is. take: is given each call that is wanted."""

    def __init__(
        self, place: Place, wanted: Wanted, redaction: Redaction, take: Callable[[RecordedCall], None]
    ) -> None:
        self._place = place
        self._wanted = wanted
        self._redaction = redaction
        self._take = take
        self._open: set[asyncio.Task[None]] = set()
        self._held_bytes = 0
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept connections; return where. Raises SetupError where the address cannot be had."""
        try:
            self._server = await asyncio.start_server(self._accept, host, port)
        except OSError as error:
            raise SetupError(f"cannot listen: {error.strerror or error}", where=f"{host}:{port}",
                             next="choose another --listen") from error  # fmt: skip
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    async def close(self) -> None:
        """Accept nothing more, and end the connections that are open."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._pass_on(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one end is gone; the other one's is closed below
        finally:
            self._open.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what one client sends, and what it is answered, until both are done."""
        try:
            place = self._place
            there_reader, there_writer = await asyncio.open_connection(place.host, place.port, ssl=place.tls)
        except OSError:
            return  # the client sees a connection that ends, as it would at the server
        owed: deque[Exchange] = deque()
        sends = asyncio.create_task(self._pass_requests(reader, there_writer, owed))
        try:
            await self._pass_answers(there_reader, writer, owed)
        finally:
            sends.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await sends
            there_writer.close()
            for exchange in owed:
                self._finish(exchange)

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, owed: deque[Exchange]
    ) -> None:
        stream = MessageStream(is_answer=False)
        exchange: Exchange | None = None
        while data := await reader.read(READ_BYTES):
            for part in stream.parts(data):
                if exchange is None:
                    exchange = Exchange(dt.datetime.now(dt.UTC), time.monotonic())
                    owed.append(exchange)
                self._add_to_request(exchange, part)
                writer.write(_traced(part.raw) if part.kind is Kind.HEAD else part.raw)
                if part.kind is Kind.END:
                    exchange = None
            await writer.drain()
            while len(owed) > PIPELINED_MAX:
                await asyncio.sleep(0.01)
        for part in stream.end():
            exchange = exchange or Exchange(dt.datetime.now(dt.UTC), time.monotonic())
            if exchange not in owed:
                owed.append(exchange)
            self._add_to_request(exchange, part)
            writer.write(part.raw)
        if writer.can_write_eof():
            writer.write_eof()

    async def _pass_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, owed: deque[Exchange]
    ) -> None:
        stream = MessageStream(is_answer=True)
        while data := await reader.read(READ_BYTES):
            stream.expect_body = not (owed and owed[0].is_head)
            for part in stream.parts(data):
                if owed:
                    self._add_to_answer(owed[0], part)
                if part.kind is Kind.END and owed:
                    self._finish(owed.popleft())
                    stream.expect_body = not (owed and owed[0].is_head)
                writer.write(part.raw)
            await writer.drain()
        for part in stream.end():
            if owed:
                self._add_to_answer(owed[0], part)
                if part.kind is Kind.END:
                    self._finish(owed.popleft())
            writer.write(part.raw)
        await writer.drain()

    def _add_to_request(self, exchange: Exchange, part: Part) -> None:
        """Take in a part of what a client sent."""
        if part.kind is Kind.HEAD:
            exchange.head = part.raw
            exchange.is_head = part.raw.startswith(b"HEAD ")
        elif part.kind is Kind.GARBLED:
            exchange.garbled = True
            exchange.head += part.raw[: max(READ_BYTES - len(exchange.head), 0)]
        else:
            exchange.body_bytes += len(part.content)
            self._hold(exchange.body, part.content)

    def _add_to_answer(self, exchange: Exchange, part: Part) -> None:
        """Take in a part of an answer; an interim one is passed over."""
        exchange.first_ms = exchange.first_ms or (time.monotonic() - exchange.began_s) * 1_000
        if part.kind in (Kind.HEAD, Kind.GARBLED):
            if not part.raw.startswith(b"HTTP/1.1 1"):
                exchange.answer_head = part.raw[:READ_BYTES]
        else:
            exchange.answer_bytes += len(part.content)
            self._hold(exchange.answer, part.content)

    def _hold(self, body: bytearray, content: bytes) -> None:
        """Keep a part of a body, unless it, or all that are kept, would be too long."""
        if len(body) + len(content) <= BODY_BYTES_MAX and self._held_bytes + len(content) <= HELD_BYTES_MAX:
            body += content
            self._held_bytes += len(content)

    def _finish(self, exchange: Exchange) -> None:
        """Give a call that is over to who takes it, if it is wanted."""
        self._held_bytes -= len(exchange.body) + len(exchange.answer)
        whole_ms = (time.monotonic() - exchange.began_s) * 1_000
        if not self._wanted.takes_request(exchange.path, exchange.request_id):
            return
        if self._wanted.takes_answer(exchange.status, whole_ms):
            self._take(self._recorded(exchange, whole_ms))

    def _recorded(self, exchange: Exchange, whole_ms: float) -> RecordedCall:
        """Return a call as it may be kept."""
        path, fields = exchange.path, fields_of(exchange.answer_head)
        asked = self._redaction.of_request(path, exchange.head, bytes(exchange.body))
        told = self._redaction.of_answer(path, exchange.answer_head, bytes(exchange.answer))
        if exchange.body_bytes > len(exchange.body):
            asked.content, asked.left_out = None, f"the body has {exchange.body_bytes} bytes"
        head = without_secrets(exchange.head)
        if exchange.garbled and asked.content is None:
            head = b""
        return RecordedCall(
            at=exchange.at,
            head=_without_coding(head) if asked.is_plain else head,
            body=asked.content,
            left_out=asked.left_out,
            is_chunked=fields_of(exchange.head).get(b"transfer-encoding", b"").lower().endswith(b"chunked"),
            redacted=tuple(asked.paths),
            status=exchange.status,
            answer_head=without_secrets(exchange.answer_head),
            answer=None if exchange.answer_bytes > len(exchange.answer) else told.content,
            answer_redacted=tuple(told.paths),
            first_ms=round(exchange.first_ms, 3),
            whole_ms=round(whole_ms, 3),
            release=fields.get(b"x-release", b"").decode("latin-1"),
            layers=layers_of(fields.get(b"server-timing", b"")),
        )


def _traced(head: bytes) -> bytes:
    """Return a head that asks for the release and the times of the layers."""
    if b"x-trace" in fields_of(head):
        return head
    line, _, rest = head.partition(b"\r\n")
    return line + b"\r\n" + TRACE + rest


def _without_coding(head: bytes) -> bytes:
    """Return the head of a body that is not compressed any more."""
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"content-encoding:"))
