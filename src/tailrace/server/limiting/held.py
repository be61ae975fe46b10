"""Refusals that are answered a little later: who is beyond its limit and asks again at once is not to take the core.

A client that waits for each answer asks as often as it is answered. So its refusals are held, for longer the more there
are, and refusing takes a small part of the core, however many connections it comes with. Those within their limits are
read meanwhile.
"""

from __future__ import annotations

from typing import Final

import structlog

from tailrace.batch import Call
from tailrace.deadline import NS_PER_MS, NS_PER_S, Clock
from tailrace.errors import ServingError
from tailrace.loop_load import Loop
from tailrace.refusals import REFUSAL_NS

REFUSING_SHARE: Final = 20
"""The part of the core that refusing may take is one in so many."""
HELD_NS_MIN: Final = 1 * NS_PER_MS
HELD_NS_MAX: Final = 100 * NS_PER_MS
BUDGET_SHARE: Final = 2
"""A call is not held for longer than this part of its budget, one in so many; it is refused at once then."""
HELD_MAX: Final = 4_096
"""More are refused at once: they cost what they do, and hold no memory."""


class Held:
    """The refusals of one worker that wait for their answer."""

    def __init__(self, loop: Loop, clock: Clock) -> None:
        self._loop = loop
        self._now_ns = clock.now_ns
        self._waiting: list[tuple[Call, ServingError]] = []
        self._hold_ns = HELD_NS_MIN
        self._log = structlog.get_logger()

    def hold(self, call: Call, error: ServingError, budget_ns: int) -> bool:
        """Answer a call a little later; return whether that is so, and it is not to be answered at once."""
        if self._hold_ns > budget_ns // BUDGET_SHARE or len(self._waiting) >= HELD_MAX:
            return False
        call.arrival_ns = now_ns = self._now_ns()
        call.deadline_ns = now_ns + budget_ns
        self._waiting.append((call, error))
        if len(self._waiting) == 1:
            self._loop.call_later(self._hold_ns / NS_PER_S, self._answer)
        return True

    def _answer(self) -> None:
        """Answer those that wait; a fault in one takes no other along."""
        waiting, self._waiting = self._waiting, []
        self._hold_ns = min(max(len(waiting) * REFUSAL_NS * REFUSING_SHARE, HELD_NS_MIN), HELD_NS_MAX)
        for call, error in waiting:
            try:
                call.transport.refuse(call, error)
            except Exception as fault:
                self._log.error("a refusal was not sent", error=repr(fault), exc_info=fault)
