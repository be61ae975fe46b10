"""HTTP/1.1 on one event loop: connections, their limits, and the framing of answers.

A connection reads requests, hands them to an engine, and sends the answers in order. A keep-alive client repeats its
head byte for byte, so heads are remembered by their bytes: a request whose head is known and whose body is whole
skips the parser (1.5 µs of 20; bench/run.py). All others go through httptools.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import httptools
import structlog

from tailrace.errors import (
    BodyTooLargeError,
    ClientError,
    HeadersTooLargeError,
    OutOfTimeError,
    RequestTimeoutError,
    ServerError,
    ServingError,
    UnavailableError,
)
from tailrace.server.framing import CONTINUE, SHED, Framing
from tailrace.server.head import Head, Routes, check_framing, read_head
from tailrace.server.options import ServeOptions
from tailrace.types import Batch, Call

HEADS_MAX: Final = 1_024
"""Heads remembered. A client that never repeats one fills it and is read by the parser all the same."""

PIPELINE_MAX: Final = 64
"""Calls of one connection in flight before it is no longer read."""

TURN_REQUESTS_MAX: Final = 64
TURN_BYTES_MAX: Final = 16 << 10
"""What is read of one connection, of known heads and through the parser, before the others have their turn. A client
that sends without end and reads nothing held up its neighbours for over a second (tests/server/test_faults.py)."""

OFFERS_MAX: Final = 8
"""Offers of another protocol passed over in one read; each costs a copy of what follows."""


class HttpServer:
    """What the connections of one worker share: routes, limits, framing, and the sweep for those that are too slow."""

    def __init__(self, routes: Routes, options: ServeOptions, on_error: Callable[[type[Any]], None]) -> None:
        self.routes = routes
        self.options = options
        self.framing = Framing()
        self.heads: dict[bytes, Head] = {}
        self.connections: set[Connection] = set()
        self.draining = False
        self.now_s = 0
        self.on_error = on_error
        self._failures: dict[str, int] = {}
        self._logged_s = -1

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self)

    def deliver(self, batch: Batch) -> None:
        """Send the bodies of a batch, in one write to every connection."""
        if self.draining or batch.errors:
            self._deliver_with_care(batch)
            return
        waiting = []
        for call, body, answer in zip(batch.calls, batch.bodies, self.framing.ok(batch.bodies), strict=True):
            head, connection = call.head, call.origin
            if head.plain and len(connection.calls) == 1:
                connection.answer_only(answer)
            else:  # it asks for more than a body, or pipelines, or is gone
                call.answer = answer if head.plain else self.framing.rich(head, body, batch, call)
                waiting.append(call)
        self._flush(waiting)

    def _deliver_with_care(self, batch: Batch) -> None:
        """Deliver a batch some calls of which failed, or the last ones of a server that is going away."""
        for index, (call, body) in enumerate(zip(batch.calls, batch.bodies, strict=True)):
            close = self.draining and call.origin.ends_with(call)
            if (error := batch.errors.get(index)) is not None:
                call.answer = self.framing.failed(call.head, error, body, batch, call, close=close)
            else:
                call.answer = self.framing.rich(call.head, body, batch, call, close=close)
        self._flush(batch.calls)

    def refuse(self, call: Call, error: ServingError | OutOfTimeError) -> None:
        """Send an error in place of an answer."""
        close = self.draining and call.origin.ends_with(call)
        call.answer = self.framing.error(call.head, error, close=close)
        self._flush([call])

    def log_failure(self, pipeline: str, error: ServerError) -> None:
        """Log that the code of a request type raised, at most once a second."""
        self._failures[pipeline] = self._failures.get(pipeline, 0) + 1
        if self._logged_s < self.now_s:
            calls, cause, self._logged_s = self._failures.pop(pipeline), error.__cause__ or error, self.now_s
            log = structlog.get_logger()
            log.error("calls failed", pipeline=pipeline, calls=calls, error=repr(cause), exc_info=cause)

    @staticmethod
    def _flush(calls: list[Call]) -> None:
        """Write the answers that are next in line on their connections."""
        for call in calls:
            pending = call.origin.calls
            if pending and pending[0] is call:
                call.origin.flush()

    def sweep(self) -> None:
        """Once a second: renew the Date, close what is idle, too slow to send or too slow to read."""
        self.now_s += 1
        self.framing.renew_date()
        for connection in list(self.connections):
            connection.check_age(self.now_s)

    def drain(self) -> None:
        """Take no more work than is under way: every further answer closes its connection."""
        self.draining = True
        self.heads.clear()


class Connection(asyncio.Protocol):
    """One client's connection. Its calls wait in `calls`, in order, until they are answered.

    Where it stands, by the attribute that says so; several may hold at once:

    attribute    says                                    from                           to
    `_partial`   a request is half parsed                its first byte                 `on_message_complete`
    `calls`      answers are owed, the oldest first      `_accept`, `_line_up`          `answer_only`, `flush`
    `_rest`      bytes wait for a turn, and for room     a turn's worth was read        `_take_turn`
    `_turn_due`  that turn is asked of the loop          `_hold`, `_resume`             `_take_turn`
    `_stuck_s`   since when the client reads no answers  `pause_writing`                `resume_writing`; or aborted
    `_paused`    the client is not read: `_rest`,        `_pause`                       `_resume`
                 `_stuck_s`, or over PIPELINE_MAX calls
    `closing`    its last request is read                asked, refused, drained, gone  `_leave`, when no call is left
    `_refused`   and it may be sending still             `_refuse`, CONNECT             it ends, or sends too much

    The rest is of the request being parsed, and of the clock: `_began_s` when it began, `_seen_s` the last answer.
    """

    __slots__ = (
        "_began_s", "_body", "_body_bytes", "_head", "_head_bytes", "_headers", "_parser", "_partial", "_passed_bytes",
        "_paused", "_raw_head", "_refused", "_rest", "_seen_s", "_server", "_stuck_s", "_transport", "_turn_due",
        "_url", "calls", "closing",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.calls: deque[Call] = deque()
        self.closing = self._refused = False
        self._paused = self._turn_due = False
        self._rest = b""
        self._stuck_s = -1
        self._seen_s = self._began_s = server.now_s
        self._passed_bytes = 0
        # the request being parsed
        self._parser: Any = None
        self._partial = False
        self._raw_head = b""
        self._head: Head | None = None
        self._head_bytes = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._body_bytes = 0

    # -- asyncio's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse it where there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        server = self._server
        if len(server.connections) >= server.options.connections_max:
            error = UnavailableError("too many connections", next="try again later, or another worker")
            server.on_error(UnavailableError)
            self._transport.write(server.framing.error(None, error, close=True))
            self._transport.close()
            return
        server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a client that is gone; what it asked for is dropped when it is answered."""
        self._server.connections.discard(self)
        self.calls.clear()
        self._rest = b""
        self.closing = True
        self._parser = None  # it holds this connection: a cycle, and serving collects none

    def eof_received(self) -> bool:
        """Close once the pending answers are sent; a client may shut its sending side and still read."""
        self._refused = False  # it sends no more, so there is nothing to wait for
        if self.calls:
            self.closing = True
            return True
        return False

    def data_received(self, data: bytes) -> None:
        """Read requests, or keep what comes while earlier ones are still to be read.

        What a client sends that awaits each answer, one whole request with a known head, is looked for first: an eighth
        fewer instructions a request than the loop that reads any (tests/test_hot_path.py).
        """
        if not (self.calls or self.closing or self._partial or self._rest):
            end = data.find(b"\r\n\r\n") + 4
            head = self._server.heads.get(data[:end])
            if head is not None and end + head.body_bytes == len(data):
                self._accept(head, data[end:])
                return
        if self.closing:
            self._pass_over(data)
        elif self._rest:
            self._rest += data
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Read requests, as many as make a turn: known heads by their bytes, the rest through the parser."""
        at, size = 0, len(data)
        if not self._partial:
            heads, turn = self._server.heads, 0
            while at < size:
                if turn == TURN_REQUESTS_MAX:
                    self._hold(data[at:])
                    return
                end = data.find(b"\r\n\r\n", at) + 4
                head = heads.get(data[at:end])
                if head is None:
                    # A head that begins with an empty line would be remembered by that line alone.
                    self._raw_head = data[at:end] if end > 3 and data[at] > 32 else b""
                    break
                stop = end + head.body_bytes
                if size < stop:
                    self._raw_head = b""
                    break
                self._accept(head, data[end:stop])
                at, turn = stop, turn + 1
        if at < size:
            self._parse(data[at : at + TURN_BYTES_MAX])
            if at + TURN_BYTES_MAX < size:
                self._hold(data[at + TURN_BYTES_MAX :])
        if len(self.calls) > PIPELINE_MAX:
            self._pause()

    def _hold(self, rest: bytes) -> None:
        """Keep what has been received for the next turn, and receive no more until then."""
        if self.closing:
            self._pass_over(rest)
            return
        self._rest = rest
        self._pause()
        self._want_turn()

    def _want_turn(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Read on, unless the answers must go first: then `_resume` asks for a turn."""
        self._turn_due = False
        if not self._has_room():
            return
        rest, self._rest = self._rest, b""
        if self.closing:
            self._pass_over(rest)
        else:
            self._read(rest)
        if not self._rest:
            self._resume()

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read its answers."""
        self._stuck_s = self._server.now_s
        self._pause()

    def resume_writing(self) -> None:
        """Read again."""
        self._stuck_s = -1
        self._resume()

    # -- a request comes in -----------------------------------------------------------------------------------------

    def _accept(self, head: Head, body: bytes) -> None:
        """Serve one whole request."""
        engine = head.engine
        if engine is None:
            self._answer_now(head)
            return
        try:
            call = engine.accept(self, head, body, head.budget_ns)
        except ServingError as error:
            engine.on_error(type(error))
            if isinstance(error, ServerError):
                self._server.log_failure(engine.plan.name, error)
            self._send_error(head, error)
            return
        if call is None:
            self._shed(head)
        else:
            self.calls.append(call)

    def _shed(self, head: Head) -> None:
        """Refuse a call for lack of time, as cheaply as can be."""
        server = self._server
        if not head.plain or server.draining:
            self._send_error(head, SHED)
        elif self.calls:
            self._line_up(head, server.framing.shed)
        else:
            self._seen_s = server.now_s
            self._transport.write(server.framing.shed)

    def _answer_now(self, head: Head) -> None:
        """Answer what needs no engine: a health check, or a request with a fault in its head."""
        if head.handler is None:
            self._fail(head, head.fault or UnavailableError("nothing serves this path"))
            return
        status, content_type, body = head.handler()
        close = self._server.draining
        self._queue(head, self._server.framing.full(head, status, content_type, body, close=close), close=close)

    def _fail(self, head: Head | None, error: ServingError, *, close: bool = False) -> None:
        """Answer a request that reaches no pipeline with an error, and count it."""
        self._server.on_error(type(error))
        self._send_error(head, error, close=close)

    def _send_error(self, head: Head | None, error: ServingError | OutOfTimeError, *, close: bool = False) -> None:
        """Answer with an error, in its turn."""
        close = close or self._server.draining
        self._queue(head, self._server.framing.error(head, error, close=close), close=close)

    def _queue(self, head: Head | None, answer: bytes, *, close: bool = False) -> None:
        self.closing = self.closing or close or (head is not None and not head.keep_alive)
        self._line_up(head, answer)

    def _line_up(self, head: Head | None, answer: bytes) -> None:
        """Send an answer that is there, when its turn comes."""
        self.calls.append(Call(self, head, None, 0, 0, 0, answer))
        if len(self.calls) == 1:
            self.flush()

    def answer_only(self, answer: bytes) -> None:
        """Write the answer to the only call there is."""
        self.calls.popleft()
        self._seen_s = self._server.now_s
        self._transport.write(answer)
        if self.closing:
            self._leave()
        elif self._paused:
            self._resume()

    def flush(self) -> None:
        """Write the answers at the front of the line, in one write."""
        calls, answers = self.calls, []
        while calls and (answer := calls[0].answer) is not None:
            answers.append(answer)
            calls.popleft()
        self._seen_s = self._server.now_s
        self._transport.write(b"".join(answers))
        if self.closing and not calls:
            self._leave()
        elif self._paused:
            self._resume()

    def ends_with(self, call: Call) -> bool:
        """Say whether a call's answer is the last one; if so, nothing more is read. For a server that goes away."""
        if self._partial or self._rest or not self.calls or self.calls[-1] is not call:
            return False
        self.closing = True
        return True

    def _leave(self) -> None:
        """Close. A client that was refused may be sending still, and would lose the answer (RFC 9112 §9.6)."""
        if not self._refused:
            self._transport.close()
        elif not self._transport.is_closing():
            self._passed_bytes = 0
            self._transport.write_eof()
            if self._paused:
                self._resume()

    def _pass_over(self, data: bytes) -> None:
        """Drop what comes after the last request; too much of it ends the connection."""
        self._passed_bytes += len(data)
        if not self.calls and self._passed_bytes > self._server.options.body_bytes_max:
            self._transport.abort()

    def _pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._has_room() or self._transport.is_closing():
            return
        if self._rest:
            self._want_turn()
        else:
            self._paused = False
            self._transport.resume_reading()

    def _has_room(self) -> bool:
        """Say whether more requests may be read: the client reads its answers, and few are owed."""
        return self._stuck_s < 0 and len(self.calls) <= PIPELINE_MAX // 2

    # -- the parser's side ------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        for _ in range(OFFERS_MAX):
            try:
                self._feed(data)
            except httptools.HttpParserUpgrade as offer:
                if self._head is None:
                    data = self._without_offer(data[offer.args[0] :])
                    continue
            except httptools.HttpParserCallbackError as error:
                self._refuse(_error_of(error))
            except httptools.HttpParserError as error:
                self._refuse(ClientError(str(error), next="send HTTP/1.1 as RFC 9112 has it"))
            except ServingError as error:
                self._refuse(error)
            return
        self._refuse(ClientError("too many offers of another protocol", next="wait for the answer to the first"))

    def _feed(self, data: bytes) -> None:
        """Give the parser what has come; hold heads, trailers and extensions, which it gathers itself, to their limit.

        Raises httptools' errors and HeadersTooLargeError.
        """
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        fresh, headers, head, body_bytes = not self._partial, self._headers, self._head, self._body_bytes
        self._parser.feed_data(data)
        if self._partial:
            if self._headers is headers and self._head is head and self._body_bytes == body_bytes:
                self._head_bytes += len(data)
            else:
                self._head_bytes = len(data) if fresh and b"\r\n\r\n" not in data else 0
            self._check_head(self._head_bytes)

    def _without_offer(self, rest: bytes) -> bytes:
        """Return the head just read as if it offered no other protocol (RFC 9110 §7.8), and what follows it.

        To the parser a request that does ends with its head, whatever its Content-Length.
        """
        parser, version = self._parser, self._parser.get_http_version().encode()
        self._parser = httptools.HttpRequestParser(self)
        lines = [b"%b %b HTTP/%b" % (parser.get_method(), self._url, version)]
        lines += [b"%b: %b" % (n, v) for n, v in self._headers if n.lower() not in (b"connection", b"upgrade")]
        lines.append(b"Connection: " + (b"keep-alive" if parser.should_keep_alive() else b"close"))
        return b"\r\n".join([*lines, b"\r\n"]) + rest

    def _refuse(self, error: ServingError) -> None:
        """Answer what cannot be read any further, and close."""
        if not self.closing:
            self._refused = True
            self._fail(self._head if self._partial else None, error, close=True)

    def _check_head(self, head_bytes: int) -> None:
        """Raise HeadersTooLargeError for a head, a trailer or a chunk's extension over the limit."""
        limit = self._server.options.header_bytes_max
        if head_bytes > limit:
            raise HeadersTooLargeError(f"the head or trailer is over {limit} bytes", next="send fewer, shorter headers")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._partial = True
        self._began_s = self._server.now_s
        self._head = None
        self._head_bytes = 0
        self._url = b""
        self._headers = []
        self._body = bytearray()
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Gather the target; it may come in pieces."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Gather a header; a trailer says nothing that is needed."""
        if self._head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Read the head, remember it where it can come again, and refuse what is unclear or too large unread."""
        parser, server, raw = self._parser, self._server, self._raw_head
        self._check_head(len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers))
        keep_alive = parser.should_keep_alive()
        if parser.should_upgrade():
            if parser.get_method() != b"CONNECT":
                return  # it is read again, without its offer
            keep_alive, self._refused = False, True  # what follows is meant for a tunnel that there is not
        self._raw_head = b""
        version = parser.get_http_version()
        head = read_head(server.routes, parser.get_method(), self._url, self._headers, version, keep_alive)
        self._head = head
        check_framing(version, self._headers)
        if head.body_bytes > server.options.body_bytes_max:
            raise BodyTooLargeError(f"the body is over {server.options.body_bytes_max} bytes", next="send fewer a call")
        if head.expects_continue and head.body_bytes:
            if head.fault is not None:
                raise head.fault  # now: the client waits with its body
            self._line_up(head, CONTINUE)
        if raw and head.plain and head.body_bytes >= 0 and not head.expects_continue and not server.draining:
            if len(server.heads) >= HEADS_MAX:
                server.heads.clear()
            server.heads[raw] = head

    def on_body(self, body: bytes) -> None:
        """Gather the body, up to the limit."""
        self._body_bytes += len(body)
        if self._body_bytes > self._server.options.body_bytes_max:
            raise BodyTooLargeError(f"the body is over {self._server.options.body_bytes_max} bytes")
        self._body += body

    def on_message_complete(self) -> None:
        """Serve the request."""
        self._partial = False
        if self._head is not None and not self.closing:
            head = self._head
            self._accept(head, bytes(self._body))
            self.closing = self.closing or not head.keep_alive

    # -- time -------------------------------------------------------------------------------------------------------

    def check_age(self, now_s: int) -> None:
        """Close the connection if it is idle, sends too slowly, or does not read."""
        options = self._server.options
        left = self.closing and not self.calls and now_s - self._seen_s > options.request_s
        if left or (self._stuck_s >= 0 and now_s - self._stuck_s > options.request_s):
            self._transport.abort()
        elif self._partial and now_s - self._began_s > options.request_s:
            self._refuse(RequestTimeoutError(f"the request took over {options.request_s} s to send"))
        elif not (self.calls or self._partial or self._rest):
            idle_s = now_s - self._seen_s
            # While draining a connection in use is told with its next answer; only one that asks nothing for a whole
            # second is closed without a word, which could cross a request on its way.
            if idle_s > options.idle_s or (self._server.draining and idle_s >= 2):
                self.closing = True
                self._transport.close()


def _error_of(error: httptools.HttpParserCallbackError) -> ServingError:
    """Return what a callback of the parser raised; what is no serving error is a fault of ours."""
    if isinstance(error.__context__, ServingError):
        return error.__context__
    structlog.get_logger().error("request failed", error=repr(error.__context__), exc_info=error)
    return ServerError("the request could not be read", next="see the server's log")
