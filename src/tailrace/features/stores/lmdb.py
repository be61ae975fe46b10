"""The embedded store: one LMDB file, shared by all workers of a machine and read without suspending.

Readers hold no lock while they are idle, and a writer never waits for them. What the disk says is what is served: once
the files are removed or replaced, the old ones, though still mapped, are let go.

Memory is what makes it quick: a page that is not there is read from disk by a page fault, on the loop. So the file is
read into memory at open (warming.py). A fetch looks at the clock before every few keys; once its deadline has passed
and it has waited for the disk it gives up, so that it holds the loop for the pages of `KEYS_A_LOOK` keys beyond its
deadline at most. A store that was late is left alone until a thread has found it in time (probe.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from itertools import chain, compress, repeat, starmap, takewhile
from pathlib import Path
from typing import Any, Final

import lmdb

from tailrace.deadline import NS_PER_MS, Clock
from tailrace.errors import NoStoreError, StoreError
from tailrace.features.late import LateError
from tailrace.features.stores.probe import Probe, page_faults
from tailrace.features.stores.warming import Warming

MAP_BYTES: Final = 64 << 30
"""Address space, not memory nor disk; a writer that fills it doubles it."""

READERS_MAX: Final = 1_024
REOPEN_NS: Final = 100 * NS_PER_MS
LATE_NS: Final = 2 * NS_PER_MS
LATE_READS_MAX: Final = 3
"""How often a fetch whose deadline passed goes on for `LATE_NS`, as long as it waits for no page: what is in memory
costs less than defaults, and a batch that comes late, or a loop that was kept by something else, is no fault of a disk.
"""
KEYS_A_LOOK: Final = 4
"""Keys read for one look at the clock. A look before each took 40% of a fetch, which was a fiftieth of a request."""
_IN_TIME: Final = (True,) * KEYS_A_LOOK
DATA_FILE: Final = "data.mdb"
_MATERIALIZE: Final = "write it with `tailrace materialize FILE`"


class LmdbStore:
    """Reads one LMDB directory, with one read transaction a batch.

    A file that is removed, replaced, cut short or unreadable while serving gives StoreError, and is opened again, at
    most every 100 ms, until it can be read again. Raises StoreError at open.
    """

    network: Final = False

    def __init__(self, path: str | Path, clock: Clock, *, map_bytes: int = MAP_BYTES) -> None:
        self._map_bytes = map_bytes
        self._path = str(path)
        self._file = os.path.join(self._path, DATA_FILE)
        self._clock = clock
        self._now_ns = clock.now_ns
        self._ticks = starmap(clock.now_ns, repeat(()))
        self.warming: Warming | None = None
        """Reads the files that are open into memory."""
        self._probe: Probe | None = None
        self._page_faults = 0
        self._environment: Any = None
        self._begin: Any = None
        self._identity = (0, 0)
        self._bytes_min = 0
        self._reopen_at_ns = 0
        self._closed = False

    async def open(self) -> None:
        """Open the files, once, and wait a little until they are in memory.

        Raises StoreError where there are none, or they are not a store's.
        """
        self._closed = False
        if self._environment is None:
            self._open()
        if self.warming is not None:
            await self.warming.wait()

    def close(self) -> None:
        """Let go of the files."""
        self._closed = True
        self._let_go()

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order; never suspends.

        Raises LateError when the deadline passed before the last key was read, or the store is left alone since it was
        late, StoreError when the files cannot be read.
        """
        if self._probe is not None:
            self._ask_probe(self._probe, keys, deadline_ns)
        self._check_files()
        try:
            with self._begin() as transaction:
                return self._read(transaction, keys, deadline_ns)
        except lmdb.MapResizedError:
            return self._fetch_resized(keys, deadline_ns)
        except lmdb.Error as error:
            self._let_go()
            raise StoreError(f"cannot be read: {error}", where=self._path, next=_MATERIALIZE) from None

    def _fetch_resized(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Fetch after a writer grew the file beyond this reader's map."""
        self._end_probe()
        try:
            self._environment.set_mapsize(0)
            with self._begin() as transaction:
                return self._read(transaction, keys, deadline_ns)
        except lmdb.Error as error:
            self._let_go()
            raise StoreError(f"cannot be read: {error}", where=self._path, next=_MATERIALIZE) from None

    def _read(self, transaction: Any, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        rows = self._read_until(deadline_ns, transaction, keys)
        return rows if self._now_ns() <= deadline_ns else self._read_late(transaction, keys, rows)

    def _read_until(self, deadline_ns: int, transaction: Any, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read keys until the deadline has passed. Nothing is interpreted for a key.

        zip: in a tuple a time is true, also a clock's 0, for which `compress` would leave out a key.
        """
        looks = compress(repeat(_IN_TIME), zip(takewhile(deadline_ns.__ge__, self._ticks)))
        return list(map(transaction.get, compress(keys, chain.from_iterable(looks))))

    def _read_late(self, transaction: Any, keys: Sequence[bytes], rows: list[bytes | None]) -> list[bytes | None]:
        """Read on past the deadline while nothing comes from the disk; else leave the store alone."""
        reads = 0
        while not self._has_waited():
            if len(rows) == len(keys):
                return rows
            if reads == LATE_READS_MAX:
                break
            rows += self._read_until(self._now_ns() + LATE_NS, transaction, keys[len(rows) :])
            reads += 1
        self._leave_alone(keys, rows)
        return rows

    def _has_waited(self) -> bool:
        """Return whether this thread has waited for a page of any file since this was last asked.

        Asked only past a deadline: the warm path is not to pay for it.
        """
        before, self._page_faults = self._page_faults, page_faults()
        return self._page_faults > before

    def _leave_alone(self, keys: Sequence[bytes], rows: list[bytes | None]) -> None:
        """Read no more on the loop until what is asked for next is in time; raise LateError if keys are left."""
        self._probe = Probe(self._file, self._read_off_loop, self._clock)
        if left := keys[len(rows) :]:
            self._probe.ask(left, 0)  # in time only if it is all in memory: then something else kept the loop
            raise self._late(f"{len(rows)} of {len(keys)} keys read by the deadline", rows)

    def _ask_probe(self, probe: Probe, keys: Sequence[bytes], deadline_ns: int) -> None:
        """Let the loop go on with the store if it is in time again; raise LateError if not."""
        if probe.is_over:
            self._probe = None
            return
        probe.ask(keys, deadline_ns - self._now_ns())
        raise self._late("left alone until it can be read in time", [])

    def _late(self, what: str, rows: list[bytes | None]) -> LateError:
        is_cold = self.warming is not None and self.warming.is_running
        return LateError(f"{self._path}: {what}: see that its file fits in memory", rows, is_cold=is_cold)

    def _read_off_loop(self, key: bytes) -> None:
        """Read one key for the probe, on its thread. Raises OSError or StoreError."""
        if not self._is_whole(os.stat(self._file)):
            raise StoreError("the files were changed", where=self._path)
        try:
            with self._begin() as transaction:
                transaction.get(key)
        except lmdb.Error as error:
            raise StoreError(f"cannot be read: {error}", where=self._path) from None

    def _is_whole(self, status: os.stat_result) -> bool:
        """Return whether a file is the one that is mapped, and no shorter than it was."""
        return (status.st_dev, status.st_ino) == self._identity and status.st_size >= self._bytes_min

    def _check_files(self) -> None:
        """Make sure that what is mapped is on disk, whole: touching a page past a file's end would kill us."""
        if self._environment is None:
            now_ns = self._now_ns()
            if self._closed or now_ns < self._reopen_at_ns:
                raise StoreError("the store is gone", where=self._path, next=_MATERIALIZE)
            self._reopen_at_ns = now_ns + REOPEN_NS
            self._open()
            return
        try:
            status = os.stat(self._file)
        except OSError:
            status = None
        if status is None or not self._is_whole(status):
            self._let_go()
            self._check_files()
        else:
            self._bytes_min = status.st_size

    def _open(self) -> None:
        try:
            status = os.stat(self._file)
        except OSError as error:
            raise NoStoreError(f"no store: {error.strerror}", where=self._path, next=_MATERIALIZE) from None
        try:
            self._environment = lmdb.open(
                self._path, map_size=self._map_bytes, readonly=True, create=False, readahead=False,
                max_readers=READERS_MAX, max_spare_txns=1,
            )  # fmt: skip
            self._environment.reader_check()
            needed = bytes_used(self._environment)
            status = os.stat(self._file)  # only now: a writer makes the file longer before it says so
            if status.st_size < needed:
                raise lmdb.CorruptedError("it is cut short")
        except (lmdb.Error, OSError) as error:
            self._let_go()
            raise StoreError(f"not a store that can be read: {error}", where=self._path,
                             next=f"remove it, then {_MATERIALIZE}") from None  # fmt: skip
        self._begin = self._environment.begin
        self._identity = (status.st_dev, status.st_ino)
        self._bytes_min = status.st_size
        self._page_faults = page_faults()
        self.warming = Warming(self._file)

    def _end_probe(self) -> bool:
        """Let nothing be read off the loop any more; return whether nothing is."""
        probe, self._probe = self._probe, None
        return probe is None or probe.close()

    def _let_go(self) -> None:
        is_unread = self._end_probe()
        if self.warming is not None:
            self.warming.close()
        environment, self._environment = self._environment, None
        if environment is not None and is_unread:  # else it stays mapped, for a thread that may never get its page
            with contextlib.suppress(lmdb.Error):
                environment.close()


def bytes_used(environment: Any) -> int:
    """Return how long the file must be to hold every page that is in use."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]  # type: ignore[no-any-return]
