"""The endpoint of a stream: events come in as JSON, one or many a call, and are answered once they are counted.

Calls that come in one tick of the loop go to the ingester together.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Call
from tailrace.codecs.json import JsonCodec
from tailrace.deadline import LAYERS, NS_PER_S, Clock
from tailrace.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ServerError,
    ServingError,
    ShedError,
    UnavailableError,
)
from tailrace.features.streams import Stream
from tailrace.features.updates import Fate
from tailrace.ingest.frames import stream_route
from tailrace.ingest.link import EventLink, EventsRefusedError
from tailrace.response.problem import problem_body
from tailrace.server.endpoint import CallEndpoint

BUDGET_NS: Final = 1 * NS_PER_S
"""What a call that names no budget may take."""
CALLS_MAX: Final = 4_096
"""Calls that wait at most; beyond, a call is shed."""

REASONS: Final = {
    Fate.LATE: "older than the stream's lateness allows",
    Fate.FUTURE: "its time is ahead of the clock",
    Fate.FORGOTTEN: "its entity is forgotten",
}
_SHED: Final = ShedError("too many events wait to be counted")


class Refused(msgspec.Struct, frozen=True):
    """One event that was not counted. at: its place in the call."""

    at: int
    reason: str


class Counted(msgspec.Struct, frozen=True):
    """The answer to a call. duplicates: that were counted before."""

    counted: int
    duplicates: int
    refused: tuple[Refused, ...] = ()


_encode: Final = msgspec.json.Encoder().encode


class EventsEndpoint(CallEndpoint):
    """Takes the events of one stream.

    array_max: of one call. count_failure: is called for each call that is not answered 200.
    """

    def __init__(
        self,
        stream: Stream,
        link: EventLink,
        clock: Clock,
        array_max: int,
        count_failure: Callable[[type[ServingError]], None],
    ) -> None:
        self.name = f"stream {stream.name}"
        self.budget_ns = BUDGET_NS
        self.accept = self._accept
        self._route = stream_route(stream.name)
        self._link = link
        self._now_ns = clock.now_ns
        self._codec = JsonCodec(stream.schema, array_max=array_max)
        self._count_failure = count_failure
        self._inbox: list[Call] = []
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def calls_waiting(self) -> int:
        """Calls taken and not yet answered."""
        return self._waiting

    def _accept(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call, or return why it is refused."""
        refusal: ServingError | None = None
        if self._waiting >= CALLS_MAX:
            refusal = _SHED
        else:
            events = self._codec.decode(body)
            if isinstance(events, ServingError):
                refusal = events
        if refusal is not None:
            self._count_failure(type(refusal))
            return refusal
        call.requests = events if type(events) is list else [events]
        call.arrival_ns = self._now_ns()
        call.deadline_ns = call.arrival_ns + budget_ns
        self._waiting += 1
        self._inbox.append(call)
        if len(self._inbox) == 1:
            task = asyncio.get_running_loop().create_task(self._send())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return None

    async def _send(self) -> None:
        """Have what has gathered counted, and answer it."""
        calls, self._inbox = self._inbox, []
        try:
            batch = Batch(calls, calls[0].arrival_ns, min(call.deadline_ns for call in calls))
            await self._answer(batch)
            batch.marks_ns = [batch.started_ns, *[self._now_ns()] * len(LAYERS)]
            _deliver(batch)
        finally:
            self._waiting -= len(calls)

    async def _answer(self, batch: Batch) -> None:
        """Fill the bodies and errors of a batch."""
        events = [event for call in batch.calls for event in call.requests]
        try:
            fates = await self._link.send(self._route, events, batch.deadline_ns) if events else np.zeros(0, np.uint8)
        except (TimeoutError, ConnectionError, EventsRefusedError) as error:
            answers: list[bytes | ServingError] = [_fault(error)] * len(batch.calls)
        else:
            ends = np.cumsum([len(call.requests) for call in batch.calls])[:-1]
            answers = list(map(_counted, np.split(fates, ends)))
        batch.errors = {place: each for place, each in enumerate(answers) if isinstance(each, ServingError)}
        batch.bodies = [problem_body(each) if isinstance(each, ServingError) else each for each in answers]
        for fault in batch.errors.values():
            self._count_failure(type(fault))


def _counted(fates: NDArray[np.uint8]) -> bytes | ServingError:
    """Return the body of a call from the fates of its events; an error where every one was refused."""
    count = Counter(fates.tolist())
    refused = tuple(
        Refused(place, REASONS[Fate(int(fates[place]))]) for place in np.flatnonzero(fates > Fate.DUPLICATE).tolist()
    )
    if refused and len(refused) == len(fates):
        return InvalidRequestError(f"the event is not counted: {refused[0].reason}", where="$",
                                   next="see the stream's lateness, and the clock of the sender")  # fmt: skip
    return _encode(Counted(count[Fate.COUNTED], count[Fate.DUPLICATE], refused))


def _fault(error: Exception) -> ServingError:
    """Return what a caller gets for events that are not known to be counted; they may come again."""
    again = "send them again: an event that comes again is counted once"
    match error:
        case TimeoutError():
            return DeadlineExceededError("the events are not known to be counted in time", next=again)
        case ConnectionError():
            return UnavailableError(str(error), next=again)
    return ServerError(f"the events are not counted: {error}", next=again)


def _deliver(batch: Batch) -> None:
    """Give the answers to the transports of the calls."""
    places: dict[Any, list[int]] = {}
    for place, call in enumerate(batch.calls):
        places.setdefault(call.transport, []).append(place)
    for transport, own in places.items():
        transport.deliver(batch, own)


def stream_endpoints(
    streams: Sequence[Stream], link: EventLink, clock: Clock, array_max: int,
    count_failure: Callable[[type[ServingError]], None],
) -> dict[bytes, EventsEndpoint]:  # fmt: skip
    """Return the endpoint of each stream by its path."""
    return {
        f"/v1/streams/{stream.name}/events".encode(): EventsEndpoint(stream, link, clock, array_max, count_failure)
        for stream in streams
    }
