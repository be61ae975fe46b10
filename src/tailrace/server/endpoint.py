"""What serves a route: an endpoint takes calls for an engine, a page answers by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

from tailrace.batch import Call, Codec
from tailrace.codecs.offer import Offer
from tailrace.engine import Engine
from tailrace.errors import ServingError, UnsupportedCodingError
from tailrace.request.coalescing import Coalescing


class Gate(Protocol):
    """What a call must pass before its body is decoded."""

    def refusal(self, call: Call) -> ServingError | None:
        """Return why a call may not pass, None for one that may."""
        ...


class CallEndpoint:
    """What takes calls. name: for the log. budget_ns: of a call that names none. scope: that a key must have for it.

    accept: takes a call, its body and its budget; returns why it is refused, None where it is answered later.
    """

    name: str
    budget_ns: int
    scope: str = ""
    accept: Callable[[Call, bytes, int], ServingError | None]

    def speaking(self, content_type: bytes, accept: bytes, coding: bytes) -> CallEndpoint:
        """Return what takes calls of a caller whose body is of one type, and that accepts others.

        coding: how its body is compressed, empty where it is not. Raises UnsupportedCodingError for one that is not
        known.
        """
        if coding:
            raise UnsupportedCodingError("a compressed body is not taken here", where="Content-Encoding")
        return self


class Endpoint(CallEndpoint):
    """Takes the calls of one pipeline: gates, admission, decoding, and into the engine's inbox.

    offer: the codecs that its callers may have. gates: in their order; none cost nothing. accept: see `_accept`.
    codec: that of the callers whose calls this one takes, None for the usual one.
    """

    def __init__(self, engine: Engine, offer: Offer, gates: Sequence[Gate] = (), codec: Codec | None = None) -> None:
        self.engine = engine
        self.name = engine.plan.name
        self.scope = f"pipelines/{self.name}"
        self._coalescing = engine.coalescing
        self._submit = engine.submit if self._coalescing is None else self._coalescing.take
        self.budget_ns = engine.budget_ns
        self._load = engine.load
        self._admission = engine.admission
        self._now_ns = engine.clock.now_ns
        self._gates = tuple(gates)
        self._offer = offer
        self._codec = codec
        self._others: dict[Codec, Endpoint] = {}
        self._decode = (codec or offer.usual).decode
        self._admit = self._accept
        if self._coalescing is not None and type(self)._accept is Endpoint._accept:
            self._admit = self._accept_shared
        self._take = self._admit if codec is None else self._accept_by_codec
        self.accept = self._take if not gates else self._accept_through_gates
        self._count_of = engine.plan.request.rows.count
        self._one_row = (codec or offer.usual).request_type if engine.plan.request.rows.one_row else None

    def speaking(self, content_type: bytes, accept: bytes, coding: bytes) -> CallEndpoint:
        """Return what takes calls of a caller of these types; see `CallEndpoint`."""
        codec = self._offer.find(content_type, accept, coding)
        if codec is None:
            return self
        if codec not in self._others:
            self._others[codec] = Endpoint(self.engine, self._offer, self._gates, codec)
        return self._others[codec]

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
            if (refusal := self._count_rows(call)) is not None:
                return refusal
            if call.rows > 1 and self.engine.refuses(call.deadline_ns - (now_ns := self._now_ns()), now_ns, call.rows):
                return self.engine.refuse(call)
        self._submit(call)
        return None

    def _accept_shared(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call of a pipeline that coalesces, whose body a codec reads; see `_accept`.

        It is decoded first: what another call computes, or has computed, needs no admission.
        """
        coalescing = cast(Coalescing, self._coalescing)
        call.arrival_ns = self._load.unread_since_ns or self._now_ns()
        call.deadline_ns = call.arrival_ns + budget_ns
        call.requests = self._decode(body)
        if type(call.requests) is not self._one_row and (refusal := self._count_rows(call)) is not None:
            return refusal
        key = coalescing.key_of(call)
        if coalescing.join(key, call):
            return None
        now_ns = self._now_ns()
        if self.engine.refuses(call.deadline_ns - now_ns, now_ns, call.rows):
            return self.engine.refuse(call)
        coalescing.lead(key, call)
        return None

    def _accept_by_codec(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call of a codec of its own; see `_accept`."""
        call.codec = self._codec
        return self._admit(call, body, budget_ns)

    def _accept_through_gates(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call that passes every gate; see `_accept`."""
        for gate in self._gates:
            if (refusal := gate.refusal(call)) is not None:
                self.engine.refusals.count_failure(refusal)
                return refusal
        return self._take(call, body, budget_ns)

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
    """An answer that needs no engine: status, content type, body, and headers beside the usual ones."""

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[bytes, ...] = ()


class Page:
    """Answers a route by itself: a probe, a page of the admin port. A `ServingError` that it raises is its answer.

    is_open: whether no key is asked for it, where calls need one.
    """

    def __init__(self, answer: Callable[[], Answer], gates: Sequence[Gate] = (), *, is_open: bool = True) -> None:
        self.answer = answer
        self.is_open = is_open
        self._gates = tuple(gates)

    def refusal(self, call: Call) -> ServingError | None:
        """Return why a call may not pass its gates, None for one that may."""
        for gate in self._gates:
            if (refusal := gate.refusal(call)) is not None:
                return refusal
        return None
