"""Counters under keys of a store, as `Changes`; run as a program, another process that counts.

python counting.py URL TIMES WRITER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter

COUNTERS = [b"{n:%d}V:1" % number for number in range(5)]


class Count:
    """Adds one to the number under each key; what is no number begins at 0."""

    def __init__(self, keys: Sequence[bytes] = tuple(COUNTERS)) -> None:
        self.keys = keys
        self.tombstones = [key.partition(b"}")[0] + b"}:forgotten" for key in keys]
        self.calls: list[tuple[list[int], list[bool]]] = []

    def values(
        self, places: Sequence[int], before: Sequence[bytes | None], forgotten: Sequence[bool]
    ) -> list[bytes | None]:
        """Return the next numbers; a key whose entity is forgotten stays as it is."""
        self.calls.append((list(places), list(forgotten)))
        return [None if gone else b"%d" % (int(old or 0) + 1) for old, gone in zip(before, forgotten, strict=True)]


def count(writer: StoreWriter, times: int, name: str) -> None:
    """Count so many times, with a note each time that says how far it has come."""
    for number in range(times):
        writer.update(Count(), [(b"note of %b" % name.encode(), b"%d" % (number + 1))])


if __name__ == "__main__":
    counting = open_writer(sys.argv[1])
    count(counting, int(sys.argv[2]), sys.argv[3])
    counting.close()
