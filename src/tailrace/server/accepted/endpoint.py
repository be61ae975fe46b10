"""The endpoint of requests that are accepted: read and validated as any, on disk before the answer, scored later."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import msgspec

from tailrace.batch import JSON, Batch, Call, Codec
from tailrace.codecs.offer import Offer
from tailrace.deadline import LAYERS, NS_PER_S
from tailrace.errors import (
    ClientError,
    DeadlineExceededError,
    InsufficientStorageError,
    InvalidRequestError,
    ServingError,
    UnavailableError,
)
from tailrace.server.accepted.journal import Known, Refused, Waiting, new_id
from tailrace.server.accepted.journal_thread import JournalThread
from tailrace.server.endpoint import CallEndpoint, Endpoint
from tailrace.server.http.head import Head
from tailrace.server.wishes import REQUEST_ID_BYTES_MAX

ACCEPT_NS: Final = 5 * NS_PER_S
"""How long a caller waits for the disk, who names no budget."""
ASKED_MAX: Final = 1_024
"""Requests of a worker that wait for the disk; beyond, 503."""
BYTES_MAX: Final = 64 << 20
"""The same for the bytes of their bodies."""
AGAIN: Final = "send it again with its X-Request-Id: what was accepted before is not scored twice"
_encode: Final = msgspec.json.Encoder().encode


class AcceptedBatch(Batch):
    """One call that is answered as accepted. Its content type is empty, so that its transport looks at its status."""

    status = 202


class Acceptance:
    """What the endpoints of one worker share. slot: the worker's. wake: is called when something waits to be scored.

    count: is called with the pipeline for each request that is accepted. bytes: of bodies that wait for the disk.
    """

    def __init__(
        self, thread: JournalThread, slot: int, wake: Callable[[], None], count: Callable[[str], None]
    ) -> None:
        self.thread = thread
        self.slot = slot
        self.wake = wake
        self.count = count
        self.bytes = 0


class AcceptingEndpoint(CallEndpoint):
    """Takes the requests of one pipeline that are answered elsewhere.

    endpoint: of the same pipeline's usual calls. offer: its codecs. content_type, coding: of the bodies that it takes.
    """

    def __init__(
        self, endpoint: Endpoint, offer: Offer, acceptance: Acceptance, content_type: bytes = JSON,
        codec: Codec | None = None, coding: bytes = b"",
    ) -> None:  # fmt: skip
        self.name = endpoint.name
        self.scope = endpoint.scope
        self.budget_ns = ACCEPT_NS
        self.accept = self._accept
        self._endpoint = endpoint
        self._offer = offer
        self._acceptance = acceptance
        self._content_type = content_type
        self._coding = coding
        self._decode = (codec or offer.usual).decode
        self._refusals = endpoint.engine.refusals
        self._count_rows = endpoint.engine.plan.request.rows.count
        self._others: dict[Codec, AcceptingEndpoint] = {}

    def speaking(self, content_type: bytes, accept: bytes, coding: bytes) -> CallEndpoint:
        """Return what takes the requests of a caller of these types; results are JSON, whatever it accepts."""
        codec = self._offer.find(content_type, b"", coding)
        if codec is None:
            return self
        if codec not in self._others:
            plain = self._offer.find(content_type, b"")
            self._others[codec] = AcceptingEndpoint(
                self._endpoint, self._offer, self._acceptance, JSON if plain is None else plain.content_type, codec,
                b"" if plain is codec else coding.strip().lower(),
            )  # fmt: skip
        return self._others[codec]

    def count_failure(self, error: ServingError) -> None:
        """Count a call that a limit refuses; see `CallEndpoint`."""
        self._refusals.count_failure(error)

    def _accept(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call, or return why it is refused."""
        request_id = cast(Any, call).request_id
        refusal = self._fault(call, body, request_id)
        if refusal is not None:
            self._refusals.count_failure(refusal)
            return refusal
        shared, clock = self._acceptance, self._endpoint.engine.clock
        call.arrival_ns = clock.now_ns()
        call.deadline_ns = call.arrival_ns + budget_ns
        entry = Waiting(
            new_id(), self.name, request_id.decode("utf-8", "replace"), self._content_type, self._coding, body,
            call.callers,
        )  # fmt: skip
        known = known_of(self.name, cast(Any, call).head, request_id, body)
        pending = _Pending(call, entry, shared, self._refusals.count_failure)
        accepting = shared.thread.do(partial(shared.thread.journal.accept, shared.slot, entry, known))
        pending.timer = asyncio.get_running_loop().call_later(budget_ns / NS_PER_S, pending.expire)
        accepting.add_done_callback(pending.finish)
        return None

    def _fault(self, call: Call, body: bytes, request_id: bytes) -> ServingError | None:
        """Return why a request cannot be accepted, None where it can."""
        if self._acceptance.thread.asked >= ASKED_MAX or self._acceptance.bytes > BYTES_MAX:
            return UnavailableError("too many requests wait for the disk", next="send it again later")
        if len(request_id) >= REQUEST_ID_BYTES_MAX:
            what = f"X-Request-Id has {REQUEST_ID_BYTES_MAX} bytes or more, and tells what was accepted before"
            return ClientError(what, where="X-Request-Id", next="send a shorter one")
        requests = call.requests = self._decode(body)  # by which a limit counts an array
        if isinstance(requests, ServingError):
            return requests
        rows = self._count_rows(requests)
        return rows if isinstance(rows, ServingError) else None


class _Pending:
    """A call that waits for the disk. timer: calls `expire`, where that takes too long."""

    def __init__(
        self, call: Call, entry: Waiting, acceptance: Acceptance, count_failure: Callable[[ServingError], None]
    ) -> None:
        self.timer: asyncio.TimerHandle | None = None
        self._call = call
        self._entry = entry
        self._acceptance = acceptance
        self._count_failure = count_failure
        self._is_answered = False
        acceptance.bytes += len(entry.body)

    def finish(self, accepting: asyncio.Future[str | Refused]) -> None:
        """Answer the call, whose request is on disk, or will not be; it may have been answered that nobody knows."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None  # which has this
        acceptance, entry = self._acceptance, self._entry
        acceptance.bytes -= len(entry.body)
        fault = accepting.exception()
        outcome = None if fault is not None else accepting.result()
        if outcome == entry.id:
            acceptance.count(entry.pipeline)
            acceptance.wake()
        if self._is_answered:
            return
        if isinstance(outcome, str):
            self._confirm(outcome)
        else:
            self._refuse(_refusal(outcome, fault))

    def expire(self) -> None:
        """Answer the call, for which the disk takes too long."""
        self._is_answered, self.timer = True, None
        self._refuse(DeadlineExceededError("the request is not known to be on disk in time", next=AGAIN))

    def _confirm(self, entry_id: str) -> None:
        """Tell the caller the id of its request."""
        call = self._call
        batch = AcceptedBatch([call], call.arrival_ns, call.deadline_ns, content_type=b"")
        batch.bodies = [_encode({"id": entry_id})]
        batch.marks_ns = [batch.started_ns, *[time.monotonic_ns()] * len(LAYERS)]
        call.transport.deliver(batch, (0,))

    def _refuse(self, refusal: ServingError) -> None:
        self._count_failure(refusal)
        self._call.transport.refuse(self._call, refusal)


def known_of(pipeline: str, head: Head | None, request_id: bytes, body: bytes) -> Known:
    """Return what tells whether a request came before: by its caller, if that has a key, and its X-Request-Id."""
    if not request_id:
        return Known(b"", b"")
    caller = "" if head is None or head.caller is None else head.caller.key.id
    who = hashlib.sha256(msgspec.msgpack.encode((pipeline, caller, request_id))).digest()
    return Known(who, hashlib.sha256(body).digest()[:16])


def _refusal(outcome: Refused | None, fault: BaseException | None) -> ServingError:
    """Return what a caller gets whose request is not accepted."""
    if outcome is Refused.OTHER_BODY:
        what = "this X-Request-Id came before, with another body"
        return InvalidRequestError(what, where="X-Request-Id", next="give each request an id of its own")
    if outcome is Refused.FULL:
        return UnavailableError("too many accepted requests wait for their results", next="send it again later")
    return InsufficientStorageError(f"the request cannot be kept: {getattr(fault, 'what', fault)}", next=AGAIN)
