"""The writer of two stores: the slower one is written, then the hot one's copies of what was written are removed.

Leases, runs, notes and tombstones are in the slower store alone. Where the hot one cannot be written the call raises
StoreError, though the slower one has the values by then: it must be made again, or old copies stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from tailrace.errors import StoreError
from tailrace.features.stores.lease import Lease
from tailrace.features.stores.protocol import Changes, StoreWriter
from tailrace.features.stores.runs import PageCounts, PageRow, Run


class TierWriter:
    """Writes a slower store, and keeps no old copy in the hot one before it."""

    def __init__(self, hot: StoreWriter, slower: StoreWriter) -> None:
        self._hot = hot
        self._slower = slower

    def lease(self, view: str) -> Lease:
        """Return the lease of a view."""
        return self._slower.lease(view)

    def begin_run(self, view: str) -> Run:
        """Return a new run of a view; what earlier runs write from now on is refused."""
        return self._slower.begin_run(view)

    def write(
        self, run: Run, rows: Sequence[PageRow], notes: Sequence[tuple[bytes, bytes]] = (), *, newer_only: bool = False
    ) -> PageCounts:
        """Write a run's rows that may be written, then its notes."""
        with self._removing([*(row.key for row in rows), *(key for key, _ in notes)]):
            return self._slower.write(run, rows, notes, newer_only=newer_only)

    def remove(self, run: Run, keys: Sequence[bytes]) -> int:
        """Remove keys for a run."""
        with self._removing(keys):
            return self._slower.remove(run, keys)

    def scan(self, begin: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys that begin and end so."""
        return self._slower.scan(begin, end)

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write key and value pairs and remove keys."""
        with self._removing([*(key for key, _ in puts), *removes]):
            return self._slower.exchange(puts, removes)

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Change values by what they are in the slower store, then write notes."""
        with self._removing(changes.keys):
            self._slower.update(changes)
        if notes:  # last: they say that everything before them is done
            self.exchange(notes, ())

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        return self._slower.get(key)

    def close(self) -> None:
        """Flush and let go of both."""
        self._hot.close()
        self._slower.close()

    @contextmanager
    def _removing(self, keys: Collection[bytes]) -> Iterator[None]:
        """Remove the copies of some keys behind a write, also behind one that failed: it may have written some."""
        try:
            yield
        except BaseException:
            with suppress(StoreError):  # that the write failed is what is told
                self._remove_copies(keys)
            raise
        self._remove_copies(keys)

    def _remove_copies(self, keys: Collection[bytes]) -> None:
        if not keys:
            return
        try:
            self._hot.exchange((), keys)
        except StoreError as error:
            what = f"the slower store is written, but the hot one may hold old copies: {error.what}"
            next_step = "see that the hot store answers, and run it again"
            raise StoreError(what, where=error.where, next=next_step) from None
