"""The calls in flight of limits that count them: released whatever becomes of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tailrace.batch import Batch, Call, Transport
from tailrace.deadline import NS_PER_S
from tailrace.errors import ServingError
from tailrace.server.limiting.meter import Meter

LOST_NS: Final = 2 * NS_PER_S
"""A call that has no answer so long after its deadline will have none: something failed that should not."""


class InFlight:
    """The calls of one worker that are counted, each with its meters."""

    def __init__(self) -> None:
        self._meters: dict[Call, tuple[Meter, ...]] = {}
        self._transports: dict[Transport, Releasing] = {}

    def __len__(self) -> int:
        return len(self._meters)

    def begin(self, call: Call, meters: tuple[Meter, ...]) -> None:
        """Count a call, until its transport is given its answer or its refusal."""
        for meter in meters:
            meter.in_flight += 1
        before = self._meters.get(call)
        if before is not None:  # it is within several limits, each of which counts it
            self._meters[call] = before + meters
            return
        self._meters[call] = meters
        transport = call.transport
        releasing = self._transports.get(transport)
        if releasing is None:
            releasing = self._transports[transport] = Releasing(transport, self)
        call.transport = releasing

    def end(self, call: Call) -> None:
        """Count a call no more; one that is not counted is passed over."""
        for meter in self._meters.pop(call, ()):
            meter.in_flight -= 1

    def look(self, now_ns: int) -> None:
        """Once a second: count no more what a fault of ours has left without an answer."""
        for call in [call for call in self._meters if call.deadline_ns + LOST_NS < now_ns]:
            self.end(call)


class Releasing:
    """A transport that counts its calls no more, and hands them on."""

    def __init__(self, transport: Transport, in_flight: InFlight) -> None:
        self._transport = transport
        self._end = in_flight.end

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Send the answers of some calls of a batch; see `Transport`."""
        calls, end = batch.calls, self._end
        for place in places:
            end(calls[place])
        self._transport.deliver(batch, places)

    def refuse(self, call: Call, error: ServingError) -> None:
        """Send an error in place of an answer."""
        self._end(call)
        self._transport.refuse(call, error)
