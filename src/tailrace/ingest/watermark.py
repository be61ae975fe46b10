"""The watermark of a stream: how far its events have come. What is older by more than its lateness is refused.

It is measured by events alone, never by the wall clock, so that a past year can be replayed today. One event with a
wrong date must not make all others late: the watermark is not the newest time, but the third newest.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest
from typing import Final

import msgspec

CONFIRMED_BY: Final = 3
"""Events of as many times must be as new as the watermark."""
NEVER_NS: Final = -(1 << 62)


class Watermark(msgspec.Struct, eq=False):
    """How far one stream has come. newest_ns: the times of its newest events, each once, the newest first.

    Each once, since an event that comes three times has not been confirmed by others.
    """

    newest_ns: list[int] = msgspec.field(default_factory=list)

    @property
    def at_ns(self) -> int:
        """The watermark, since the epoch; `NEVER_NS` before enough events have come."""
        return self.newest_ns[CONFIRMED_BY - 1] if len(self.newest_ns) >= CONFIRMED_BY else NEVER_NS

    def advanced(self, times_ns: Iterable[int]) -> Watermark:
        """Return the watermark after events of these times: that of another applier, say."""
        return Watermark(nlargest(CONFIRMED_BY, {*self.newest_ns, *times_ns}))


def watermark_key(stream: str) -> bytes:
    """Return the key of a stream's watermark in the store; no entity's key begins so."""
    return b"tailrace:watermark:{%b}" % stream.encode()


def read_watermark(stored: bytes | None) -> Watermark:
    """Return the watermark that a store holds; one that cannot be read begins anew."""
    if stored is None:
        return Watermark()
    try:
        return msgspec.json.decode(stored, type=Watermark)
    except msgspec.DecodeError:
        return Watermark()
