"""The circuit breaker: after some failures in a row, leave the store alone and ask it again only now and then.

Its states:

    closed --failures_max in a row--> open --every probe_ns, one batch--> half-open --success--> closed
                                        ^----------------failure--------------|

Without batches nothing is asked: the first one after a pause is the probe.
"""

from __future__ import annotations

from typing import Final

from tailrace.deadline import NS_PER_MS, Clock

FAILURES_MAX: Final = 3
PROBE_NS: Final = 100 * NS_PER_MS


class Breaker:
    """One store's breaker. Probes go with the clock, so that a probe that is never answered blocks no later one."""

    def __init__(self, clock: Clock, *, failures_max: int = FAILURES_MAX, probe_ns: int = PROBE_NS) -> None:
        self._now_ns = clock.now_ns
        self._failures_max = failures_max
        self._probe_ns = probe_ns
        self._failures = 0
        self._probe_at_ns = 0

    @property
    def is_open(self) -> bool:
        """Whether the store is being left alone."""
        return self._failures >= self._failures_max

    def allows(self) -> bool:
        """Return whether this batch may ask the store; while open, that makes it the probe."""
        if self._failures < self._failures_max:
            return True
        now_ns = self._now_ns()
        if now_ns < self._probe_at_ns:
            return False
        self._probe_at_ns = now_ns + self._probe_ns
        return True

    def succeeded(self) -> None:
        """Note an answer: the breaker closes."""
        self._failures = 0

    def failed(self) -> None:
        """Note a failure."""
        self._failures = min(self._failures + 1, self._failures_max)
        if self._failures == self._failures_max:
            self._probe_at_ns = self._now_ns() + self._probe_ns
