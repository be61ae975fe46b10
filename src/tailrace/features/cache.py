"""The hot cache: rows of a network store as they were read, packed, in a worker's memory.

What may be done with a row, by its age since its read began; the first two limits differ from row to row (jitter), so
that rows read together are not all read again together:

    0 ── served ── refresh ── served, and read anew behind it ── TTL ── served only for a store that fails ── dropped

A key without a row is kept too: an unknown entity costs the store no more than a known one. Rows leave in the order in
which they were read, once there are too many bytes. A row that is used is read anew within its TTL and so goes to the
end: what leaves first is what nobody asks for, and a hit has nothing to note.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

import msgspec


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What was read under a key.

    row: None where there is none. refresh_ns: when it is to be read anew; expires_ns: until
    when it is served without a wait. Times are monotonic.

    Made without the collector (gc=False), which else would go through all of them once in a while.
    """

    row: bytes | None
    refresh_ns: int
    expires_ns: int


row_of: Final[Callable[[Any], bytes | None]] = attrgetter("row")
refresh_of: Final[Callable[[Any], int]] = attrgetter("refresh_ns")

ENTRY_BYTES: Final = 300
"""What an entry takes beside its key's and row's bytes: its part of the table, the entry, two numbers, two heads."""

REFRESH_SHARE: Final = 0.5
REFRESH_JITTER: Final = 0.25
EXPIRES_JITTER: Final = 0.1
"""Of the TTL. Read anew from half to three quarters of it, it expires from nine tenths of it to its end."""

OUTDATED_A_PUT: Final = 2
"""Rows too old for anything that leave with each new one."""


class CacheLimits(msgspec.Struct, frozen=True):
    """What may be kept.

    bytes_max: of one pipeline's rows in one worker. ttl_ns: how old a row may be. stale_ns: how much older it may be
    where the store fails; it is then said to be stale.
    """

    bytes_max: int
    ttl_ns: int
    stale_ns: int


class HotCache:
    """Rows by their keys, within `bytes_max`. bytes: what they take. hits, misses: of the rows that were looked for.

    draw: a number from 0 to 1, for the jitter.
    """

    def __init__(self, limits: CacheLimits, draw: Callable[[], float] = random.random) -> None:
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.get: Callable[[bytes], Entry | None] = self._entries.get
        self._bytes_max = limits.bytes_max
        self._stale_ns = limits.stale_ns
        self._draw = draw
        self.bytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: bytes, row: bytes | None, read_ns: int, ttl_ns: int) -> None:
        """Keep what the store was found to hold under a key. read_ns: when that read began, monotonic."""
        entries = self._entries
        if (before := entries.pop(key, None)) is not None:
            self.bytes -= _bytes_of(key, before)
        drawn = self._draw()
        refresh_ns = read_ns + int(ttl_ns * (REFRESH_SHARE + REFRESH_JITTER * drawn))
        expires_ns = read_ns + int(ttl_ns * (1 - EXPIRES_JITTER * drawn))
        entry = Entry(row, refresh_ns, expires_ns)
        if (size := _bytes_of(key, entry)) > self._bytes_max:
            return
        entries[key] = entry
        self.bytes += size
        while self.bytes > self._bytes_max:
            self._drop_oldest()
        for _ in range(OUTDATED_A_PUT):
            oldest = next(iter(entries.values()), None)
            if oldest is None or oldest.expires_ns + self._stale_ns > read_ns:
                break
            self._drop_oldest()

    def is_usable(self, entry: Entry, now_ns: int) -> bool:
        """Return whether an entry that has expired can still answer for a store that fails: a row not too old."""
        return entry.row is not None and now_ns < entry.expires_ns + self._stale_ns

    def _drop_oldest(self) -> None:
        key, entry = self._entries.popitem(last=False)
        self.bytes -= _bytes_of(key, entry)


def _bytes_of(key: bytes, entry: Entry) -> int:
    row = entry.row
    return ENTRY_BYTES + len(key) + (0 if row is None else len(row))
