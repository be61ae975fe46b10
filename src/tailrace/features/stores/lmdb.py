"""The embedded store: one LMDB file, shared by all workers of a machine and read without suspending.

Readers hold no lock while they are idle, and a writer never waits for them. What the disk says is what is served: once
the files are removed or replaced, the old ones, though still mapped, are let go.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import lmdb

from tailrace.deadline import NS_PER_MS, Clock
from tailrace.errors import StoreError

MAP_BYTES: Final = 64 << 30
"""Address space, not memory nor disk; a writer that fills it doubles it."""

READERS_MAX: Final = 1_024
REOPEN_NS: Final = 100 * NS_PER_MS
_DATA_FILE: Final = "data.mdb"
_MATERIALIZE: Final = "write it with `tailrace materialize FILE`"


class LmdbStore:
    """Reads one LMDB directory, with one read transaction a batch.

    A file that is removed, replaced, cut short or unreadable while serving gives StoreError, and is opened anew, at
    most every 100 ms, until it can be read again. Raises StoreError at open.
    """

    network: Final = False

    def __init__(self, path: str | Path, clock: Clock, *, map_bytes: int = MAP_BYTES) -> None:
        self._map_bytes = map_bytes
        self._path = str(path)
        self._file = os.path.join(self._path, _DATA_FILE)
        self._now_ns = clock.now_ns
        self._environment: Any = None
        self._begin: Any = None
        self._identity = (0, 0)
        self._bytes_min = 0
        self._reopen_at_ns = 0
        self._closed = False

    async def open(self) -> None:
        """Open the files, once. Raises StoreError where there are none, or they are not a store's."""
        self._closed = False
        if self._environment is None:
            self._open()

    def close(self) -> None:
        """Let go of the files."""
        self._closed = True
        self._let_go()

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return the value of each key, in order; never suspends. Raises StoreError when the files cannot be read."""
        self._check_files()
        try:
            with self._begin() as transaction:
                return list(map(transaction.get, keys))
        except lmdb.MapResizedError:
            return self._fetch_resized(keys)
        except lmdb.Error as error:
            self._let_go()
            raise StoreError(f"cannot be read: {error}", where=self._path, next=_MATERIALIZE) from None

    def _fetch_resized(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Fetch after a writer grew the file beyond this reader's map."""
        try:
            self._environment.set_mapsize(0)
            with self._begin() as transaction:
                return list(map(transaction.get, keys))
        except lmdb.Error as error:
            self._let_go()
            raise StoreError(f"cannot be read: {error}", where=self._path, next=_MATERIALIZE) from None

    def _check_files(self) -> None:
        """Make sure that what is mapped lies on disk, whole: touching a page past a file's end would kill us."""
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
        if status is None or (status.st_dev, status.st_ino) != self._identity or status.st_size < self._bytes_min:
            self._let_go()
            self._check_files()
        else:
            self._bytes_min = status.st_size

    def _open(self) -> None:
        try:
            status = os.stat(self._file)
        except OSError as error:
            raise StoreError(f"no store: {error.strerror}", where=self._path, next=_MATERIALIZE) from None
        try:
            self._environment = lmdb.open(
                self._path, map_size=self._map_bytes, readonly=True, create=False, readahead=False,
                max_readers=READERS_MAX, max_spare_txns=1,
            )  # fmt: skip
            self._environment.reader_check()
            needed = _bytes_used(self._environment)
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

    def _let_go(self) -> None:
        environment, self._environment = self._environment, None
        if environment is not None:
            with contextlib.suppress(lmdb.Error):
                environment.close()


def _bytes_used(environment: Any) -> int:
    """Return how long the file must be to hold every page that is in use."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]  # type: ignore[no-any-return]


class LmdbWriter:
    """Writes one LMDB directory, which it makes. One writer at a time; a second waits for it.

    Raises StoreError where the files cannot be made or written.
    """

    def __init__(self, path: str | Path, *, map_bytes: int = MAP_BYTES) -> None:
        self._path = str(path)
        try:
            os.makedirs(self._path, exist_ok=True)
            self._environment = lmdb.open(self._path, map_size=map_bytes, readahead=False, max_readers=READERS_MAX)
            self._environment.reader_check()
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"cannot be written: {error}", where=self._path,
                             next="choose a directory of its own, or remove it to start afresh") from None  # fmt: skip

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write key and value pairs in one transaction: all of them, or none."""
        pairs = list(rows)
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in pairs:
                        transaction.put(key, value)
                self._fill_up()
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
            except lmdb.MapResizedError:
                self._environment.set_mapsize(0)
            except (lmdb.Error, OSError) as error:
                raise StoreError(f"cannot be written: {error}", where=self._path,
                                 next="see that the disk has room and the directory is yours") from None  # fmt: skip

    def _fill_up(self) -> None:
        """Make the file as long as its last page says: LMDB may leave one unwritten, and readers would call it cut."""
        file = os.path.join(self._path, _DATA_FILE)
        if os.stat(file).st_size < _bytes_used(self._environment):
            with self._environment.begin(write=True):  # no other writer makes it longer meanwhile
                if os.stat(file).st_size < (needed := _bytes_used(self._environment)):
                    os.truncate(file, needed)

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        with self._environment.begin() as transaction:
            return transaction.get(key)

    def delete(self, key: bytes) -> None:
        """Remove one key, if it is there."""
        with self._environment.begin(write=True) as transaction:
            transaction.delete(key)

    def close(self) -> None:
        """Flush and let go."""
        self._environment.close()
