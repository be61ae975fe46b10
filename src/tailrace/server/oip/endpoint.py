"""Takes the calls of one pipeline that come as tensors, into the same batches as all others."""

from __future__ import annotations

from typing import cast

from tailrace.batch import Call
from tailrace.codecs.inflating import Inflate, inflate_of
from tailrace.codecs.tensor_form import TensorForm
from tailrace.errors import InvalidRequestError, InvalidTensorError, ServingError
from tailrace.request.priority import QUEUE_WEIGHTS, Priority
from tailrace.server.endpoint import Accept, CallEndpoint, Endpoint
from tailrace.server.http.outgoing import HttpCall
from tailrace.server.oip.asked import Asked, OipModel, Unread
from tailrace.server.oip.rest import RestReader


class InferEndpoint(Endpoint):
    """Takes calls whose bodies are tensors. What they ask for is their codec too: no two are answered alike.

    usual: takes the other calls of the pipeline; what these must pass, those of this one must too. reader: of the
    bodies that come over HTTP; over gRPC a call has what it asks for as its codec, and it is read here. body_bytes_max:
    of a body that came compressed, once inflated. inflate: of the coding of the bodies that this one takes; None where
    they come as they are. priority: the most that its calls may have.
    """

    def __init__(
        self, usual: Endpoint, reader: RestReader, body_bytes_max: int, inflate: Inflate | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:  # fmt: skip
        super().__init__(usual.engine, usual.offer, usual.gates, priority=priority)
        self.model = reader.model
        self._reader = reader
        self._body_bytes_max = body_bytes_max
        self._inflate = inflate
        self._siblings: dict[tuple[Inflate | None, Priority], InferEndpoint] = {(inflate, priority): self}

    def speaking(self, content_type: bytes, accept: bytes, coding: bytes) -> CallEndpoint:
        """Return what takes calls of a caller that compresses in this way; see `CallEndpoint`."""
        return self._sibling(inflate_of(coding), self._priority)

    def at_priority(self, priority: Priority) -> CallEndpoint:
        """Return what takes calls up to a level, of which a call's `priority` may ask for less; see `CallEndpoint`."""
        return self._sibling(self._inflate, priority)

    def _sibling(self, inflate: Inflate | None, priority: Priority) -> InferEndpoint:
        """Return what takes calls of a coding and a level; all of them share what was made."""
        found = self._siblings.get((inflate, priority))
        if found is None:
            found = InferEndpoint(self, self._reader, self._body_bytes_max, inflate, priority)
            self._siblings[inflate, priority] = found
            found._siblings = self._siblings
        return found

    def _way(self) -> Accept:
        """Return what admits and reads a call here; see `Endpoint`."""
        return self._accept_tensors

    def _accept_tensors(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call into the next batch, or return why it is refused.

        Its own timeout is known once it is read: where that shortens its time, it is asked again whether it can be
        answered.
        """
        engine = self.engine
        if self._has_no_time(call, budget_ns, min(self._queue_weight, 1.0)):
            return engine.refuse(call)
        try:
            asked = self._read(call, body)
        except ServingError as error:
            engine.refusals.count_failure(error)
            return error.bare()  # which would hold the call, and that the error
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

    def _read(self, call: Call, body: bytes) -> Asked:
        """Return what a call asks for, which is its codec from now on. Raises ServingError."""
        if call.codec is not None:
            unread = cast(Unread, call.codec)
            unread.read()
            return unread
        if self._inflate is not None:
            inflated = self._inflate(body, self._body_bytes_max)
            if isinstance(inflated, ServingError):
                raise inflated
            body = inflated
        head = cast(HttpCall, call).head
        call.codec = asked = self._reader.read(body, -1 if head is None else head.json_bytes)
        return asked


def infer_endpoint(usual: Endpoint, release: str, array_max: int, body_bytes_max: int) -> InferEndpoint:
    """Return what takes the calls of a pipeline that come as tensors. usual: takes all others."""
    pipeline = usual.engine.plan.pipeline
    form = TensorForm(pipeline.request, pipeline.response, array_max=array_max)
    return InferEndpoint(usual, RestReader(OipModel(pipeline.name, release, form)), body_bytes_max)


def _as_tensors(error: ServingError) -> ServingError:
    """Return what is said of requests as it is said of tensors."""
    if isinstance(error, InvalidRequestError):
        return InvalidTensorError(error.what, where=error.where.lstrip("$."), next=error.next)
    return error
