"""The journal of accepted requests: an LMDB directory, whose every transaction waits until the disk has it.

    POST ─ accept ─▶ waiting ─ score, finish ─▶ results ─ deliver ─▶ gone        ids: which request came before
             by slot, pipeline, id       by pipeline, id └─ give up ─▶ set aside   ends: when an id is forgotten

What is between two arrows is on disk before the next one begins, so a process that dies leaves it to its successor: a
request is scored again, or a result sent again, never lost. LMDB's commit is an fdatasync of the pages and then a
write of the root that is synced too: what a disk says it has written survives a power failure.
All transactions are writing ones: a reader that is killed would keep old pages from being used again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import lmdb
import msgspec

from tailrace.deadline import NS_PER_MS, NS_PER_S
from tailrace.errors import StoreError

SLOTS_MAX: Final = 256
SET_ASIDE_MAX: Final = 10_000
"""Results that could not be delivered and are kept; the oldest goes for a newer one."""
SCANNED_MAX: Final = 100_000
"""Keys looked at in one transaction."""
PURGED_MAX: Final = 1_000
"""Keys removed in one transaction, by age."""
MAP_FACTOR: Final = 4
MAP_BYTES_MIN: Final = 64 << 20
"""The file may grow to this and so many times its limit: what is full must still be able to move on."""
_DATABASES: Final = (b"waiting", b"results", b"set-aside", b"ids", b"ends")
_ID_BYTES: Final = 32
_SLOT_BYTES: Final = 2
_LANE_BYTES: Final = 8
"""Of a pipeline's name in a key, so that what waits of one is passed over in a step."""
_AFTER_IDS: Final = b"\x7f"
"""Sorts behind every id."""
_MS_DIGITS: Final = 12
T = TypeVar("T")


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """A request that waits to be scored. content_type, coding, body: as it came. request_id: the caller's.

    callers: the scope of its caller, who shares answers with others of it alone.
    """

    id: str
    pipeline: str
    request_id: str
    content_type: bytes
    coding: bytes
    body: bytes
    callers: bytes = b""


class Result(msgspec.Struct, frozen=True, array_like=True):
    """What waits to be delivered. body: as it is sent. made_ns: since the epoch."""

    id: str
    pipeline: str
    body: bytes
    made_ns: int


class SetAside(msgspec.Struct, frozen=True, array_like=True):
    """A result that could not be delivered, and why. Of what could not be read the pipeline is empty."""

    result: Result
    reason: str


class Known(NamedTuple):
    """Which request this is: a digest of who sent it under what id, and one of its body. who: empty for no id."""

    who: bytes
    what: bytes


class Refused(Enum):
    """Why a request is not accepted."""

    FULL = "full"
    OTHER_BODY = "other_body"


class State(NamedTuple):
    """What is in a journal. oldest_ns: how long ago the oldest was accepted that is not delivered; 0 for none."""

    waiting: int
    results: int
    set_aside: int
    oldest_ns: int


_encode: Final = msgspec.msgpack.Encoder().encode
_read_waiting: Final = msgspec.msgpack.Decoder(Waiting).decode
_read_result: Final = msgspec.msgpack.Decoder(Result).decode
_read_set_aside: Final = msgspec.msgpack.Decoder(SetAside).decode


def new_id() -> str:
    """Return an id that nobody guesses and that sorts by time: 48 bits of milliseconds, 80 random ones, in hex."""
    return f"{time.time_ns() // NS_PER_MS:012x}{os.urandom(10).hex()}"


def accepted_ns(entry_id: str) -> int:
    """Return when what has an id was accepted, since the epoch."""
    return int(entry_id[:_MS_DIGITS], 16) * NS_PER_MS


class Journal:
    """One directory's journal, for one thread of a process.

    entries_max, bytes_max: beyond, nothing is accepted. retention_s: how long an id is known, and what could not be
    delivered kept; retention_ns: the same. Raises StoreError where it cannot be made or written.
    """

    def __init__(self, path: str | Path, *, entries_max: int, bytes_max: int, retention_s: float) -> None:
        self.path = str(path)
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self.retention_ns = int(retention_s * NS_PER_S)
        self._environment: Any = None
        self._open()

    def _open(self) -> None:
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._environment = lmdb.open(
                self.path, map_size=MAP_FACTOR * self._bytes_max + MAP_BYTES_MIN, mode=0o600, readahead=False,
                max_dbs=len(_DATABASES), max_readers=SLOTS_MAX,
            )  # fmt: skip
            self._environment.reader_check()
            self._dbs = tuple(self._environment.open_db(name) for name in _DATABASES)
        except (lmdb.Error, OSError) as error:
            self.close()
            raise StoreError(f"accepted requests cannot be kept: {error}", where=self.path,
                             next="name a directory that can be written: --accepted DIR") from None  # fmt: skip
        self._waiting, self._results, self._set_aside, self._ids, self._ends = self._dbs
        self._page_bytes = self._environment.stat()["psize"]

    def close(self) -> None:
        """Let go of the files."""
        environment, self._environment = self._environment, None
        if environment is not None:
            with suppress(lmdb.Error):
                environment.close()

    def transact(self, works: Sequence[Callable[[Any], Any]]) -> list[Any]:
        """Do several things in one transaction; return what each returns once all of it is on disk.

        Raises StoreError where it is not: then none of it is done.
        """
        try:
            if self._environment is None:
                self._open()
            with self._environment.begin(write=True) as transaction:
                return [work(transaction) for work in works]
        except (lmdb.Error, OSError) as error:
            self.close()  # after some faults it takes nothing any more; opened again it does
            raise StoreError(f"cannot be written: {error}", where=self.path,
                             next="see that the disk has room and can be written") from None  # fmt: skip

    # -- what a transaction does ------------------------------------------------------------------------------------

    def accept(self, slot: int, entry: Waiting, known: Known, transaction: Any) -> str | Refused:
        """Take a request; return its id, or the one that it had when it came before, or why it is not taken."""
        if known.who:
            before = transaction.get(known.who, db=self._ids)
            if before is not None and int.from_bytes(before[:8], "big") > time.time_ns():
                return before[24:].decode() if before[8:24] == known.what else Refused.OTHER_BODY
        if self._is_full(transaction):
            return Refused.FULL
        transaction.put(_waiting_key(slot, entry), _encode(entry), db=self._waiting)
        if known.who:
            end = (accepted_ns(entry.id) + self.retention_ns).to_bytes(8, "big")
            transaction.put(known.who, end + known.what + entry.id.encode(), db=self._ids)
            transaction.put(end + known.who, b"", db=self._ends)
        return entry.id

    def take(
        self, slots: Collection[int], limit: int, skipped: Collection[str], transaction: Any,
        pipelines: Collection[str] | None = None,
    ) -> list[tuple[int, Waiting]]:  # fmt: skip
        """Return requests of some slots that wait, each with its slot, the oldest first; none is removed.

        pipelines: whose they are; None for any.
        """
        lanes = None if pipelines is None else set(map(_lane_of, pipelines))
        found: list[tuple[int, Waiting]] = []
        with transaction.cursor(self._waiting) as cursor:
            keys = sorted(self._keys_of(cursor, slots, lanes, limit, skipped), key=_id_of)[:limit]
            values = [cursor.get(key) for key in keys]
        for key, value in zip(keys, values, strict=True):
            try:
                found.append((_slot_of(key), _read_waiting(value)))
            except msgspec.DecodeError:
                self._set_unread_aside(key, _id_of(key), self._waiting, transaction)
        return found

    def _keys_of(
        self, cursor: Any, slots: Collection[int], lanes: Collection[bytes] | None, limit: int, skipped: Collection[str]
    ) -> Iterator[bytes]:
        """Give the keys of what waits in some slots, of each pipeline there so many at most, the oldest first."""
        scanned, is_there = 0, cursor.first()
        while is_there:
            lane, left = cursor.key()[: _SLOT_BYTES + _LANE_BYTES], limit
            if _slot_of(lane) not in slots or (lanes is not None and lane[_SLOT_BYTES:] not in lanes):
                left = 0
            while left and scanned < SCANNED_MAX and is_there and (key := cursor.key()).startswith(lane):
                scanned += 1
                if _id_of(key).decode() not in skipped:
                    left -= 1
                    yield key
                is_there = cursor.next()
            is_there = cursor.set_range(lane + _AFTER_IDS)

    def finish(self, slot: int, result: Result, transaction: Any) -> bool:
        """Put a result in the place of its request; False where another has done so."""
        if not transaction.delete(_waiting_key(slot, result), db=self._waiting):
            return False
        transaction.put(_result_key(result), _encode(result), db=self._results)
        return True

    def results(
        self, limit: int, skipped: Collection[str], transaction: Any, rooms: Mapping[str, int] | None = None
    ) -> list[Result]:
        """Return results that wait to be delivered: so many of each pipeline, the oldest of it first.

        rooms: of which pipelines fewer are wanted, and how many. What waits of one is never in another's way.
        """
        lanes = {_lane_of(pipeline): min(room, limit) for pipeline, room in (rooms or {}).items()}
        found: list[Result] = []
        unread: list[bytes] = []
        with transaction.cursor(self._results) as cursor:
            is_there = cursor.first()
            while is_there:
                lane = cursor.key()[:_LANE_BYTES]
                left = lanes.get(lane, limit)
                while left > 0 and is_there and (key := cursor.key()).startswith(lane):
                    if key[_LANE_BYTES:].decode() not in skipped:
                        try:
                            found.append(_read_result(cursor.value()))
                            left -= 1
                        except msgspec.DecodeError:
                            unread.append(key)
                    is_there = cursor.next()
                is_there = cursor.set_range(lane + _AFTER_IDS)
        for key in unread:
            self._set_unread_aside(key, key[_LANE_BYTES:], self._results, transaction)
        return found

    def remove(self, result: Result, transaction: Any) -> None:
        """Remove a result that is delivered."""
        transaction.delete(_result_key(result), db=self._results)

    def set_aside(self, result: Result, reason: str, transaction: Any) -> None:
        """Keep a result that cannot be delivered where nobody tries it again."""
        if transaction.delete(_result_key(result), db=self._results):
            self._keep(result, reason, transaction)

    def put_back(self, result_id: str, transaction: Any) -> bool:
        """Have a result that was set aside delivered as if it were new; False where there is none to deliver."""
        value = transaction.get(result_id.encode(), db=self._set_aside)
        if value is None or not (kept := _read_set_aside(value).result).pipeline:
            return False
        transaction.delete(result_id.encode(), db=self._set_aside)
        result = Result(kept.id, kept.pipeline, kept.body, time.time_ns())
        transaction.put(_result_key(result), _encode(result), db=self._results)
        return True

    def _set_unread_aside(self, key: bytes, entry_id: bytes, database: Any, transaction: Any) -> None:
        """Keep what cannot be read, of another version say, where it holds up nothing."""
        value = transaction.pop(key, db=database)
        self._keep(Result(entry_id.decode(), "", value, 0), "it cannot be read", transaction)

    def _keep(self, result: Result, reason: str, transaction: Any) -> None:
        if transaction.stat(self._set_aside)["entries"] >= SET_ASIDE_MAX:
            with transaction.cursor(self._set_aside) as cursor:
                if cursor.first():
                    cursor.delete()
        transaction.put(result.id.encode(), _encode(SetAside(result, reason)), db=self._set_aside)

    def purge(self, now_ns: int, transaction: Any) -> int:
        """Forget ids, and what was set aside, that are over their time; return how many."""
        purged = 0
        with transaction.cursor(self._ends) as cursor:
            while purged < PURGED_MAX and cursor.first() and int.from_bytes(cursor.key()[:8], "big") <= now_ns:
                end, who = cursor.key()[:8], cursor.key()[8:]
                known = transaction.get(who, db=self._ids)
                if known is not None and known[:8] == end:  # else it came again, and ends later
                    transaction.delete(who, db=self._ids)
                cursor.delete()
                purged += 1
        oldest_ns = now_ns - self.retention_ns
        with transaction.cursor(self._set_aside) as cursor:
            while purged < PURGED_MAX and cursor.first() and accepted_ns(cursor.key().decode()) < oldest_ns:
                cursor.delete()
                purged += 1
        return purged

    def state(self, now_ns: int, transaction: Any) -> State:
        """Say what is in it."""
        waiting, results, aside = (transaction.stat(db)["entries"] for db in self._dbs[:3])
        oldest_ns = min(self._oldest(transaction), default=now_ns)
        return State(waiting, results, aside, max(now_ns - oldest_ns, 0))

    def kept(self, transaction: Any) -> list[SetAside]:
        """Return what was set aside, the oldest first."""
        with transaction.cursor(self._set_aside) as cursor:
            return [_read_set_aside(value) for value in cursor.iternext(keys=False, values=True)]

    def _oldest(self, transaction: Any) -> Iterator[int]:
        """Give when the oldest of each slot and pipeline was accepted, and of each pipeline's results."""
        with transaction.cursor(self._waiting) as cursor:
            is_there = cursor.first()
            while is_there:
                key = cursor.key()
                yield accepted_ns(_id_of(key).decode())
                is_there = cursor.set_range(key[: _SLOT_BYTES + _LANE_BYTES] + _AFTER_IDS)
        with transaction.cursor(self._results) as cursor:
            is_there = cursor.first()
            while is_there:
                key = cursor.key()
                yield accepted_ns(key[_LANE_BYTES:].decode())
                is_there = cursor.set_range(key[:_LANE_BYTES] + _AFTER_IDS)

    def _is_full(self, transaction: Any) -> bool:
        stats: list[Mapping[str, int]] = [transaction.stat(db) for db in self._dbs]
        pages = sum(each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in stats)
        entries = stats[0]["entries"] + stats[1]["entries"]
        return entries >= self._entries_max or pages * self._page_bytes >= self._bytes_max


def _waiting_key(slot: int, entry: Waiting | Result) -> bytes:
    return slot.to_bytes(_SLOT_BYTES, "big") + _lane_of(entry.pipeline) + entry.id.encode()


def _slot_of(waiting_key: bytes) -> int:
    return int.from_bytes(waiting_key[:_SLOT_BYTES], "big")


def _id_of(waiting_key: bytes) -> bytes:
    return waiting_key[_SLOT_BYTES + _LANE_BYTES :]


def _lane_of(pipeline: str) -> bytes:
    return hashlib.sha256(pipeline.encode()).digest()[:_LANE_BYTES]


def _result_key(result: Result) -> bytes:
    return _lane_of(result.pipeline) + result.id.encode()
