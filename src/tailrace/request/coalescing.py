"""Identical requests share one computation: while it is in flight, and where answers are kept for a while after.

A call that nobody asks for yet leads a flight: a call of its own, which the engine answers, and for which the leader
and all that follow it wait. So a leader whose client leaves costs the others nothing.

    call ─▶ join ─▶ kept answer             ─▶ answered in the next turn
                └─▶ flight of the same key  ─▶ waits for it
    call ─▶ lead ─▶ Flight ─▶ engine ─▶ deliver, refuse ─▶ all who wait, each with its own codec and fields
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, Protocol, cast

import numpy as np

from tailrace.batch import Batch, Call, Degraded, Source, Trace
from tailrace.deadline import NS_PER_S
from tailrace.delivery import deliver_places
from tailrace.errors import OutOfTimeError, ServingError
from tailrace.request.admission import Admission
from tailrace.request.kept_answers import KeptAnswers
from tailrace.request.shared_answers import OWN, CoalescePlan, Share, SharedAnswers

LOST_NS: Final = 1 * NS_PER_S
"""A flight that has not landed so long after its deadline will not; its transports tell those who wait."""
_deadline_of = attrgetter("deadline_ns")
_LATE: Final = int(Degraded.STORE_TIMEOUT | Degraded.MODEL_TIMEOUT)
"""What a batch with more time might have been spared."""


class Refusing(Protocol):
    """Refuses calls whose time is over."""

    def expire(self, call: Call) -> None:
        """Count and refuse one."""
        ...


class Computing(Protocol):
    """What computes: an engine."""

    admission: Admission

    @property
    def refusals(self) -> Refusing:
        """What refuses."""
        ...

    def submit(self, call: Call) -> None:
        """Take a call that was admitted."""
        ...


class Flight(Call, gc=False, eq=False):
    """A call that several wait for. waiting: the leader, then those that follow it.

    is_second: whether a first one failed; if this one does too, it is the request that fails, for all.
    """

    key: bytes
    waiting: list[Call]
    is_second: bool

    @property
    def trace(self) -> Trace | None:
        """The trace of the one call that waits; of several it is nobody's."""
        return self.waiting[0].trace if len(self.waiting) == 1 else None

    def identify(self) -> str:
        """Return its leader's id."""
        return self.waiting[0].identify()

    @property
    def route(self) -> str:
        """What its leader asks for."""
        return self.waiting[0].route

    def source(self) -> Source:
        """Return where its leader comes from."""
        return self.waiting[0].source()


class Coalescing:
    """The flights of one engine, and the answers that are kept. It is the flights' transport.

    answers: gives what is shared. alike_ns: calls whose deadlines are no further apart share also what was late.
    """

    def __init__(
        self,
        plan: CoalescePlan,
        engine: Computing,
        answers: SharedAnswers,
        now_ns: Callable[[], int],
        *,
        alike_ns: int,
    ) -> None:
        self.kept = KeptAnswers(plan.ttl_ns, plan.answers_max, plan.bytes_max) if plan.ttl_ns else None
        self._across_callers = plan.across_callers
        self._key_of = plan.key.of
        self._engine = engine
        self._answers = answers
        self._now_ns = now_ns
        self._alike_ns = alike_ns
        self._flights: dict[bytes, Flight] = {}

    @property
    def calls_following(self) -> int:
        """Calls that wait for another's computation."""
        return sum(len(flight.waiting) - 1 for flight in self._flights.values())

    # -- what an endpoint calls -------------------------------------------------------------------------------------

    def key_of(self, call: Call) -> bytes | None:
        """Return what calls have in common that may share answers; None for one that shares none."""
        return self._key_of(b"" if self._across_callers else call.callers, call.requests)

    def take(self, call: Call) -> None:
        """Take a call that was admitted."""
        key, now_ns = self.key_of(call), self._now_ns()
        if not self.join(key, call, now_ns):
            self.lead(key, call, now_ns)

    def join(self, key: bytes | None, call: Call, now_ns: int) -> bool:
        """Have a call take a kept answer, or wait for the same one in flight; say whether it does.

        One that has less time than the flight does not join: the flight may take longer than it has.
        """
        if key is None:
            return False
        if self.kept is not None and (kept := self.kept.find(key, now_ns)) is not None:
            self._answers.give_later(call, kept.value)
            return True
        flight = self._flights.get(key)
        if flight is None or not now_ns <= flight.deadline_ns <= call.deadline_ns:
            return False
        flight.waiting.append(call)
        return True

    def lead(self, key: bytes | None, call: Call, now_ns: int) -> None:
        """Take a call that was admitted, for others to join; where there is a flight with more time they join that."""
        flight = None if key is None else self._flights.get(key)
        if key is None or (flight is not None and flight.deadline_ns >= now_ns):
            self._engine.submit(call)
        else:
            self._take_off(key, [call], is_second=False)

    def forget(self, now_ns: int) -> None:
        """Let go of answers that are too old, and of flights whose answer a fault of ours has lost; once a second."""
        if self.kept is not None:
            self.kept.forget(now_ns)
        for key in [key for key, flight in self._flights.items() if flight.deadline_ns + LOST_NS < now_ns]:
            del self._flights[key]

    # -- what the engine calls --------------------------------------------------------------------------------------

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Send each leader its answer, and each follower the same; or have a follower lead the others."""
        calls, landed = list(batch.calls), []
        for place in places:
            flight = cast(Flight, calls[place])
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            landed.append((place, flight))
            calls[place] = flight.waiting[0]
        batch.calls = calls
        try:
            deliver_places(batch, places)
        finally:
            if followed := [each for each in landed if len(each[1].waiting) > 1]:
                self._share(batch, followed)
            if self.kept is not None:
                self._keep(batch, landed)

    def refuse(self, call: Call, error: ServingError) -> None:
        """Refuse the leader of a flight whose time is over; one of those that have more leads the others."""
        flight = cast(Flight, call)
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        leader, *followers = flight.waiting
        leader.transport.refuse(leader, error)
        late, others = _parted(followers, flight.deadline_ns)
        for each in late:
            self._engine.refusals.expire(each)
        self._lead_again(flight, others, is_second=flight.is_second)

    # -- flights ----------------------------------------------------------------------------------------------------

    def _take_off(self, key: bytes, waiting: list[Call], *, is_second: bool) -> None:
        """Have the engine answer the first of some calls, for all of them."""
        first = waiting[0]
        flight = Flight(
            self, first.codec, first.requests, first.arrival_ns, first.deadline_ns, first.rows, key, waiting, is_second
        )
        self._flights[key] = flight
        self._engine.submit(flight)

    def _lead_again(self, flight: Flight, calls: list[Call], *, is_second: bool) -> None:
        """Have the call with the least time lead the others, so that no one waits longer than it can.

        Those that have too little time by now are refused.
        """
        calls.sort(key=_deadline_of)
        now_ns, refuses = self._now_ns(), self._engine.admission.refuses
        for place, call in enumerate(calls):
            if not refuses(call.deadline_ns - now_ns, now_ns, call.rows):
                self._take_off(flight.key, calls[place:], is_second=is_second)
                return
            self._engine.refusals.expire(call)

    def _keep(self, batch: Batch, landed: Sequence[tuple[int, Flight]]) -> None:
        """Keep the answers that are whole: no error, and nothing degraded."""
        kept = cast(KeptAnswers, self.kept)
        for place, flight in landed:
            if place not in batch.errors and not _bits_at(batch, place):
                kept.keep(flight.key, _value_at(batch, place), batch.started_ns)

    def _share(self, batch: Batch, followed: Sequence[tuple[int, Flight]]) -> None:
        """Give followers their answers, and have one of those lead again that get none.

        An error that may be the leader's own is not shared, nor what was late for a leader in a hurry.
        """
        shares: list[Share] = []
        for place, flight in followed:
            error, bits, sharing = batch.errors.get(place), _bits_at(batch, place), flight.waiting[1:]
            if isinstance(error, OutOfTimeError) or (error is None and bits & _LATE):
                sharing, others = _parted(sharing, batch.deadline_ns + self._alike_ns)
                self._lead_again(flight, others, is_second=flight.is_second)
            elif error is not None and not flight.is_second:
                self._lead_again(flight, sharing, is_second=True)
                continue
            value = _value_at(batch, place) if error is None else None
            degraded = batch.degraded[batch.rows_of_call(place)] & ~OWN if batch.degraded is not None and bits else None
            shares += [Share(call, value, error, degraded) for call in sharing]
        if shares:
            self._answers.give(shares, batch)


def _parted(calls: Sequence[Call], deadline_ns: int) -> tuple[list[Call], list[Call]]:
    """Return the calls whose deadline is no later than one, and the others."""
    early = [call for call in calls if call.deadline_ns <= deadline_ns]
    return early, [call for call in calls if call.deadline_ns > deadline_ns]


def _bits_at(batch: Batch, place: int) -> int:
    """Return why a call of a batch is degraded: the `Degraded` bits of all its rows."""
    if batch.degraded is None:
        return 0
    return int(np.bitwise_or.reduce(batch.degraded[batch.rows_of_call(place)], initial=0))


def _value_at(batch: Batch, place: int) -> Any:
    """Return what a call of a batch is answered: a response, or a list of them where it sent an array."""
    if batch.offsets is None:
        return batch.responses[place]
    begin, end = batch.offsets[place : place + 2]
    return batch.responses[begin:end] if type(batch.calls[place].requests) is list else batch.responses[begin]
