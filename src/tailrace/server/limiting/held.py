"""Refusals that are answered a little later: who is beyond its limit and asks again at once is not to take the core.

A client that waits for each answer asks as often as it is answered. So refusals stand in line, and a few at a time are
answered, at a rate that takes a small part of the core however many connections ask. A caller that is refused now and
then is told at once, nearly; those within their limits are read meanwhile.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import structlog

from tailrace.batch import Call
from tailrace.deadline import NS_PER_MS, NS_PER_S, Clock
from tailrace.errors import ServingError
from tailrace.loop_load import Loop
from tailrace.refusals import REFUSAL_NS

REFUSING_SHARE: Final = 20
"""The part of the core that refusing may take is one in so many."""
PART: Final = 8
"""Refusals that are answered at once: what others wait for meanwhile, and what comes back together."""
PERIOD_NS: Final = PART * REFUSAL_NS * REFUSING_SHARE
"""From one part to the next: 1.6 ms."""
HELD_NS_MAX: Final = 250 * NS_PER_MS
"""What would stand in line for longer, 1,250 calls back, is refused at once. It is no part of the budget: there is
nobody else to ask, and nothing to be had before the second that the answer names."""
HELD_MAX: Final = PART * HELD_NS_MAX // PERIOD_NS


class Held:
    """The refusals of one worker that wait for their answer."""

    def __init__(self, loop: Loop, clock: Clock) -> None:
        self._loop = loop
        self._now_ns = clock.now_ns
        self._waiting: deque[tuple[Call, ServingError]] = deque()
        self._log = structlog.get_logger()

    def hold(self, call: Call, error: ServingError, budget_ns: int) -> bool:
        """Answer a call a little later; return whether that is so, and it is not to be answered at once."""
        if len(self._waiting) >= HELD_MAX:
            return False
        call.arrival_ns = now_ns = self._now_ns()
        call.deadline_ns = now_ns + budget_ns
        self._waiting.append((call, error))
        if len(self._waiting) == 1:
            self._loop.call_later(PERIOD_NS / NS_PER_S, self._answer)
        return True

    def _answer(self) -> None:
        """Answer those that have waited longest; a fault in one takes no other along."""
        waiting = self._waiting
        for _ in range(min(PART, len(waiting))):
            call, error = waiting.popleft()
            try:
                call.transport.refuse(call, error)
            except Exception as fault:
                self._log.error("a refusal was not sent", error=repr(fault), exc_info=fault)
        if waiting:
            self._loop.call_later(PERIOD_NS / NS_PER_S, self._answer)
