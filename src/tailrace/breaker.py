"""The circuit breaker: a server that fails or is slow too often is left alone, and asked again only now and then.

Its states:

    closed --FAILURES_MIN, and half of the window's calls--> open --open time, jittered--> half-open --answer--> closed
                                                              ^------------failure-------------|

A call fails that raises, or that takes longer than its caller has for it. The window is the last second, in tenths.
Half-open, up to `PROBES_MAX` batches ask the server; if none of them is ever answered, they count as lost, and the next
ones may ask: it is never stuck. Without batches nothing is asked: the first one after a pause is a probe.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tailrace.deadline import NS_PER_MS, Clock

SLOTS: Final = 10
SLOT_NS: Final = 100 * NS_PER_MS
"""The window is `SLOTS` of these: so long, a fault is found within it whatever went well before."""

FAILURES_MIN: Final = 3
"""Fewer in a window say nothing: at such a rate a failing server costs no more than its callers' budgets."""

PROBES_MAX: Final = 3
OPEN_NS: Final = 200 * NS_PER_MS
"""How long it is open, give or take half: the workers whose server is back do not all come at once."""


class Breaker:
    """One server's breaker. openings: how often it has opened.

    lost_ns: how long a probe may take; it counts as lost after that, or after an open time if that is longer. draw: a
    number from 0 to 1, for the jitter.
    """

    def __init__(self, clock: Clock, *, lost_ns: int = 0, draw: Callable[[], float] = random.random) -> None:
        self._now_ns = clock.now_ns
        self._lost_ns = lost_ns
        self._draw = draw
        self._slot = 0
        self._calls = [0] * SLOTS
        self._failures = [0] * SLOTS
        self._probe_at_ns = 0
        self._probes_left = 0
        self._is_probed = False
        self.is_open = False
        """Whether the server is being left alone, but for probes."""
        self.openings = 0

    @property
    def is_half_open(self) -> bool:
        """Whether probes have been let through since it opened, and none has been answered."""
        return self.is_open and self._is_probed

    def allows(self) -> bool:
        """Return whether this batch may ask the server; while open, that makes it a probe."""
        if not self.is_open:
            return True
        now_ns = self._now_ns()
        if now_ns >= self._probe_at_ns:
            self._probes_left = PROBES_MAX
            self._probe_at_ns = now_ns + max(_open_ns(self._draw()), self._lost_ns)
        if not self._probes_left:
            return False
        self._probes_left -= 1
        self._is_probed = True
        return True

    def note(self, now_ns: int, *, is_failure: bool) -> None:
        """Note a call that has ended now: whether it raised or was slow."""
        slot = now_ns // SLOT_NS
        if slot != self._slot:
            self._forget_until(slot)
        place = slot % SLOTS
        self._calls[place] += 1
        if is_failure:
            self._failures[place] += 1
            self._fail(now_ns)
        elif self.is_half_open:  # what was asked before it opened proves nothing
            self.is_open = self._is_probed = False
            self._calls, self._failures = [0] * SLOTS, [0] * SLOTS

    def _fail(self, now_ns: int) -> None:
        if not self.is_open:
            failures = sum(self._failures)
            if failures < FAILURES_MIN or 2 * failures < sum(self._calls):
                return
            self.is_open = True
            self.openings += 1
        elif not self._is_probed:
            return
        self._probes_left, self._is_probed = 0, False
        self._probe_at_ns = now_ns + _open_ns(self._draw())

    def _forget_until(self, slot: int) -> None:
        """Empty the slots that have passed unused since the last call."""
        for passed in range(max(self._slot + 1, slot - SLOTS + 1), slot + 1):
            self._calls[passed % SLOTS] = self._failures[passed % SLOTS] = 0
        self._slot = slot


def _open_ns(drawn: float) -> int:
    return int(OPEN_NS * (0.5 + drawn))
