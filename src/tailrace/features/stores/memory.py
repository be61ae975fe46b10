"""The in-memory store: a dict, for tests and for trying things out. Embedded: it never suspends."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

import msgspec

from tailrace.features.stores.lease import Holder, held_error
from tailrace.features.stores.protocol import Changes
from tailrace.features.stores.runs import PageCounts, PageRow, Run, lost_run, next_run, run_key, write_page


class MemoryStore:
    """Reads a dict of packed rows."""

    network: Final = False

    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self.rows = {} if rows is None else rows

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order."""
        get = self.rows.get
        return [get(key) for key in keys]

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    def close(self) -> None:
        """Do nothing: the rows stay for who opens the store again."""


class MemoryLease:
    """A row among the others that says who writes a view."""

    def __init__(self, rows: dict[bytes, bytes], view: str) -> None:
        self.holder = Holder.here()
        self._rows = rows
        self._key = b"tailrace:lease:%b" % view.encode()
        own = msgspec.json.encode(self.holder)
        if (held := rows.setdefault(self._key, own)) != own:
            raise held_error(view, held, "memory:")

    def check(self) -> None:
        """Do nothing: whoever holds it lives in this process."""

    def close(self) -> None:
        """Let the next run have it."""
        self._rows.pop(self._key, None)


class MemoryWriter:
    """Writes a dict of packed rows. One thread at a time."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self._rows = rows

    def lease(self, view: str) -> MemoryLease:
        """Return the lease of a view."""
        return MemoryLease(self._rows, view)

    def begin_run(self, view: str) -> Run:
        """Return a new run of a view; what earlier runs write from now on is refused."""
        run = next_run(view, self._rows.get(run_key(view)))
        self._rows[run.key] = run.mark
        return run

    def write(
        self, run: Run, rows: Sequence[PageRow], notes: Sequence[tuple[bytes, bytes]] = (), *, newer_only: bool = False
    ) -> PageCounts:
        """Write a run's rows that may be written, and its notes."""
        self._check_run(run)
        counts = write_page(self._rows.get, self._rows.__setitem__, rows, newer_only=newer_only)
        self._rows |= dict(notes)
        return counts

    def remove(self, run: Run, keys: Sequence[bytes]) -> int:
        """Remove keys for a run."""
        self._check_run(run)
        return self.exchange((), keys)

    def scan(self, begin: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys that begin and end so."""
        yield from [key for key in self._rows if key.startswith(begin) and key.endswith(end)]

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write key and value pairs and remove keys."""
        self._rows |= dict(puts)
        return sum(self._rows.pop(key, None) is not None for key in removes)

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Change values by what they are, and write notes."""
        before = list(map(self._rows.get, changes.keys))
        after = changes.values(range(len(before)), before, [key in self._rows for key in changes.tombstones])
        self._rows |= {key: value for key, value in zip(changes.keys, after, strict=True) if value is not None}
        self._rows |= dict(notes)

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        return self._rows.get(key)

    def close(self) -> None:
        """Do nothing: every write has happened."""

    def _check_run(self, run: Run) -> None:
        if (mark := self._rows.get(run.key)) != run.mark:
            raise lost_run(run, mark, "memory:")
