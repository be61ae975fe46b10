"""A token bucket, in two parts: the tokens that this worker has been lent, and the account that lends them.

    request ─▶ Bucket: one token less  ── none left ─▶ Lender: as many as may be, of all that share the limit

A request touches the bucket alone. Who lends is decided at start-up: an account of this worker, one that the workers of
a server share (host_table.py), or one that servers share through Redis (redis_lender.py).
"""

from __future__ import annotations

from typing import Protocol

from tailrace.deadline import Clock
from tailrace.request.limit import Limit


class Lender(Protocol):
    """Lends the tokens of one limit. It never waits, and nothing of it raises."""

    def lend(self) -> int:
        """Return how many tokens may be taken from now on; 0 for none."""
        ...

    def owe(self, tokens: int) -> None:
        """Take note of tokens that were taken and not lent."""
        ...

    def take_back(self, tokens: int) -> None:
        """Take back tokens that were lent and not taken."""
        ...

    def left(self) -> tuple[int, int]:
        """Return how many tokens there are, and in how many ns there will be one more."""
        ...


class Bucket:
    """The tokens of one limit that this worker may take. tokens: lent, and not taken."""

    __slots__ = ("_is_used", "lender", "tokens")

    def __init__(self, lender: Lender) -> None:
        self.lender = lender
        self.tokens = 0
        self._is_used = False

    def refill(self) -> bool:
        """Ask for tokens, of which there are none; return whether there are some now."""
        self._is_used = True
        self.tokens = lent = self.lender.lend()
        return lent > 0

    def charge(self, tokens: int) -> None:
        """Take tokens whether there are some or not: what is not there is owed."""
        self.tokens -= tokens
        if self.tokens < 0:
            self.lender.owe(-self.tokens)
            self.tokens = 0

    def look(self) -> None:
        """Once a second: give back what nobody takes. Who comes after a pause finds a full bucket, and no more."""
        if self.tokens and not self._is_used:
            self.lender.take_back(self.tokens)
            self.tokens = 0
        self._is_used = False


class Account:
    """The arithmetic of a token bucket, of a worker that shares it with nobody: one number, when it is full again.

    A stalled machine, or a clock that jumps ahead, finds it full and no more than that (GCRA, ITU-T I.371).
    """

    __slots__ = ("_burst_ns", "_full_ns", "_interval_ns", "_now_ns")

    def __init__(self, limit: Limit, clock: Clock) -> None:
        self._now_ns = clock.now_ns
        self._interval_ns = limit.interval_ns
        self._burst_ns = limit.tokens_max * limit.interval_ns
        self._full_ns = 0

    def lend(self) -> int:
        """Return 1, or 0 for none."""
        now_ns, full_ns = self._now_ns(), self._full_ns
        full_ns = (full_ns if full_ns > now_ns else now_ns) + self._interval_ns
        if full_ns - now_ns > self._burst_ns:
            return 0
        self._full_ns = full_ns
        return 1

    def owe(self, tokens: int) -> None:
        """Take note of tokens that were taken and not lent."""
        self._full_ns = max(self._full_ns, self._now_ns()) + tokens * self._interval_ns

    def take_back(self, tokens: int) -> None:
        """Take back tokens that were lent and not taken."""
        self._full_ns -= tokens * self._interval_ns

    def left(self) -> tuple[int, int]:
        """Return how many tokens there are, and in how many ns there will be one more."""
        return left_of(self._full_ns - self._now_ns(), self._interval_ns, self._burst_ns)


def left_of(owed_ns: int, interval_ns: int, burst_ns: int) -> tuple[int, int]:
    """Return how many tokens a bucket has that is full again in so many ns, and in how many it has one more."""
    room_ns = burst_ns - max(owed_ns, 0)
    if room_ns < 0:
        return 0, interval_ns - room_ns
    return room_ns // interval_ns, interval_ns - room_ns % interval_ns
