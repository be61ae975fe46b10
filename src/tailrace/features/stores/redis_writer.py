"""The network store's writer: pages go through a script that compares and writes in one step.

The script looks at the run's mark first. So a run whose lease ended unseen (it was paused, the network was away) is
refused by Redis itself once the next run has begun, and no page of it lands among that one's.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from string import Template
from typing import Any, Final

import msgspec

from tailrace.errors import StoreError
from tailrace.features.row_layout import EVENT_BYTE, HEADER_BYTES, WRITTEN_BYTE
from tailrace.features.stores.lease import Holder, held_error
from tailrace.features.stores.protocol import Changes
from tailrace.features.stores.redis import NEXT, RedisAddress
from tailrace.features.stores.runs import PageCounts, PageRow, Run, lost_run, next_run, run_key

SCAN_KEYS: Final = 1_000
"""Looked at by one step of a scan, so that readers never wait long behind it."""

ROWS_PER_SCRIPT_MAX: Final = 250
"""So that a script keeps readers waiting no longer than a plain write of 1,000 rows: 2.4 ms, where that took 3.9."""

VERSION_BYTES: Final = 48
"""Of a value's beginning. By it and the length it is known whether another has changed the value: a state counts its
changes there."""
SWAPS_MAX: Final = 50
"""How often a value is asked anew that others change meanwhile."""

LEASE_MS: Final = 30_000
"""How long a lease outlives a run that died; one that lives renews it three times in this time."""

_BEGIN_RUN: Final = """
if redis.call('GET', KEYS[1]) ~= (ARGV[1] ~= '' and ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
# KEYS: the mark's, then each row's and its tombstone's. ARGV: the mark, whether only newer rows are written, the rows.
# A time is compared by its halves: a number of Lua holds 53 bits. Lua counts bytes from 1.
_WRITE: Final = Template("""
local mark = redis.call('GET', KEYS[1])
if mark ~= ARGV[1] then return {mark} end
local newer_only = ARGV[2] == '1'
local written, unchanged, older, forgotten = 0, 0, 0, 0
for i = 1, #ARGV - 2 do
  local key, row = KEYS[2 * i], ARGV[i + 2]
  if redis.call('EXISTS', KEYS[2 * i + 1]) == 1 then
    forgotten = forgotten + 1
  else
    local stored = redis.call('GET', key)
    local keep = false
    if stored and #stored >= $header_bytes then
      if stored:sub(1, $written_byte) == row:sub(1, $written_byte)
        and stored:sub($header_bytes + 1) == row:sub($header_bytes + 1) then
        keep, unchanged = true, unchanged + 1
      elseif newer_only then
        local low, high = struct.unpack('<I4i4', row, $event_byte + 1)
        local stored_low, stored_high = struct.unpack('<I4i4', stored, $event_byte + 1)
        if stored_high > high or (stored_high == high and stored_low > low) then
          keep, older = true, older + 1
        end
      end
    end
    if not keep then
      redis.call('SET', key, row)
      written = written + 1
    end
  end
end
return {mark, written, unchanged, older, forgotten}
""").substitute(header_bytes=HEADER_BYTES, written_byte=WRITTEN_BYTE, event_byte=EVENT_BYTE)
_REMOVE: Final = """
local mark = redis.call('GET', KEYS[1])
if mark ~= ARGV[1] then return {mark} end
local removed = 0
for i = 2, #KEYS do removed = removed + redis.call('DEL', KEYS[i]) end
return {mark, removed}
"""
_NOTE: Final = """
local mark = redis.call('GET', KEYS[1])
if mark ~= ARGV[1] then return {mark} end
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[i]) end
return {mark}
"""
_RENEW: Final = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


# KEYS: each value's and its tombstone's. ARGV: for each, how long it was (-1 where it was not there), its first bytes,
# and what it is to be. Tells for each whether it was written: not where another has changed it, or it is forgotten.
_SWAP: Final = """
local told = {}
for i = 1, #KEYS / 2 do
  local key, length, before = KEYS[2 * i - 1], tonumber(ARGV[3 * i - 2]), ARGV[3 * i - 1]
  local is_same = redis.call('EXISTS', key) == (length < 0 and 0 or 1)
    and (length <= 0 or redis.call('GETRANGE', key, 0, #before - 1) == before)
    and redis.call('STRLEN', key) == math.max(length, 0)
  if is_same and redis.call('EXISTS', KEYS[2 * i]) == 0 then
    redis.call('SET', key, ARGV[3 * i])
    told[i] = 1
  else
    told[i] = 0
  end
end
return told
"""


class RedisLease:
    """A key that ends by itself, and a thread that renews it. Raises LeaseError where another run holds it."""

    def __init__(self, writer: RedisWriter, view: str, lease_ms: int) -> None:
        self.holder = Holder.here()
        self._writer = writer
        self._view = view
        self._key = b"tailrace:lease:%b" % view.encode()
        self._own = msgspec.json.encode(self.holder)
        self._lease_ms = lease_ms
        self._taken_by: bytes | None = None
        self._ended = threading.Event()
        if writer.ask("SET", self._key, self._own, "NX", "PX", lease_ms) is None:
            held = writer.get(self._key) or b""
            if held != self._own:  # else the command was sent twice, since the first answer got lost
                raise held_error(view, held, writer.where)
        self._thread = threading.Thread(target=self._renew_until_ended, name=f"lease-{view}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseError where another run is known to hold it by now."""
        if self._taken_by is not None:
            raise held_error(self._view, self._taken_by, self._writer.where)

    def close(self) -> None:
        """Let the next run have it, if it is still this one's."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(StoreError):  # then it ends by itself
            self._writer.evaluate(_RELEASE, [self._key], [self._own])

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(self._lease_ms / 3_000):
            with contextlib.suppress(StoreError):  # tried again; if it is lost meanwhile, the run's mark tells
                held = self._writer.evaluate(_RENEW, [self._key], [self._own, self._lease_ms])
                if held != self._own:
                    self._taken_by = held
                    return


class RedisWriter:
    """Writes Redis, some hundred rows a command.

    Each command is all or nothing. An error may leave earlier commands of a call in place; making it again is safe.
    Raises StoreError when Redis cannot be reached or refuses.
    """

    def __init__(self, url: str, *, lease_ms: int = LEASE_MS) -> None:
        import redis

        self.where = RedisAddress.parse(url).url
        self._lease_ms = lease_ms
        self._errors = redis.RedisError
        self._client: Any = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=30)
        self.ask("PING")

    def lease(self, view: str) -> RedisLease:
        """Return the lease of a view."""
        return RedisLease(self, view, self._lease_ms)

    def begin_run(self, view: str) -> Run:
        """Return a new run of a view; what earlier runs write from now on is refused."""
        while True:
            last = self.get(run_key(view))
            run = next_run(view, last)
            if self.evaluate(_BEGIN_RUN, [run.key], [last or b"", run.mark]):
                return run

    def write(
        self, run: Run, rows: Sequence[PageRow], notes: Sequence[tuple[bytes, bytes]] = (), *, newer_only: bool = False
    ) -> PageCounts:
        """Write a run's rows that may be written, then its notes."""
        counts = PageCounts()
        for begin in range(0, len(rows), ROWS_PER_SCRIPT_MAX):
            part = rows[begin : begin + ROWS_PER_SCRIPT_MAX]
            keys = [run.key, *(key for row in part for key in (row.key, row.tombstone))]
            told = self._under(run, _WRITE, keys, [run.mark, int(newer_only), *(row.row for row in part)])
            counts = counts.plus(PageCounts(*told))
        if notes:
            self._under(run, _NOTE, [run.key, *(key for key, _ in notes)], [run.mark, *(value for _, value in notes)])
        return counts

    def remove(self, run: Run, keys: Sequence[bytes]) -> int:
        """Remove keys for a run."""
        parts = [keys[begin : begin + ROWS_PER_SCRIPT_MAX] for begin in range(0, len(keys), ROWS_PER_SCRIPT_MAX)]
        return sum(self._under(run, _REMOVE, [run.key, *part], [run.mark])[0] for part in parts)

    def scan(self, begin: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys that begin and end so; a key may come twice."""
        pattern = b"*".join(re.sub(rb"([\\*?\[\]])", rb"\\\1", part) for part in (begin, end))
        cursor: Any = 0
        while True:
            cursor, keys = self.ask("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_KEYS)
            yield from keys
            if not int(cursor):
                return

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write key and value pairs and remove keys in one MULTI."""
        try:
            with self._client.pipeline(transaction=True) as pipeline:
                for key, value in puts:
                    pipeline.set(key, value)
                for key in removes:
                    pipeline.delete(key)
                return sum(pipeline.execute()[len(puts) :])
        except self._errors as error:
            raise StoreError(f"Redis refused MULTI: {error}", where=self.where, next=NEXT) from None

    def update(self, changes: Changes, notes: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Change values by what they are, then write notes; ask anew for what another has changed meanwhile."""
        places: Sequence[int] = range(len(changes.keys))
        for _ in range(SWAPS_MAX):
            if not places:
                break
            places = self._swap(changes, places)
        if places:
            raise StoreError(f"{len(places)} values were changed by others again and again", where=self.where,
                             next="let one consumer have the events of an entity: partition them by it")  # fmt: skip
        if notes:
            self.ask("MSET", *(part for note in notes for part in note))

    def _swap(self, changes: Changes, places: Sequence[int]) -> list[int]:
        """Write the new values of some keys; return the places of those that others have changed meanwhile."""
        keys = [(changes.keys[place], changes.tombstones[place]) for place in places]
        found = self.ask("MGET", *(key for pair in keys for key in pair))
        before, forgotten = found[::2], [each is not None for each in found[1::2]]
        after = changes.values(places, before, forgotten)
        swaps = [
            (place, pair, -1 if old is None else len(old), (old or b"")[:VERSION_BYTES], new)
            for place, pair, old, new in zip(places, keys, before, after, strict=True)
            if new is not None
        ]
        lost = []
        for begin in range(0, len(swaps), ROWS_PER_SCRIPT_MAX):
            part = swaps[begin : begin + ROWS_PER_SCRIPT_MAX]
            told = self.evaluate(_SWAP, [key for each in part for key in each[1]],
                                 [value for each in part for value in each[2:]])  # fmt: skip
            lost += [each[0] for each, is_written in zip(part, told, strict=True) if not is_written]
        return lost

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        return self.ask("GET", key)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let go of the connection."""
        with contextlib.suppress(self._errors):
            self._client.close()

    def ask(self, *command: Any) -> Any:
        """Return what Redis answers to a command."""
        try:
            return self._client.execute_command(*command)
        except self._errors as error:
            raise StoreError(f"Redis refused {command[0]}: {error}", where=self.where, next=NEXT) from None

    def evaluate(self, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """Return what a script gives."""
        try:
            return self._client.register_script(script)(keys=keys, args=arguments)
        except self._errors as error:
            raise StoreError(f"Redis refused a script: {error}", where=self.where, next=NEXT) from None

    def _under(self, run: Run, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> list[int]:
        """Return what a script gives behind the mark. Raises LeaseError where the mark is not the run's."""
        mark, *told = self.evaluate(script, keys, arguments) or [None]
        if mark != run.mark:
            raise lost_run(run, mark, self.where)
        return told
