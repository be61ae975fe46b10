"""What a client is owed: the answers of one connection, in the order of its calls."""

from __future__ import annotations

import asyncio
import gzip
from collections import deque
from typing import cast

from tailrace.batch import Call, Source, Trace
from tailrace.errors import ServerError, ServingError, UnavailableError
from tailrace.server.endpoint import Feed, Page
from tailrace.server.http.flow import Flow
from tailrace.server.http.forms import HeadForm
from tailrace.server.http.framing import CONTINUE
from tailrace.server.http.head import REQUEST_ID, Head
from tailrace.server.http.intake import Intake
from tailrace.server.http.shared import Shared
from tailrace.server.proxies import peer_of
from tailrace.server.request_ids import id_in_body
from tailrace.server.trace_context import TRACEPARENT, TRACESTATE, state_of, trace_of
from tailrace.server.wishes import REQUEST_ID_BYTES_MAX


class HttpCall(Call, gc=False, eq=False):
    """A call over HTTP: the connection and the head that it came with, and its answer's bytes, once they are there.

    is_plain: whether the answer is a body in the usual frame. form, raw: which its head fits, and the head's bytes,
    where headers of `TOLD` are in it that vary. given_id: what the server has named it, where its caller has not.
    """

    connection: Outgoing
    head: Head | None
    is_plain: bool
    answer: bytes | None = None
    form: HeadForm | None = None
    raw: bytes = b""
    given_id: bytes = b""

    def told(self, name: bytes) -> bytes:
        """Return a header of `TOLD` as it came with this call, not with the one whose head was read; empty for none."""
        if self.form is not None and name in self.form.told:
            return self.raw[self.form.told[name]].strip()
        return b"" if self.head is None or self.head.told is None else self.head.told.get(name, b"")

    @property
    def request_id(self) -> bytes:
        """The id that is told back: the caller's, or one that the server has given it; empty for none."""
        return self.told(REQUEST_ID)[:REQUEST_ID_BYTES_MAX] or self.given_id

    @property
    def trace(self) -> Trace | None:
        """The trace that it is part of, if its caller tells one."""
        parent = self.told(TRACEPARENT)
        return trace_of(parent, self.told(TRACESTATE)) if parent else None

    @property
    def trace_state(self) -> bytes:
        """That of its trace, without a look at the trace; see `Call`."""
        state = self.told(TRACESTATE)
        return state_of(state) if state else b""

    @property
    def route(self) -> str:
        """The method and the path that it names, without the query; see `Call`."""
        return "" if self.head is None else self.head.route

    @property
    def callers(self) -> bytes:
        """The scope of its caller, by its key; see `Call`."""
        return b"" if self.head is None or self.head.caller is None else self.head.caller.scopes

    def identify(self) -> str:
        """Return its id, given now where the server gives one; see `Call`."""
        self.connection.identify(self)
        return self.request_id.decode("ascii", "backslashreplace")

    def source(self) -> Source:
        """Return where it comes from; see `Call`."""
        client = self.connection.client or self.connection.client_of(self)
        if self.head is None or self.head.told is None:  # as of nearly all
            return self.given_id, b"", client
        return self.request_id, b"" if (trace := self.trace) is None else trace.parent, client


class Outgoing:
    """The answering side of a connection. calls: those whose answers are owed. closing: whether the last one is read.

    client: the address of who calls, once it was asked for, where that is the same for all calls.
    is_refused: whether the client may be sending still what is not read any more. form: of the last head; the next
    request is expected in it, unless something else is under way.
    """

    __slots__ = (
        "_awaited", "_expected", "_flow", "_intake", "_seen_s", "_shared", "_transport", "calls", "client", "closing",
        "form", "is_refused",
    )  # fmt: skip

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.calls: deque[HttpCall] = deque()
        self.closing = self.is_refused = False
        self._expected: HeadForm | None = None
        self.form: HeadForm | None = None
        self._awaited: tuple[HeadForm, bytes, int] | None = None
        self._intake: Intake | None = None
        self._flow: Flow | None = None
        self._seen_s = shared.now_s
        self.client = b""

    def identify(self, call: HttpCall) -> None:
        """Give a call an id before its answer has one, where its caller has not."""
        ids = self._shared.ids
        if ids is not None and not call.request_id:
            call.given_id = id_in_body(call.codec).encode() or ids.take()
            call.is_plain = False

    def client_of(self, call: HttpCall) -> bytes:
        """Return the address of who calls: the connection's, or where that is a proxy of ours what it tells."""
        peer, proxies = peer_of(self._transport), self._shared.proxies
        if proxies is not None:
            return proxies.client(peer, call.told(proxies.header)).encode()
        client = self.client = peer.encode()
        return client

    def _answer_page(self, call: HttpCall, page: Page | None) -> None:
        """Answer what needs no engine: a health check, a page, or a request with a fault in its head."""
        shared, head = self._shared, cast(Head, call.head)
        try:
            if page is None:
                raise head.fault or UnavailableError("nothing serves this path")
            if (refusal := page.refusal(call)) is not None:
                raise refusal
            if isinstance(page, Feed) and self._hand_over(page, head.query):
                return
            status, content_type, body, headers, compresses = page.answer()
        except ServingError as error:
            shared.count_failure(type(error))
            is_feed = isinstance(page, Feed)  # who gets none is not to hold a place until it is idle for too long
            self._send_error(call, error.bare(), close=is_feed)  # bare: it would hold the head that the fault is in
            return
        except Exception as error:  # a page that fails takes no other one along
            fault = ServerError(f"{type(error).__name__} in answering this request", next="see the server's log")
            fault.__cause__ = error
            shared.count_failure(ServerError)
            shared.log_failure("", fault, call)
            self._send_error(call, fault)
            return
        if compresses and head.gzip:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers = (*headers, b"Content-Encoding: gzip", b"Vary: Accept-Encoding")
        close = shared.draining or not head.keep_alive
        if close:
            self.end()
        self._send(call, shared.framing.full(head, status, content_type, body, headers, call.request_id, close=close))

    def _hand_over(self, feed: Feed, query: bytes) -> bool:
        """Give the connection to a feed; return False for one that is owed answers or is the server's last."""
        if self.calls or self._shared.draining:
            return False
        listener = feed.begin(self._transport, query)
        self._shared.connections.pop(self, None)
        self.end()
        self._transport.set_protocol(listener)
        return True

    def _send_error(self, call: HttpCall, error: ServingError, *, close: bool = False) -> None:
        """Answer with an error, in its turn."""
        head = call.head
        close = close or self._shared.draining
        if close or (head is not None and not head.keep_alive):
            self.end()
        self._send(call, self._shared.framing.error(head, error, call.request_id, close=close))

    def _send(self, call: HttpCall, answer: bytes) -> None:
        """Send an answer that is there, when its turn comes."""
        call.answer = answer
        self.calls.append(call)
        if len(self.calls) == 1:
            self.flush()

    def answer_only(self, answer: bytes) -> None:
        """Write the answer to the only call there is."""
        self.calls.popleft()
        self._seen_s = self._shared.now_s
        self._transport.write(answer)
        if self.closing:
            self._leave()
        elif self._flow is not None:
            self._flow.resume()

    def flush(self) -> None:
        """Write the answers at the front of the line, in one write."""
        calls, answers = self.calls, []
        while calls and (answer := calls[0].answer) is not None:
            answers.append(answer)
            calls.popleft()
        self._seen_s = self._shared.now_s
        self._transport.write(b"".join(answers))
        if self.closing and not calls:
            self._leave()
        elif self._flow is not None:
            self._flow.resume()

    def let_send(self, head: Head) -> None:
        """Tell a client that waits with its body to send it."""
        self._send(HttpCall(self._shared.transport, None, None, 0, 0, 1, self, head, False), CONTINUE)

    def end(self) -> None:
        """Read nothing more, and close once all is answered."""
        self.closing, self._expected = True, None

    def ends_with(self, call: HttpCall) -> bool:
        """Say whether a call's answer is the last one; if so, nothing more is read. For a server that goes away."""
        if self._is_partial() or not self.calls or self.calls[-1] is not call:
            return False
        self.end()
        return True

    def _is_partial(self) -> bool:
        """Say whether a part of a request has come, or waits to be read."""
        return self._awaited is not None or (self._intake is not None and self._intake.is_partial)

    def _leave(self) -> None:
        """Close. A client that was refused may be sending still, and would lose the answer (RFC 9112 §9.6)."""
        if not self.is_refused:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write_eof()
            if self._intake is not None:
                self._intake.drop()
            if self._flow is not None:
                self._flow.resume()

    def _answer_lost(self) -> None:
        """Answer calls whose answers a fault of ours has lost, and close: one that came after all would fit none."""
        shared = self._shared
        error = ServerError("the answer to this request was lost", next="see the server's log")
        self.end()
        for call in self.calls:
            if call.answer is None:
                shared.count_failure(ServerError)
                close = call is self.calls[-1]
                call.answer = shared.framing.error(call.head, error, call.request_id, close=close)
        self.flush()
