"""One client's connection: it gives requests to an endpoint and sends the answers in order.

A client that awaits each answer sends one whole request, or its head and then its body, with a head that was seen
before but for the values that vary. That path is in this file and needs no parser. Whatever else a client may send
goes through the intake (intake.py), its parser (reader.py) and its flow control (flow.py).
"""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import suppress
from typing import Final, cast

from tailrace.deadline import NS_PER_S
from tailrace.errors import RequestTimeoutError, ServerError, ServingError
from tailrace.refusals import SHED
from tailrace.server.endpoint import CallEndpoint, Endpoint
from tailrace.server.http.flow import Flow
from tailrace.server.http.forms import HeadForm, are_visible
from tailrace.server.http.head import Head
from tailrace.server.http.intake import Intake
from tailrace.server.http.outgoing import HttpCall, Outgoing
from tailrace.server.http.shared import Shared

LOST_NS: Final = 1 * NS_PER_S
"""A call that has no answer so long after its deadline will have none: something failed that should not."""


class Connection(Outgoing, asyncio.Protocol):
    """One client's connection. Its calls wait in `calls`, in order, until they are answered.

    Its state, by the attribute that says so; several may hold at once:

    attribute      says                                  from                        to
    `calls`        answers are owed, the oldest first    `serve`, `_send`            `answer_only`, `flush`
    `_awaited`     a known head was read alone           `data_received`             the next bytes
    `_intake`      something came that is no such        the first time              connection lost
    `closing`      its last request is read              asked, refused, drained     `_leave`, when no call is left
    `is_refused`   and it may be sending still           `refuse`, CONNECT           it ends, or sends too much
    `_expected`    none of these, nor a request in part  a known form                anything else
    """

    __slots__ = ("_began_s",)

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._began_s = shared.now_s

    # -- asyncio's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection; one over the limit is served from the reserve."""
        self._transport = cast(asyncio.Transport, transport)
        shared = self._shared
        if len(shared.connections) >= shared.limits.connections_max:
            shared = self._shared = shared.enter_reserve()
        shared.connections[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a client that is gone; what it asked for is dropped when it is answered."""
        self._shared.connections.pop(self, None)
        self.calls.clear()
        self.end()
        if self._intake is not None:
            self._intake.drop()
        self._awaited = self._flow = self._intake = None

    def eof_received(self) -> bool:
        """Close once the pending answers are sent; a client may shut its sending side and still read."""
        self.is_refused = False  # it sends no more, so there is nothing to wait for
        if self.calls:
            self.end()
            return True
        return False

    def data_received(self, data: bytes) -> None:
        """Read what a client sends: first looked for is one request of the known form, or its head or body alone."""
        form = self._expected
        if form is not None and not self.calls:
            whole = form.wholes[len(data)]
            if form.varies is None:
                fits = data.startswith(whole)
            else:
                fits = form.parts(data) == whole and are_visible(form.varies(data))
            if fits:
                self.serve(form.head, data[form.size :], form, data)
                return
            if len(data) == form.size and 0 < (missing := form.body_bytes(data)) <= self._shared.limits.body_bytes_max:
                self._await_body(form, data, missing)
                return
        elif self._awaited is not None and self._take_body(data):
            return
        self._take_up(data)

    def flow(self) -> Flow:
        """Return what holds the client back, made when it is first needed."""
        if self._flow is None:
            self._flow = Flow(self._transport, self._take_up, self.calls.__len__)
        return self._flow

    def holds(self) -> int:
        """Return how many bytes wait for their turn to be read."""
        return 0 if self._flow is None else len(self._flow.unread)

    def _take_up(self, data: bytes) -> None:
        """Read what is no request of the known form, or had to wait for its turn."""
        self._reads_in_parts().receive(data)
        self._expect()

    def _expect(self) -> None:
        """Decide whether what comes next is looked at as a whole request of the last form."""
        busy = self.closing or self._awaited is not None or (self._intake is not None and self._intake.is_partial)
        self._expected = None if busy else self.form

    def _await_body(self, form: HeadForm, raw: bytes, body_bytes: int) -> None:
        """Wait for the body of a request whose head came alone, as many clients send it; too long a one is refused."""
        self._awaited = form, raw, body_bytes
        self._expected = None
        self._began_s = self._shared.now_s

    def _take_body(self, data: bytes) -> bool:
        """Serve the request whose body was awaited, if this is it; else leave it to the intake, to be gathered."""
        assert self._awaited is not None
        (form, raw, missing), self._awaited = self._awaited, None
        if len(data) == missing:
            self._expected = form
            self.serve(form.head, data, form, raw)
            return True
        self._reads_in_parts().await_body(form, raw, missing, self._began_s)
        return False

    def _reads_in_parts(self) -> Intake:
        """Return what reads all else, made when it is first needed."""
        if self._intake is None:
            self._intake = Intake(self, self._shared, self._transport)
        return self._intake

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read its answers."""
        flow = self.flow()
        flow.stuck_s = self._shared.now_s
        flow.pause()

    def resume_writing(self) -> None:
        """Read again."""
        flow = self.flow()
        flow.stuck_s = -1
        flow.resume()

    # -- a request comes in -------------------------------------------------------------------------------------------

    def serve(self, head: Head, body: bytes, form: HeadForm | None = None, raw: bytes = b"") -> None:
        """Serve one whole request. form, raw: that its head fits, and the head's bytes, where it was not parsed."""
        call = HttpCall(self._shared.transport, None, None, 0, 0, 1, self, head, head.is_plain)
        if head.told is not None and form is not None and form.told:
            call.form, call.raw = form, raw[: form.size]
        endpoint = head.endpoint
        if type(endpoint) is not Endpoint and not isinstance(endpoint, CallEndpoint):
            self._answer_page(call, endpoint)
            return
        refusal = endpoint.accept(call, body, head.budget_ns)
        if refusal is None:
            self.calls.append(call)
        elif refusal is SHED and head.is_plain and not self._shared.draining:
            self._send(call, self._shared.framing.shed)
        else:
            if isinstance(refusal, ServerError):
                self._shared.log_failure(endpoint.name, refusal, call)
            self._send_error(call, refusal)

    # -- what the intake calls ----------------------------------------------------------------------------------------

    def refuse(self, error: ServingError, head: Head | None) -> None:
        """Answer what cannot be read any further, and close. head: of the request, if it was read."""
        if not self.closing:
            self.is_refused = True
            self._awaited = None
            if self._intake is not None:
                self._intake.drop()
            self._shared.count_failure(type(error))
            call = HttpCall(self._shared.transport, None, None, 0, 0, 1, self, head, False)
            self._send_error(call, error, close=True)

    def _part_began_s(self) -> int:
        """Return in which second the request began that is not whole."""
        return self._began_s if self._awaited is not None or self._intake is None else self._intake.began_s

    def drop(self) -> None:
        """Close at once, for one that needs the place more."""
        self._transport.abort()

    # -- time ---------------------------------------------------------------------------------------------------------

    def check_age(self, now_s: int, now_ns: int) -> None:
        """Close the connection if it is idle, sends too slowly or does not read; answer calls whose answer was lost."""
        limits, calls = self._shared.limits, self.calls
        stuck_s = -1 if self._flow is None else self._flow.stuck_s
        left = self.closing and not calls and now_s - self._seen_s > limits.request_s
        if left or (stuck_s >= 0 and now_s - stuck_s > limits.request_s):
            self._transport.abort()
        elif calls and calls[0].answer is None and now_ns > calls[0].deadline_ns + LOST_NS:
            self._answer_lost()
        elif self._is_partial() and now_s - self._part_began_s() > limits.request_s:
            head = None if self._intake is None else self._intake.head
            self.refuse(RequestTimeoutError(f"the request took over {limits.request_s} s to send"), head)
        elif not (calls or self._is_partial()):
            idle_s = now_s - self._seen_s
            # While draining a connection in use learns of it with its next answer; only one that asks nothing for a
            # whole second is closed without a word, which could cross a request on its way.
            if idle_s > limits.idle_s or (self._shared.draining and idle_s >= 2):
                self._close_idle()

    def _close_idle(self) -> None:
        """Close, unless a request has come that the loop has not read yet: it would be lost."""
        sock = socket.socket(fileno=self._transport.get_extra_info("socket").fileno())
        try:
            if not is_readable(sock):
                self.end()
                if not self._transport.get_write_buffer_size():  # else it is sent first
                    with suppress(OSError):  # the client is gone
                        sock.shutdown(socket.SHUT_WR)  # the transport would say so a turn of the loop later
                self._transport.close()
        finally:
            sock.detach()


def is_readable(sock: socket.socket) -> bool:
    """Say whether something has come on a socket that nobody has read: bytes, or the client's end."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
