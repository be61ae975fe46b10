"""Answers given to calls that were not computed for: each with its caller's codec, fields of its own, and counted."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Call, Degraded, Encoder
from tailrace.delivery import deliver_places
from tailrace.errors import ServerError, ServingError
from tailrace.request.request_key import RequestKey, tuple_getter

OWN: Final = np.uint8(Degraded.EVENT_LOST)
"""What is said of one request alone, and not of those that share its answer."""

_codec_of, _deadline_of, _requests_of, _rows_of = map(attrgetter, ("codec", "deadline_ns", "requests", "rows"))

Log = Callable[[str, int, Exception], None]
"""What happened, to how many calls, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoalescePlan:
    """How the requests of a pipeline are shared, resolved. usual: encodes for callers without a codec of their own.

    own: fields of the response that are each caller's own, and the fields of its request that fill them. ttl_ns: 0 for
    answers that are not kept. across_callers: whether all callers share.
    """

    key: RequestKey
    own: tuple[tuple[str, str], ...]
    ttl_ns: int
    answers_max: int
    bytes_max: int
    across_callers: bool
    usual: Encoder


class Recording(Protocol):
    """Takes requests that are events themselves; see `EventSink`. Raises nothing."""

    async def record(self, requests: Any, deadline_ns: int) -> NDArray[np.bool_] | None:
        """Have them counted; return which were not, None where all were."""
        ...


class Turning(Protocol):
    """What is needed of a loop."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Run a callback in the loop's next turn."""
        ...

    def create_task(self, coroutine: Coroutine[Any, Any, None], /) -> Any:
        """Run a coroutine; return its task."""
        ...


@runtime_checkable
class CoalescedRecorder(Protocol):
    """Counts, or keeps, what is answered by another call's computation. It is called on the loop and never waits."""

    def record_coalesced(self, batch: Batch, finished_ns: int) -> None:
        """Take in calls that have been answered so: their requests, responses and errors; there are no columns."""
        ...


class Share(NamedTuple):
    """What a call gets of another's answer. degraded: `Degraded` bits for each of its rows, None for none."""

    call: Call
    value: Any
    error: ServingError | None = None
    degraded: NDArray[np.uint8] | None = None


class SharedAnswers:
    """Answers calls by what others were answered.

    events: takes their requests as events, None where requests are none.
    """

    def __init__(
        self,
        plan: CoalescePlan,
        events: Recording | None,
        recorders: Sequence[object],
        loop: Turning,
        now_ns: Callable[[], int],
        log: Log,
    ) -> None:
        self._own_names = [name for name, _ in plan.own]
        self._read_own = tuple_getter([field for _, field in plan.own])
        self._usual = plan.usual
        self._events = events
        self._recorders = tuple(each for each in recorders if isinstance(each, CoalescedRecorder))
        self._loop = loop
        self._now_ns = now_ns
        self._log = log
        self._found: list[Share] = []
        self._tasks: set[Any] = set()

    def give_later(self, call: Call, value: Any) -> None:
        """Answer a call by what was kept, in the next turn: its transport does not know yet that it was taken."""
        self._found.append(Share(call, value))
        if len(self._found) == 1:
            self._loop.call_soon(self._give_found)

    def give(self, shares: Sequence[Share], source: Batch) -> None:
        """Answer calls by what the calls of a batch are."""
        batch = self._batch_of(shares)
        batch.started_ns, batch.marks_ns, batch.coalesced = source.started_ns, source.marks_ns, "in_flight"
        if self._events is None:
            self._send(batch)
            return
        task = self._loop.create_task(self._send_recorded(batch, self._events))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _give_found(self) -> None:
        """Answer the calls for which something was kept, together."""
        found, self._found = self._found, []
        try:
            self._send(self._batch_of(found))
        except Exception as error:
            self._log("answers were not delivered", len(found), error)

    def _batch_of(self, shares: Sequence[Share]) -> Batch:
        """Return a batch of calls with their answers, as transports take it."""
        calls, values, errors, degraded = map(list, zip(*shares, strict=True))
        batch = Batch(calls, self._now_ns(), min(map(_deadline_of, calls)), coalesced="kept")
        asked = list(map(_requests_of, calls))
        batch.requests = asked if list not in map(type, asked) else list(chain.from_iterable(map(_listed, asked)))
        batch.responses = list(map(self._with_own, asked, values)) if self._own_names else values
        if any(errors):
            batch.errors = {place: error for place, error in enumerate(errors) if error is not None}
        self._note_rows(batch, degraded)
        self._encode(batch)
        return batch

    def _with_own(self, requests: Any, value: Any) -> Any:
        """Return what a call is answered, with the fields that are its caller's own as it has sent them."""
        if value is None:  # an error
            return None
        if type(requests) is list:
            return [self._with_own(*each) for each in zip(requests, value, strict=True)]
        own = zip(self._own_names, self._read_own(requests), strict=True)
        return msgspec.structs.replace(value, **dict(own))

    @staticmethod
    def _note_rows(batch: Batch, degraded: Sequence[NDArray[np.uint8] | None]) -> None:
        """Say how many rows each call has, and which of them are degraded."""
        rows = list(map(_rows_of, batch.calls))
        if any(bits is not None for bits in degraded):
            rows = [count if bits is None else len(bits) for count, bits in zip(rows, degraded, strict=True)]
            pairs = zip(rows, degraded, strict=True)
            batch.degraded = np.concatenate(
                [np.zeros(count, np.uint8) if bits is None else bits for count, bits in pairs]
            )
        batch.row_bounds = np.array([0, *accumulate(rows)], np.intp)

    def _encode(self, batch: Batch) -> None:
        """Fill `bodies`, each as its caller reads it; what several read alike is written once."""
        responses = batch.responses
        if any(map(_codec_of, batch.calls)):
            self._encode_by_codec(batch)
            return
        ids = list(map(id, responses))
        values = dict(zip(ids, responses, strict=True))
        written = dict(zip(values, self._usual.encode_each(list(values.values())), strict=True))
        batch.bodies = [written[each] for each in ids]
        for place in batch.errors:
            batch.bodies[place] = b""

    def _encode_by_codec(self, batch: Batch) -> None:
        """Fill `bodies` of calls that have codecs of their own; one that cannot write the answer fails alone."""
        encoders = [call.codec or self._usual for call in batch.calls]
        batch.bodies = [b""] * len(encoders)
        for place, (encoder, value) in enumerate(zip(encoders, batch.responses, strict=True)):
            if place not in batch.errors:
                try:
                    batch.bodies[place] = encoder.encode(value)
                except Exception as error:
                    what = f"{type(error).__name__} while answering this request"
                    batch.errors[place] = ServerError(what, next="see the server's log")
                    self._log("calls failed", 1, error)
        types = {encoder.content_type for encoder in encoders}
        batch.content_type = types.pop() if len(types) == 1 else b""

    async def _send_recorded(self, batch: Batch, events: Recording) -> None:
        """Send answers once the requests are counted as events: each is one, whoever computed its answer."""
        own = [_listed(call.requests) for call in batch.calls]
        try:
            lost = await events.record(batch.requests, batch.deadline_ns)
            if lost is not None:
                flags = iter(lost.tolist())
                of_calls = [any(islice(flags, len(requests))) for requests in own]
                batch.add_degraded(np.repeat(np.array(of_calls), np.diff(np.asarray(batch.row_bounds))) * OWN)
            self._send(batch)
        except Exception as error:
            self._log("answers were not delivered", len(batch.calls), error)

    def _send(self, batch: Batch) -> None:
        """Deliver a batch, and have it counted."""
        deliver_places(batch, range(len(batch.calls)))
        finished_ns = self._now_ns()
        for recorder in self._recorders:
            try:
                recorder.record_coalesced(batch, finished_ns)
            except Exception as error:
                self._log("a batch was not recorded", len(batch.calls), error)


def _listed(requests: Any) -> list[Any]:
    """Return what a call asks for as a list."""
    return requests if type(requests) is list else [requests]
