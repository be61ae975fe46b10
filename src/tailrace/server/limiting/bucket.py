"""Token buckets: one that a worker has for itself, and one whose tokens it is lent out of what it shares with others.

    request ─▶ Account                                            of this worker alone
    request ─▶ Bucket: one token less  ── none left ─▶ Lender     as many as may be, of all that share the limit

Which it is, is decided at start-up: the workers of a server share a table (host_table.py), servers a Redis
(redis_lender.py).
"""

from __future__ import annotations

from typing import Protocol

from tailrace.deadline import Clock
from tailrace.request.limit import Limit


class Tokens(Protocol):
    """The tokens of one limit that this worker may take. Nothing of it waits, and nothing raises."""

    def take(self) -> bool:
        """Take one; return whether there was one."""
        ...

    def charge(self, tokens: int) -> None:
        """Take some more whether there are so many or not, and owe what is not there; below 0, give some back."""
        ...

    def look(self) -> None:
        """Once a second: give back to others what nobody takes here."""
        ...

    def left(self) -> tuple[int, int]:
        """Return how many there are, and in how many ns there will be one more."""
        ...


class Lender(Protocol):
    """Lends the tokens of one limit. Nothing of it waits, and nothing raises."""

    def lend(self) -> int:
        """Return how many tokens may be taken from now on; 0 for none."""
        ...

    def owe(self, tokens: int) -> None:
        """Take note of tokens that were taken and not lent; below 0, of some that were lent and not taken."""
        ...

    def left(self) -> tuple[int, int]:
        """Return how many tokens there are, and in how many ns there will be one more."""
        ...


class Bucket:
    """Tokens that are lent. tokens: lent, and not taken."""

    __slots__ = ("_is_used", "_lender", "tokens")

    def __init__(self, lender: Lender) -> None:
        self._lender = lender
        self.tokens = 0
        self._is_used = False

    def take(self) -> bool:
        """Take one token; return whether there was one."""
        if self.tokens:
            self.tokens -= 1
            return True
        self._is_used = True
        lent = self._lender.lend()
        self.tokens = max(lent - 1, 0)
        return lent > 0

    def charge(self, tokens: int) -> None:
        """Take some more, or give some back; what is not there is owed."""
        self.tokens -= tokens
        if self.tokens < 0:
            self._lender.owe(-self.tokens)
            self.tokens = 0

    def look(self) -> None:
        """Give back what nobody takes: who comes after a pause finds a full bucket, and no more."""
        if self.tokens and not self._is_used:
            self._lender.owe(-self.tokens)
            self.tokens = 0
        self._is_used = False

    def left(self) -> tuple[int, int]:
        """Return how many tokens there are, and in how many ns there will be one more."""
        tokens, wait_ns = self._lender.left()
        return tokens + self.tokens, wait_ns


class Account:
    """The arithmetic of a token bucket, of a worker that shares it with nobody: one number, when it is full again.

    A stalled machine, or a clock that jumps ahead, finds it full and no more than that (GCRA, ITU-T I.371).
    """

    __slots__ = ("_burst_ns", "_full_ns", "_interval_ns", "_limit", "_now_ns")

    def __init__(self, limit: Limit, clock: Clock) -> None:
        self._now_ns = clock.now_ns
        self._limit = limit
        self._full_ns = 0
        self.have_part(1)

    def have_part(self, sharers: int) -> None:
        """Have what is one's own where so many share the limit: of the rate, and of the burst, one token at least."""
        self._interval_ns = self._limit.interval_ns * sharers
        self._burst_ns = max(self._limit.tokens_max // sharers, 1) * self._interval_ns

    def take(self) -> bool:
        """Take one token; return whether there was one."""
        now_ns, full_ns = self._now_ns(), self._full_ns
        full_ns = (full_ns if full_ns > now_ns else now_ns) + self._interval_ns
        if full_ns - now_ns > self._burst_ns:
            return False
        self._full_ns = full_ns
        return True

    def charge(self, tokens: int) -> None:
        """Take some more, or give some back; what is not there is owed."""
        self._full_ns = max(self._full_ns, self._now_ns()) + tokens * self._interval_ns

    def look(self) -> None:
        """Nobody shares it."""

    def left(self) -> tuple[int, int]:
        """Return how many tokens there are, and in how many ns there will be one more."""
        return left_of(self._full_ns - self._now_ns(), self._interval_ns, self._burst_ns)


def left_of(owed_ns: int, interval_ns: int, burst_ns: int) -> tuple[int, int]:
    """Return how many tokens a bucket has that is full again in so many ns, and in how many it has one more."""
    room_ns = burst_ns - max(owed_ns, 0)
    if room_ns < 0:
        return 0, interval_ns - room_ns
    return room_ns // interval_ns, interval_ns - room_ns % interval_ns
