"""The watermark of a stream: how far its events have come. What is older by more than its lateness is refused.

It is measured by events alone, never by the wall clock, so that a past year can be replayed today. One event with a
wrong date must not make all others late: the watermark is not the newest time, but the third newest.

Where a consumer reads several partitions, one may have more to catch up than another, and the events of the one that is
behind are not late. So a partition that has more to come holds the watermark where it is itself; one that has caught up
holds it no more, nor one of which nothing has been heard for `SILENT_NS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import nlargest
from typing import Final

import msgspec

from tailrace.deadline import NS_PER_S
from tailrace.features.catalogue import NEVER_NS

CONFIRMED_BY: Final = 3
"""Events of as many times must be as new as the watermark."""
SILENT_NS: Final = 30 * NS_PER_S
"""How long a partition that is behind holds the watermark without a word, by the wall clock."""


class Behind(msgspec.Struct, frozen=True):
    """A partition that has more to come. at_ns: its newest event. seen_ns: when this was written. Since the epoch."""

    at_ns: int
    seen_ns: int


class Watermark(msgspec.Struct, eq=False):
    """How far one stream has come. newest_ns: the times of its newest events, each once, the newest first.

    Each once, since an event that comes three times has not been confirmed by others. at_ns: the watermark, since the
    epoch; `NEVER_NS` before enough events have come. behind: the partitions that hold it, by their name.
    """

    newest_ns: list[int] = msgspec.field(default_factory=list)
    at_ns: int = NEVER_NS
    behind: dict[str, Behind] = msgspec.field(default_factory=dict)

    def advanced(
        self, times_ns: Iterable[int], partitions: Mapping[str, Behind | None] | None = None, now_ns: int = NEVER_NS
    ) -> Watermark:
        """Return the watermark after events of these times. It never goes back.

        partitions: what is known of some; None for one that has caught up. now_ns: by the wall clock.
        """
        newest_ns = nlargest(CONFIRMED_BY, {*self.newest_ns, *times_ns})
        told = {**self.behind, **(partitions or {})}
        behind = {name: each for name, each in told.items() if each and each.seen_ns > now_ns - SILENT_NS}
        confirmed_ns = newest_ns[-1] if len(newest_ns) == CONFIRMED_BY else NEVER_NS
        reached_ns = min([confirmed_ns, *(each.at_ns for each in behind.values())])
        return Watermark(newest_ns, max(self.at_ns, reached_ns), behind)

    def joined(self, other: Watermark, now_ns: int) -> Watermark:
        """Return what both know together: of a partition, what was heard last."""
        later = {
            name: each
            for name, each in other.behind.items()
            if name not in self.behind or each.seen_ns > self.behind[name].seen_ns
        }
        joined = self.advanced(other.newest_ns, later, now_ns)
        return Watermark(joined.newest_ns, max(joined.at_ns, other.at_ns), joined.behind)


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
