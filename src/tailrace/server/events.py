"""The endpoint of a stream: events come in as JSON, one or many a call, and are answered once they are counted.

Each call goes to the ingester by itself, which counts in together what has come: one call's deadline, and an event that
cannot be counted, are no other call's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

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
    calls_waiting: taken, and not answered yet.
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
        self.scope = f"streams/{stream.name}"
        self.budget_ns = BUDGET_NS
        self.accept = self._accept
        self._route = stream_route(stream.name)
        self._link = link
        self._now_ns = clock.now_ns
        self._codec = JsonCodec(stream.schema, array_max=array_max)
        self._count_failure = count_failure
        self.calls_waiting = self._most = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def count_failure(self, error: ServingError) -> None:
        """Count a call that is answered with an error; see `CallEndpoint`."""
        self._count_failure(type(error))

    def take_calls_most(self) -> int:
        """Return how many calls waited at most since this was last asked."""
        most, self._most = self._most, self.calls_waiting
        return most

    def _accept(self, call: Call, body: bytes, budget_ns: int) -> ServingError | None:
        """Take a call, or return why it is refused."""
        refusal: ServingError | None = None
        if self.calls_waiting >= CALLS_MAX:
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
        self.calls_waiting += 1
        self._most = max(self._most, self.calls_waiting)
        task = asyncio.get_running_loop().create_task(self._answer(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    async def _answer(self, call: Call) -> None:
        """Have the events of a call counted, and answer it."""
        batch = Batch([call], call.arrival_ns, call.deadline_ns)
        try:
            answer = await self._count(call)
            if isinstance(answer, ServingError):
                batch.errors = {0: answer}
                self._count_failure(type(answer))
                answer = b""
            batch.bodies = [answer]
            batch.marks_ns = [batch.started_ns, *[self._now_ns()] * len(LAYERS)]
            call.transport.deliver(batch, (0,))
        finally:
            self.calls_waiting -= 1

    async def _count(self, call: Call) -> bytes | ServingError:
        """Return what a call is answered."""
        if not call.requests:
            return _counted(np.zeros(0, np.uint8))
        try:
            return _counted(await self._link.send(self._route, call.requests, call.deadline_ns))
        except (TimeoutError, ConnectionError, EventsRefusedError) as error:
            return _fault(error)


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


def stream_endpoints(
    streams: Sequence[Stream], link: EventLink, clock: Clock, array_max: int,
    count_failure: Callable[[type[ServingError]], None],
) -> dict[bytes, EventsEndpoint]:  # fmt: skip
    """Return the endpoint of each stream by its path."""
    return {
        f"/v1/streams/{stream.name}/events".encode(): EventsEndpoint(stream, link, clock, array_max, count_failure)
        for stream in streams
    }
