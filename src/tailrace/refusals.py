"""Calls that come into no batch: they are counted, and answered at once or, while a model is at work, a little later.

A client that asks again at once is refused as often as the loop reads, and takes the core from the model: 256 of them
left one call in fifty in time of those that the model could have answered. So their refusals are held, for longer the
more there are, and what refusing takes stays a small part of the core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

from tailrace.batch import Call
from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.errors import ServingError, ShedError
from tailrace.loop_load import Loop

SHED: Final = ShedError("the call's budget has no time for its rows and those that wait")
EXPIRED: Final = ShedError("the call waited too long for its budget")

REFUSAL_NS: Final = 10_000
"""What a refusal takes of the core, with its reading and writing (bench/overload.py: 7 µs)."""
REFUSING_SHARE: Final = 5
"""The part of the core that refusing may take is one in so many."""
HELD_NS_MIN: Final = 1 * NS_PER_MS
BUDGET_SHARE: Final = 2
"""The part of its budget for which a refusal may be held is one in so many: its caller has time to ask elsewhere."""

Log = Callable[[str, int, Exception], None]
"""What happened, to how many calls, and why."""


@runtime_checkable
class RefusalRecorder(Protocol):
    """Counts the calls that come into no batch. It is called on the loop and never waits."""

    def record_shed(self, reason: str) -> None:
        """Take in one call refused for lack of time."""
        ...

    def record_failure(self, kind: type[ServingError]) -> None:
        """Take in one call answered with an error before it came into a batch."""
        ...


class Refusals:
    """Counts the refusals of one engine, and answers those that it holds."""

    def __init__(self, recorders: Sequence[object], loop: Loop, budget_ns: int, log: Log) -> None:
        self._recorders = tuple(each for each in recorders if isinstance(each, RefusalRecorder))
        self._loop = loop
        self._held_ns_max = budget_ns // BUDGET_SHARE
        self._log = log
        self._held: list[Call] = []
        self._held_before = 0

    def count_shed(self, reason: str) -> None:
        """Count a call that is refused for lack of time."""
        for recorder in self._recorders:
            recorder.record_shed(reason)

    def count_failure(self, error: ServingError) -> None:
        """Count a call that is answered with an error before it came into a batch."""
        for recorder in self._recorders:
            recorder.record_failure(type(error))

    def hold(self, call: Call) -> None:
        """Refuse a call a little later, so that its caller cannot ask again before; it is counted already."""
        self._held.append(call)
        if len(self._held) == 1:
            held_ns = max(REFUSING_SHARE * REFUSAL_NS * self._held_before, HELD_NS_MIN)
            self._loop.call_later(min(held_ns, self._held_ns_max) / NS_PER_S, self.answer_held)

    def answer_held(self) -> None:
        """Refuse the calls that are held."""
        held, self._held = self._held, []
        self._held_before = len(held)
        for call in held:
            self._answer(call, SHED)

    def expire(self, call: Call) -> None:
        """Count and refuse a call whose time is over before its batch began."""
        self.count_shed("expired")
        self._answer(call, EXPIRED)

    def _answer(self, call: Call, error: ServingError) -> None:
        """Refuse a call; a fault in that is ours, and must not cost the calls that were taken with this one."""
        try:
            call.transport.refuse(call, error)
        except Exception as fault:
            self._log("a refusal was not sent", 1, fault)
