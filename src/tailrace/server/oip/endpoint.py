"""Takes the calls of one pipeline that come as tensors, into the same batches as all others."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import cast

from tailrace.batch import Call
from tailrace.codecs.inflating import CODINGS, Inflate
from tailrace.codecs.tensor_form import TensorForm
from tailrace.errors import InvalidRequestError, InvalidTensorError, ServingError, UnsupportedCodingError
from tailrace.request.priority import QUEUE_WEIGHTS, Priority
from tailrace.server.endpoint import CallEndpoint, Endpoint
from tailrace.server.http.outgoing import HttpCall
from tailrace.server.oip.asked import Asked, OipModel, Unread
from tailrace.server.oip.rest import RestReader

Reader = Callable[[Call, bytes], Asked]
"""From a call and its body, what it asks for. Raises ServingError."""


class InferEndpoint(Endpoint):
    """Takes calls whose bodies `read` reads. What they ask for is their codec too: no two are answered alike."""

    def __init__(self, usual: Endpoint, read: Reader) -> None:
        """usual: takes the other calls of the pipeline; what these must pass, those of this one must too."""
        self._read = read
        super().__init__(usual.engine, usual._offer, usual._gates)
        self._levels: dict[Priority, InferEndpoint] = {Priority.NORMAL: self}

    def at_priority(self, priority: Priority) -> CallEndpoint:
        """Return what takes calls up to a level, of which a call's `priority` may ask for less; see `CallEndpoint`."""
        if priority not in self._levels:
            other = self._levels[priority] = copy(self)
            other._priority = priority
            other._take = other._accept
            other.accept = other._take if not other._gates else other._accept_through_gates
        return self._levels[priority]

    def _accept(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call into the next batch, or return why it is refused; see `Endpoint`.

        Its own timeout is known once it is read: where that shortens its time, it is asked again whether it can be
        answered.
        """
        engine, now_ns = self.engine, self._now_ns()
        call.arrival_ns = self._load.unread_since_ns or now_ns
        call.deadline_ns = call.arrival_ns + budget_ns
        if engine.refuses(call.deadline_ns - now_ns, now_ns, 1, min(QUEUE_WEIGHTS[self._priority], 1.0)):
            return engine.refuse(call)
        try:
            if call.codec is None:
                call.codec = asked = self._read(call, body)
            else:
                asked = cast(Unread, call.codec)
                asked.read()
        except ServingError as error:
            engine.refusals.count_failure(error)
            return error.with_traceback(None)  # which would hold the call, and that the error
        call.requests = asked.requests
        if (refusal := self._count_rows(call)) is not None:
            return _as_tensors(refusal)
        is_shorter = 0 < asked.timeout_ns < budget_ns
        if is_shorter:
            call.deadline_ns = call.arrival_ns + asked.timeout_ns
        level = min(Priority.of_rank(asked.priority), self._priority) if asked.priority else self._priority
        if is_shorter or call.rows > 1 or level < Priority.NORMAL:
            now_ns = self._now_ns()
            if engine.refuses(call.deadline_ns - now_ns, now_ns, call.rows, QUEUE_WEIGHTS[level]):
                return engine.refuse(call)
        self._submit(call)
        return None


class RestEndpoint(InferEndpoint):
    """Takes the calls of one pipeline over HTTP. body_bytes_max: of a body that came compressed, once inflated.

    inflate: of the coding of the bodies that this one takes; None where they come as they are.
    """

    def __init__(
        self, usual: Endpoint, reader: RestReader, body_bytes_max: int, inflate: Inflate | None = None
    ) -> None:
        super().__init__(usual, self._read_plain if inflate is None else self._read_compressed)
        self.model = reader.model
        self._reader = reader
        self._body_bytes_max = body_bytes_max
        self._inflate = inflate
        self._by_coding: dict[bytes, RestEndpoint] = {}

    def speaking(self, content_type: bytes, accept: bytes, coding: bytes) -> CallEndpoint:
        """Return what takes calls of a caller that compresses in this way; see `CallEndpoint`."""
        coding = coding.strip().lower()
        if coding in (b"", b"identity"):
            return self
        if coding not in CODINGS:
            what = f"the body comes in {coding.decode('latin-1')!r}"
            raise UnsupportedCodingError(what, where="Content-Encoding", next="send it as it is, or in gzip")
        if coding not in self._by_coding:
            self._by_coding[coding] = RestEndpoint(self, self._reader, self._body_bytes_max, CODINGS[coding])
        return self._by_coding[coding]

    def _read_plain(self, call: Call, body: bytes) -> Asked:
        head = cast(HttpCall, call).head
        return self._reader.read(body, -1 if head is None else head.json_bytes)

    def _read_compressed(self, call: Call, body: bytes) -> Asked:
        inflated = cast(Inflate, self._inflate)(body, self._body_bytes_max)
        if isinstance(inflated, ServingError):
            raise inflated
        return self._read_plain(call, inflated)


def rest_endpoint(usual: Endpoint, release: str, array_max: int, body_bytes_max: int) -> RestEndpoint:
    """Return what takes the calls of a pipeline that come as tensors. usual: takes all others."""
    pipeline = usual.engine.plan.pipeline
    form = TensorForm(pipeline.request, pipeline.response, array_max=array_max)
    return RestEndpoint(usual, RestReader(OipModel(pipeline.name, release, form)), body_bytes_max)


def _as_tensors(error: ServingError) -> ServingError:
    """Return what is said of requests as it is said of tensors."""
    if isinstance(error, InvalidRequestError):
        return InvalidTensorError(error.what, where=error.where.lstrip("$."), next=error.next)
    return error
