"""What serves a route: an endpoint takes calls for an engine, a page answers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, cast

from tailrace.batch import Call, Codec
from tailrace.codecs.offer import Offer
from tailrace.engine import Engine
from tailrace.errors import ServingError, UnavailableError, UnsupportedCodingError
from tailrace.request.coalescing import Coalescing
from tailrace.request.priority import QUEUE_WEIGHTS, Priority

RateLimits = list[tuple[str, str]]
"""Limits of a caller: what each is, and what is left of it, as RateLimit-Policy and RateLimit say it."""


Accept = Callable[[Call, bytes, int], ServingError | None]
"""Takes a call, its body and its budget; returns why it is refused, None where it is answered later."""


class Gate(Protocol):
    """What a call must pass before its body is decoded."""

    def refusal(self, call: Call) -> ServingError | None:
        """Return why a call may not pass, None for one that may."""
        ...


class CallEndpoint:
    """What takes calls. name: for the log. budget_ns: of a call that names none. scope: that a key must have for it.

    accepting: takes those that are answered elsewhere, later; None where there is no such place. accept: see `Accept`.
    """

    name: str
    budget_ns: int
    scope: str = ""
    accepting: CallEndpoint | None = None
    accept: Accept

    def speaking(self, content_type: bytes, accept: bytes, coding: bytes) -> CallEndpoint:
        """Return what takes calls of a caller whose body is of one type, and that accepts others.

        coding: how its body is compressed, empty where it is not. Raises UnsupportedCodingError for one that is not
        known.
        """
        if coding:
            raise UnsupportedCodingError("a compressed body is not taken here", where="Content-Encoding")
        return self

    def at_priority(self, priority: Priority) -> CallEndpoint:
        """Return what takes calls of a level; an endpoint that sheds none by it returns itself.

        Every protocol that has levels comes through here. One whose callers say theirs in the body keeps the level that
        it is asked for as the most that they may have, and takes a call by that of its pipeline's endpoint.
        """
        return self

    def count_failure(self, error: ServingError) -> None:
        """Count a call that is answered with an error before it came to the endpoint itself."""

    def rate_limits(self) -> RateLimits:
        """Return what its callers may have, for who asks."""
        return []


class Endpoint(CallEndpoint):
    """Takes the calls of one pipeline: gates, admission, decoding, and into the engine's inbox.

    offer: the codecs that its callers may have. gates: in their order; none cost nothing. accept: see `_accept`; how
    a call is admitted is chosen once, by `_way`. codec: that of the callers whose calls this one takes, None for the
    usual one. priority: of their calls.
    """

    def __init__(
        self, engine: Engine, offer: Offer, gates: Sequence[Gate] = (), codec: Codec | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.name = engine.plan.name
        self.scope = f"pipelines/{self.name}"
        self._coalescing = engine.coalescing
        self._submit = engine.submit if self._coalescing is None else self._coalescing.take
        self.budget_ns = engine.budget_ns
        self._load = engine.load
        self._admission = engine.admission
        self._now_ns = engine.clock.now_ns
        self.gates = tuple(gates)
        self.offer = offer
        self._codec = codec
        self._priority = priority
        self._queue_weight = QUEUE_WEIGHTS[priority]
        self._others: dict[tuple[Codec | None, Priority], Endpoint] = {(codec, priority): self}
        self._decode = (codec or offer.usual).decode
        self._admit = self._way()
        self._take = self._admit if codec is None else self._accept_by_codec
        self.accept = self._take if not gates else self._accept_through_gates
        self._count_of = engine.plan.request.rows.count
        self._one_row = (codec or offer.usual).request_type if engine.plan.request.rows.one_row else None

    def speaking(self, content_type: bytes, accept: bytes, coding: bytes) -> CallEndpoint:
        """Return what takes calls of a caller of these types; see `CallEndpoint`."""
        return self._other(self.offer.find(content_type, accept, coding) or self._codec, self._priority)

    def at_priority(self, priority: Priority) -> CallEndpoint:
        """Return what takes calls of a level; see `CallEndpoint`."""
        return self._other(self._codec, priority)

    def count_failure(self, error: ServingError) -> None:
        """Count a call that is answered with an error; see `CallEndpoint`."""
        self.engine.refusals.count_failure(error)

    def _other(self, codec: Codec | None, priority: Priority) -> Endpoint:
        """Return what takes calls of a codec and a level; all of them share what was made."""
        found = self._others.get((codec, priority))
        if found is None:
            found = Endpoint(self.engine, self.offer, self.gates, codec, priority)
            self._others[codec, priority] = found
            found._others = self._others
        return found

    def _way(self) -> Accept:
        """Return what admits and reads a call here."""
        if self._coalescing is not None:
            return self._accept_shared
        return self._accept if self._priority is Priority.NORMAL else self._accept_by_priority

    def _accept(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call into the batch that the next tick runs, or return why it is refused.

        budget_ns: the caller's own, or the pipeline's. A call that cannot be in time is refused before its body is
        decoded; one of many rows once more when they are counted.
        """
        admission, now_ns = self._admission, self._now_ns()
        call.arrival_ns = arrival_ns = self._load.unread_since_ns or now_ns
        call.deadline_ns = deadline_ns = arrival_ns + budget_ns
        if (
            admission.rows_waiting * admission.price_ns + admission.base_ns > deadline_ns - now_ns
            and self.engine.refuses(deadline_ns - now_ns, now_ns)
        ):
            return self.engine.refuse(call)
        call.requests = requests = self._decode(body)
        if type(requests) is not self._one_row:
            return self._accept_rows(call)
        self._submit(call)
        return None

    def _accept_by_priority(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call of a level of its own, by which what waits counts for more or less; see `_accept`."""
        if self._has_no_time(call, budget_ns, self._queue_weight):
            return self.engine.refuse(call)
        call.requests = self._decode(body)
        if type(call.requests) is not self._one_row:
            return self._accept_rows(call)
        self._submit(call)
        return None

    def _accept_shared(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call of a pipeline that coalesces, whose body a codec reads; see `_accept`.

        It is decoded first: what another call computes, or has computed, needs no admission.
        """
        coalescing = cast(Coalescing, self._coalescing)
        admission, now_ns = self._admission, self._now_ns()
        call.arrival_ns = arrival_ns = self._load.unread_since_ns or now_ns
        call.deadline_ns = arrival_ns + budget_ns
        call.requests = requests = self._decode(body)
        if type(requests) is not self._one_row and (refusal := self._count_rows(call)) is not None:
            return refusal
        key = coalescing.key_of(call)
        if coalescing.join(key, call, now_ns):
            return None
        left_ns, weight = call.deadline_ns - now_ns, self._queue_weight
        is_long = admission.rows_waiting * admission.price_ns * weight + admission.base_ns > left_ns
        if (is_long or call.rows > 1) and self.engine.refuses(left_ns, now_ns, call.rows, weight):
            return self.engine.refuse(call)
        coalescing.lead(key, call, now_ns)
        return None

    def _accept_by_codec(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call of a codec of its own; see `_accept`."""
        call.codec = self._codec
        return self._admit(call, body, budget_ns)

    def _accept_through_gates(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call that passes every gate; see `_accept`."""
        for gate in self.gates:
            if (refusal := gate.refusal(call)) is not None:
                self.engine.refusals.count_failure(refusal)
                return refusal
        return self._take(call, body, budget_ns)

    def _has_no_time(self, call: Call, budget_ns: int, weight: float) -> bool:
        """Note when a call came, and until when it has time; say whether that is too little, and count it if so."""
        now_ns = self._now_ns()
        call.arrival_ns = self._load.unread_since_ns or now_ns
        call.deadline_ns = call.arrival_ns + budget_ns
        return self.engine.refuses(call.deadline_ns - now_ns, now_ns, 1, weight)

    def _accept_rows(self, call: Call) -> ServingError | None:
        """Take a call of which one row was admitted, or return why all that it has are refused."""
        if (refusal := self._count_rows(call)) is not None:
            return refusal
        if call.rows > 1:
            now_ns = self._now_ns()
            if self.engine.refuses(call.deadline_ns - now_ns, now_ns, call.rows, self._queue_weight):
                return self.engine.refuse(call)
        self._submit(call)
        return None

    def _count_rows(self, call: Call) -> ServingError | None:
        """Count the rows of a call that is not one row; return what is wrong with it, None where nothing is."""
        if isinstance(call.requests, ServingError):
            rows: int | ServingError = call.requests
        else:
            rows = self._count_of(call.requests)
        if isinstance(rows, ServingError):
            self.engine.refusals.count_failure(rows)
            return rows
        call.rows = max(rows, 1)
        return None


class Answer(NamedTuple):
    """An answer that needs no engine: status, content type, body, and headers beside the usual ones.

    compresses: whether the body is long and worth compressing for who takes that.
    """

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[bytes, ...] = ()
    compresses: bool = False


class Page:
    """Answers a route by itself: a probe, a page of the admin port. A `ServingError` that it raises is its answer.

    is_open: whether no key is asked for it, where calls need one. forms: the same in other media types.
    """

    def __init__(
        self,
        answer: Callable[[], Answer],
        gates: Sequence[Gate] = (),
        *,
        is_open: bool = True,
        forms: Mapping[str, Page] = MappingProxyType({}),
    ) -> None:
        self.answer = answer
        self.is_open = is_open
        self._gates = tuple(gates)
        self._forms = dict(forms)

    def speaking(self, accept: bytes) -> Page:
        """Return the form that a client wants most, by its `Accept`; this one where it says nothing of any other."""
        if not self._forms:
            return self
        best, form = 0.0, self
        for wanted in accept.decode("latin-1").lower().split(","):
            media_type, *parameters = (part.strip() for part in wanted.split(";"))
            weight = next((_weight(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
            if weight > best and (media_type in self._forms or media_type == "text/plain"):
                best, form = weight, self._forms.get(media_type, self)
        return form

    def refusal(self, call: Call) -> ServingError | None:
        """Return why a call may not pass its gates, None for one that may."""
        for gate in self._gates:
            if (refusal := gate.refusal(call)) is not None:
                return refusal
        return None


def _weight(text: str) -> float:
    """Return a weight of `Accept`; 0 for one that cannot be read."""
    try:
        return float(text)
    except ValueError:
        return 0.0


class Feed(Page):
    """A page that goes on: the connection is handed over to what writes to it from then on.

    enter: takes the connection and writes the answer's head; returns what hears of it. Raises a `ServingError`, which
    is the answer, for one that it does not take.
    """

    def __init__(self, enter: Callable[[asyncio.Transport], asyncio.Protocol], gates: Sequence[Gate] = ()) -> None:
        super().__init__(_refuse_feed, gates)
        self.enter = enter

    def begin(self, transport: asyncio.Transport, query: bytes) -> asyncio.Protocol:
        """Take a connection. query: of the target that was asked for."""
        return self.enter(transport)


class Inquiry(Feed):
    """A page that is asked something, and answers when it can: it is handed the connection, which ends with the answer.

    take: as `enter` of a feed, with the query.
    """

    def __init__(
        self, take: Callable[[asyncio.Transport, bytes], asyncio.Protocol], gates: Sequence[Gate] = ()
    ) -> None:
        super().__init__(lambda transport: take(transport, b""), gates)
        self._take = take

    def begin(self, transport: asyncio.Transport, query: bytes) -> asyncio.Protocol:
        """Take a connection, and what is asked."""
        return self._take(transport, query)


def _refuse_feed() -> Answer:
    raise UnavailableError("too many connections", next="try again later")


Routes = Mapping[bytes, Mapping[bytes, CallEndpoint | Page]]
"""Path to method to what serves it."""
RouteTable = dict[bytes, dict[bytes, CallEndpoint | Page]]
"""The same while it is made."""
