"""A writer whose transactions run on a thread that keeps its priority, for a process that gives way to all others.

LMDB has one write lock for all processes. A thread that is last to get a core may be put aside while it holds the lock,
and whoever writes beside it waits until the core is free: 30 to 50 ms in the 99th percentile beside a busy process, and
shorter transactions do not help. With its priority it is a few. But what has its priority takes the core from a worker
too: so it is some tenths of a millisecond at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor
from typing import Final

from tailrace.features.stores.lease import Lease
from tailrace.features.stores.protocol import Changes, StoreWriter
from tailrace.features.stores.runs import PageCounts, PageRow, Run

ROWS_MAX: Final = 16
"""Rows of a transaction: what a worker on the same core waits for, 10 µs each."""


class PromptWriter:
    """Writes as another writer does, but on a thread. thread: an executor of one, begun before the process gave way.

    What only reads, and so holds up nobody, stays with the caller.
    """

    def __init__(self, writer: StoreWriter, thread: Executor) -> None:
        self._writer = writer
        self._thread = thread

    def lease(self, view: str) -> Lease:
        """Return the lease of a view; see `StoreWriter.lease`."""
        return self._writer.lease(view)

    def begin_run(self, view: str) -> Run:
        """Return a new run of a view; see `StoreWriter.begin_run`."""
        return self._thread.submit(self._writer.begin_run, view).result()

    def write(
        self, run: Run, rows: Sequence[PageRow], notes: Sequence[tuple[bytes, bytes]] = (), *, newer_only: bool = False
    ) -> PageCounts:
        """Write a run's rows, few at a time, then its notes; see `StoreWriter.write`."""
        counts = PageCounts()
        for begin in range(0, len(rows) or 1, ROWS_MAX):
            part, is_last = rows[begin : begin + ROWS_MAX], begin + ROWS_MAX >= len(rows)
            own = notes if is_last else ()
            counts = counts.plus(
                self._thread.submit(self._writer.write, run, part, own, newer_only=newer_only).result()
            )
        return counts

    def remove(self, run: Run, keys: Sequence[bytes]) -> int:
        """Remove keys for a run; see `StoreWriter.remove`."""
        return self._thread.submit(self._writer.remove, run, keys).result()

    def scan(self, begin: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys that begin and end so."""
        return self._writer.scan(begin, end)

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write key and value pairs and remove keys; see `StoreWriter.exchange`."""
        return self._thread.submit(self._writer.exchange, puts, removes).result()

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Change values by what they are, and write notes; see `StoreWriter.update`."""
        self._thread.submit(self._writer.update, changes, notes).result()

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        return self._writer.get(key)

    def close(self) -> None:
        """Flush and let go."""
        self._thread.submit(self._writer.close).result()
