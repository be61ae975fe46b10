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

Calls = dict[Call, tuple[Meter, ...]]
"""The calls in flight, each with the meters that have counted it."""


class InFlight:
    """The calls of one worker that are counted."""

    def __init__(self) -> None:
        self._calls: Calls = {}
        self._releasing: dict[Transport, Releasing] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, call: Call, meters: tuple[Meter, ...]) -> None:
        """Keep a call that meters have counted, until its transport is given its answer or its refusal."""
        transport = call.transport
        releasing = self._releasing.get(transport)
        if releasing is None:
            releasing = self._releasing[transport] = Releasing(transport, self._calls)
        call.transport = releasing
        self._calls[call] = meters

    def end(self, call: Call) -> None:
        """Count a call no more; one that is not counted is passed over."""
        for meter in self._calls.pop(call, ()):
            meter.in_flight -= 1

    def look(self, now_ns: int) -> None:
        """Once a second: count no more what a fault of ours has left without an answer."""
        for call in [call for call in self._calls if call.deadline_ns + LOST_NS < now_ns]:
            self.end(call)


class Releasing:
    """A transport that counts its calls no more, and hands them on."""

    def __init__(self, transport: Transport, calls: Calls) -> None:
        self._transport = transport
        self._calls = calls

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Send the answers of some calls of a batch; see `Transport`."""
        calls, counted = batch.calls, self._calls.pop
        for place in places:
            for meter in counted(calls[place], ()):
                meter.in_flight -= 1
        self._transport.deliver(batch, places)

    def refuse(self, call: Call, error: ServingError) -> None:
        """Send an error in place of an answer."""
        for meter in self._calls.pop(call, ()):
            meter.in_flight -= 1
        self._transport.refuse(call, error)
