"""The buckets that the workers of one server share: a table in memory, of which each has the lock for a microsecond.

    record = 16 bytes that name the limit | when its bucket is full again, monotonic ns | 0

A bucket that is full says nothing, so its record is free for any other: the table forgets by itself. A worker takes a
few tokens at once where the rate is high, and so asks a few hundred times a second at most. Nobody waits for the lock:
who does not get it, since its holder was stopped in that very microsecond, lends on its own account, and settles later.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from typing import Final

from tailrace.deadline import NS_PER_MS, Clock
from tailrace.request.limit import Limit
from tailrace.server.limiting.bucket import Account, left_of

RECORDS: Final = 1 << 16
"""Twice as many as buckets that may be in use at once where each of 10,000 keys has three."""
RECORD_CELLS: Final = 4
PROBES_MAX: Final = 64
LOCK_TRIES_MAX: Final = 8
LEASE_NS: Final = 5 * NS_PER_MS
"""What is taken at once is what the rate allows in so long, and a part of the burst at most."""
LEASES_A_BURST: Final = 16
FULL_NS_MAX: Final = 1 << 62


class HostTable:
    """The table, in a file that every worker has open. cells: 8 bytes each, four a record."""

    def __init__(self, fd: int) -> None:
        size_bytes = RECORDS * RECORD_CELLS * 8
        if os.fstat(fd).st_size < size_bytes:
            os.ftruncate(fd, size_bytes)
        self._fd = fd
        self.cells = memoryview(mmap.mmap(fd, size_bytes)).cast("q")

    def lock(self) -> bool:
        """Have the table to oneself, without waiting; return whether that is so. It ends with the process."""
        for _ in range(LOCK_TRIES_MAX):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            return True
        return False

    def unlock(self) -> None:
        """Let others have it."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def find(self, name: tuple[int, int], at: int, now_ns: int) -> int:
        """Return the first cell of a limit's record, taken if there was none; -1 where none is free.

        at: where it was the last time. To be called with the lock.
        """
        cells = self.cells
        if (cells[at], cells[at + 1]) == name:
            return at
        free, first = -1, (name[0] % RECORDS) * RECORD_CELLS
        for probe in range(PROBES_MAX):
            at = (first + probe * RECORD_CELLS) % len(cells)
            if (cells[at], cells[at + 1]) == name:
                return at
            if free < 0 and cells[at + 2] <= now_ns:
                free = at
        if free >= 0:
            cells[free], cells[free + 1], cells[free + 2] = *name, 0
        return free


class HostAccount:
    """Lends the tokens of one limit to one worker, out of what all workers of the server may take.

    Where the table cannot be had it lends on an account of its own, and owes that to the table.
    """

    __slots__ = (
        "_at", "_burst_ns", "_empty_until_ns", "_interval_ns", "_most", "_name", "_now_ns", "_owed", "_own", "_table",
    )  # fmt: skip

    def __init__(self, name: str, limit: Limit, table: HostTable, clock: Clock) -> None:
        digest = hashlib.sha256(name.encode()).digest()
        self._name = int.from_bytes(digest[:8], "little") >> 1, int.from_bytes(digest[8:16], "little") >> 1
        self._at = 0
        self._table = table
        self._own = Account(limit, clock)
        self._now_ns = clock.now_ns
        self._interval_ns = limit.interval_ns
        self._burst_ns = limit.tokens_max * limit.interval_ns
        self._most = max(min(LEASE_NS // limit.interval_ns, limit.tokens_max // LEASES_A_BURST), 1)
        self._owed = 0
        self._empty_until_ns = 0

    def lend(self) -> int:
        """Return how many tokens may be taken from now on; 0 for none: then the table is not asked before there are."""
        return 0 if self._now_ns() < self._empty_until_ns else self._move(self._most)

    def owe(self, tokens: int) -> None:
        """Take note of tokens that were taken and not lent; below 0, of some that were lent and not taken."""
        self._owed += tokens
        self._move(0)

    def left(self) -> tuple[int, int]:
        """Return how many tokens there are, and in how many ns there will be one more."""
        now_ns = self._now_ns()
        is_ours = self._table.cells[self._at : self._at + 2].tolist() == list(self._name)
        full_ns = self._table.cells[self._at + 2] if is_ours else 0
        return left_of(full_ns + self._owed * self._interval_ns - now_ns, self._interval_ns, self._burst_ns)

    def _move(self, most: int) -> int:
        """Settle what is owed, and lend as many tokens as there are, up to a number."""
        table, now_ns, interval_ns = self._table, self._now_ns(), self._interval_ns
        if not table.lock():
            return self._lend_alone(most)
        try:
            at = table.find(self._name, self._at, now_ns)
            if at < 0:
                return self._lend_alone(most)
            self._at, cells = at, table.cells
            full_ns = max(cells[at + 2], now_ns) + self._owed * interval_ns
            lent = min(max((now_ns + self._burst_ns - full_ns) // interval_ns, 0), most)
            cells[at + 2] = full_ns = min(full_ns + lent * interval_ns, FULL_NS_MAX)
            self._owed = 0
            if most and not lent:
                self._empty_until_ns = full_ns + interval_ns - self._burst_ns
        finally:
            table.unlock()
        return lent

    def _lend_alone(self, most: int) -> int:
        """Lend out of this worker's own account."""
        lent = int(self._own.take()) if most else 0
        self._owed += lent
        return lent
