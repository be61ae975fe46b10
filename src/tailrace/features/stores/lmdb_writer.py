"""The embedded store's writer: in every transaction of a run it also looks whether that run is the last."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice, takewhile
from operator import methodcaller
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from tailrace.errors import NoStoreError, StoreError
from tailrace.features.stores.lease import FileLease
from tailrace.features.stores.lmdb import DATA_FILE, MAP_BYTES, READERS_MAX, bytes_used
from tailrace.features.stores.protocol import Changes
from tailrace.features.stores.runs import PageCounts, PageRow, Run, lost_run, next_run, run_key, write_page

Answer = TypeVar("Answer")
Part = TypeVar("Part")
TRANSACTION_ROWS_MAX: Final = 250
"""Rows that a run writes or removes in one transaction: others wait for its end, such as who counts events."""
GAP_S: Final = 0.0002
"""How long a run leaves the lock alone between two transactions: it is not fair, and who waits must wake up first."""
SCAN_KEYS: Final = 10_000
"""Read in one transaction of a scan: a long one would keep old pages from being used again."""


class LmdbWriter:
    """Writes one LMDB directory. One writer at a time; a second waits for it.

    create: make the directory and its files where they are missing. syncs: wait for the disk with every call; without,
    a power failure may take back the last calls. Raises StoreError where the files are missing, or cannot be made or
    written.
    """

    def __init__(
        self, path: str | Path, *, map_bytes: int = MAP_BYTES, create: bool = True, syncs: bool = True
    ) -> None:
        self._path = str(path)
        self._file = os.path.join(self._path, DATA_FILE)
        if not create and not os.path.isfile(self._file):
            raise NoStoreError("there is no store", where=self._path,
                               next="name the one that is served, or write it: tailrace materialize FILE")  # fmt: skip
        try:
            if create:
                os.makedirs(self._path, exist_ok=True)
            self._environment = lmdb.open(
                self._path, map_size=map_bytes, readahead=False, max_readers=READERS_MAX, create=create,
                sync=syncs,
            )  # fmt: skip
            self._environment.reader_check()
            self._identity = _identity(os.stat(self._file))
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"cannot be written: {error}", where=self._path,
                             next="choose a directory of its own, or remove it to start afresh") from None  # fmt: skip

    def lease(self, view: str) -> FileLease:
        """Return the lease of a view: a lock on a file of the store's directory."""
        return FileLease(self._path, view)

    def begin_run(self, view: str) -> Run:
        """Return a new run of a view; what earlier runs write from now on is refused."""

        def begin(transaction: Any) -> Run:
            run = next_run(view, transaction.get(run_key(view)))
            transaction.put(run.key, run.mark)
            return run

        return self._transact(begin)

    def write(
        self, run: Run, rows: Sequence[PageRow], notes: Sequence[tuple[bytes, bytes]] = (), *, newer_only: bool = False
    ) -> PageCounts:
        """Write a run's rows that may be written, some hundred in a transaction, the last with the notes."""
        counts = PageCounts()
        *before, last = _parts(rows)
        for part in before:
            counts = counts.plus(self._write_part(run, part, (), newer_only=newer_only))
            time.sleep(GAP_S)
        return counts.plus(self._write_part(run, last, notes, newer_only=newer_only))

    def _write_part(
        self, run: Run, rows: Sequence[PageRow], notes: Sequence[tuple[bytes, bytes]], *, newer_only: bool
    ) -> PageCounts:
        """Write rows and notes in one transaction: all of them, or none."""

        def put_all(transaction: Any) -> PageCounts:
            self._check_run(transaction, run)
            counts = write_page(transaction.get, transaction.put, rows, newer_only=newer_only)
            for key, value in notes:
                transaction.put(key, value)
            return counts

        return self._transact(put_all)

    def remove(self, run: Run, keys: Sequence[bytes]) -> int:
        """Remove keys for a run, some hundred in a transaction."""
        removed = 0
        for part in _parts(keys):
            removed += self._remove_part(run, part)
            time.sleep(GAP_S)
        return removed

    def _remove_part(self, run: Run, keys: Sequence[bytes]) -> int:
        """Remove keys in one transaction: all of them, or none."""

        def delete_all(transaction: Any) -> int:
            self._check_run(transaction, run)
            return sum(map(transaction.delete, keys))

        return self._transact(delete_all)

    def scan(self, begin: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys that begin and end so, in order."""
        last = begin
        while keys := self._keys_from(last, begin):
            yield from (key for key in keys if key.endswith(end))
            last = keys[-1] + b"\0"  # the least that comes after it

    def _keys_from(self, first: bytes, begin: bytes) -> list[bytes]:
        """Return some keys that begin so, from the first on."""

        def read(transaction: Any) -> list[bytes]:
            with transaction.cursor() as cursor:
                found = cursor.iternext(keys=True, values=False) if cursor.set_range(first) else ()
                return list(takewhile(methodcaller("startswith", begin), islice(found, SCAN_KEYS)))

        return self._transact(read, write=False)

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write key and value pairs and remove keys: all of them, or none."""

        def exchange_all(transaction: Any) -> int:
            for key, value in puts:
                transaction.put(key, value)
            return sum(map(transaction.delete, removes))

        return self._transact(exchange_all)

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Change values by what they are, and write notes: all of them, or none."""

        def change_all(transaction: Any) -> None:
            before = list(map(transaction.get, changes.keys))
            forgotten = [transaction.get(key) is not None for key in changes.tombstones]
            after = changes.values(range(len(before)), before, forgotten)
            for key, value in zip(changes.keys, after, strict=True):
                if value is not None:
                    transaction.put(key, value)
            for key, value in notes:
                transaction.put(key, value)

        self._transact(change_all)

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        value: bytes | None = self._transact(lambda transaction: transaction.get(key), write=False)
        return value

    def close(self) -> None:
        """Flush and let go."""
        self._environment.close()

    def _check_run(self, transaction: Any, run: Run) -> None:
        """Raise LeaseError, which takes the transaction back, where the run is not the last."""
        mark = transaction.get(run.key)
        if mark != run.mark:
            raise lost_run(run, mark, self._path)

    def _transact(self, work: Callable[[Any], Answer], *, write: bool = True) -> Answer:
        """Do some work in one transaction; again, in a larger map, where it did not fit."""
        while True:
            try:
                with self._environment.begin(write=write) as transaction:
                    answer = work(transaction)
                if write:
                    self._check_file()
                return answer
            except lmdb.MapFullError:
                self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
            except lmdb.MapResizedError:
                self._environment.set_mapsize(0)
            except (lmdb.Error, OSError) as error:
                raise StoreError(f"cannot be {'written' if write else 'read'}: {error}", where=self._path,
                                 next="see that the disk has room and the directory is yours") from None  # fmt: skip

    def _check_file(self) -> None:
        """Make sure that what was written can be read.

        LMDB goes on writing a file that was removed or replaced, and may leave its last page unwritten, for which
        readers would call the file cut: it is made as long as that page says.
        """
        status = os.stat(self._file)
        if _identity(status) != self._identity:
            raise StoreError("the files were replaced while they were written", where=self._path,
                             next="run again, into the store that is there now")  # fmt: skip
        if status.st_size < bytes_used(self._environment):
            with self._environment.begin(write=True):  # no other writer makes it longer meanwhile
                if os.stat(self._file).st_size < (needed := bytes_used(self._environment)):
                    os.truncate(self._file, needed)


def _parts(whole: Sequence[Part]) -> list[Sequence[Part]]:
    """Return what goes into each transaction; one of nothing where there is nothing."""
    begins = range(0, len(whole) or 1, TRANSACTION_ROWS_MAX)
    return [whole[begin : begin + TRANSACTION_ROWS_MAX] for begin in begins]


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
