"""The network store's writer: pages go through a script that compares and writes in one step.

The script looks at the run's mark first. So a run whose lease ended unseen (it was paused, the network was away) is
refused by Redis itself once the next run has begun, and no page of it lands among that one's.

On a cluster a script may touch one slot only, and an entity's rows and tombstone lie in one. So a call becomes a script
for each slot, and a run sets its mark in each of the 16,384 slots when it begins: the check is as strict as on one
server, and costs a run half a second and 2 MB. Only a failover weakens it: a replica that takes over without the
last writes has an old mark in its slots, under which the run before may write and this one may not.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import msgspec

from tailrace.errors import StoreError
from tailrace.features.stores.lease import Holder, held_error
from tailrace.features.stores.protocol import Changes
from tailrace.features.stores.redis_client import RedisClient, ScriptCall
from tailrace.features.stores.redis_cluster_client import ClusterClient
from tailrace.features.stores.redis_scripts import BEGIN_RUN, MARK, NOTE, RELEASE, REMOVE, RENEW, SWAP, WRITE
from tailrace.features.stores.redis_single_client import SingleClient
from tailrace.features.stores.runs import PageCounts, PageRow, Run, lost_run, next_run, run_key

VERSION_BYTES: Final = 48
"""Of a value's beginning. By it and the length it is known whether another has changed the value: a state counts its
changes there."""
SWAPS_MAX: Final = 50
"""How often a value is asked anew that others change meanwhile."""

LEASE_MS: Final = 30_000
"""How long a lease outlives a run that died; one that lives renews it three times in this time."""


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
            self._writer.evaluate(RELEASE, [self._key], [self._own])

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(self._lease_ms / 3_000):
            with contextlib.suppress(StoreError):  # tried again; if it is lost meanwhile, the run's mark tells
                held = self._writer.evaluate(RENEW, [self._key], [self._own, self._lease_ms])
                if held != self._own:
                    self._taken_by = held
                    return


class RedisWriter:
    """Writes Redis, some hundred rows a command: one server, the master behind sentinels, or a cluster.

    Each command is all or nothing. An error may leave earlier commands of a call in place; making it again is safe.
    Raises StoreError when Redis cannot be reached or refuses.
    """

    def __init__(self, url: str, *, lease_ms: int = LEASE_MS) -> None:
        is_cluster = url.partition("://")[0].lower().endswith("+cluster")
        self._client: RedisClient = ClusterClient(url) if is_cluster else SingleClient(url)
        self.where = self._client.where
        self._lease_ms = lease_ms

    def lease(self, view: str) -> RedisLease:
        """Return the lease of a view."""
        return RedisLease(self, view, self._lease_ms)

    def begin_run(self, view: str) -> Run:
        """Return a new run of a view; what earlier runs write from now on is refused."""
        highest: bytes | None = None
        while True:
            last = self.get(run_key(view))
            run = next_run(view, max(last or b"0", highest or b"0", key=_number))
            if not self.evaluate(BEGIN_RUN, [run.key], [last or b"", run.mark]):
                continue
            told = self._client.evaluate(
                [ScriptCall(MARK, [key], [run.number, run.mark]) for key in self._client.marks(run.key)]
            )
            found: bytes = max(told, key=_number, default=run.mark)
            highest = found
            if all(mark == run.mark for mark in told):
                return run

    def write(
        self, run: Run, rows: Sequence[PageRow], notes: Sequence[tuple[bytes, bytes]] = (), *, newer_only: bool = False
    ) -> PageCounts:
        """Write a run's rows that may be written, then its notes."""
        calls = []
        for places in self._client.groups([row.key for row in rows]):
            part = [rows[place] for place in places]
            keys = [key for row in part for key in (row.key, row.tombstone)]
            calls.append(self._call(run, WRITE, keys, [int(newer_only), *(row.row for row in part)]))
        counts = PageCounts()
        for told in self._under(run, calls):
            counts = counts.plus(PageCounts(*told))
        calls = []
        for places in self._client.groups([key for key, _ in notes]):
            part_notes = [notes[place] for place in places]
            calls.append(self._call(run, NOTE, [key for key, _ in part_notes], [value for _, value in part_notes]))
        self._under(run, calls)
        return counts

    def remove(self, run: Run, keys: Sequence[bytes]) -> int:
        """Remove keys for a run."""
        groups = self._client.groups(keys)
        calls = [self._call(run, REMOVE, [keys[place] for place in places], ()) for places in groups]
        return sum(told[0] for told in self._under(run, calls))

    def scan(self, begin: bytes, end: bytes) -> Iterator[bytes]:
        """Yield the keys that begin and end so; a key may come twice."""
        yield from self._client.scan(b"*".join(re.sub(rb"([\\*?\[\]])", rb"\\\1", part) for part in (begin, end)))

    def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
        """Write key and value pairs and remove keys: all at once, on a cluster those of a slot."""
        return self._client.exchange(puts, removes)

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
            self._client.exchange(notes, ())

    def _swap(self, changes: Changes, places: Sequence[int]) -> list[int]:
        """Write the new values of some keys; return the places of those that others have changed meanwhile."""
        keys = [(changes.keys[place], changes.tombstones[place]) for place in places]
        found = self._client.get_many([key for pair in keys for key in pair])
        before, forgotten = found[::2], [each is not None for each in found[1::2]]
        after = changes.values(places, before, forgotten)
        swaps = [
            (place, pair, (-1 if old is None else len(old), (old or b"")[:VERSION_BYTES], new))
            for place, pair, old, new in zip(places, keys, before, after, strict=True)
            if new is not None
        ]
        groups = [[swaps[each] for each in own] for own in self._client.groups([pair[0] for _, pair, _ in swaps])]
        calls = [
            ScriptCall(
                SWAP, [key for _, pair, _ in group for key in pair], [each for *_, words in group for each in words]
            )
            for group in groups
        ]
        return [
            swap[0]
            for group, told in zip(groups, self._client.evaluate(calls), strict=True)
            for swap, is_written in zip(group, told, strict=True)
            if not is_written
        ]

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        return self.ask("GET", key)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def ask(self, *command: Any) -> Any:
        """Return what Redis answers to a command, whose second word is its key."""
        return self._client.ask(*command)

    def evaluate(self, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """Return what a script gives."""
        return self._client.evaluate([ScriptCall(script, keys, arguments)])[0]

    def _call(self, run: Run, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> ScriptCall:
        """Return the call of a script that looks at the mark beside its keys, which are of one group."""
        return ScriptCall(script, [self._client.mark_beside(run.key, keys[0]), *keys], [run.mark, *arguments])

    def _under(self, run: Run, calls: Sequence[ScriptCall]) -> list[list[int]]:
        """Return what scripts give behind the mark. Raises LeaseError where the mark is not the run's."""
        found = []
        for told in self._client.evaluate(calls):
            mark, *rest = told or [None]
            if mark != run.mark:
                raise lost_run(run, mark, self.where)
            found.append(rest)
        return found


def _number(mark: bytes) -> int:
    return int(mark.split()[0])
