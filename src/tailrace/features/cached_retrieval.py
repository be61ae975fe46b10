"""Retrieval from a network store through the hot cache: no wait for what is there, one flight for what is not.

A batch's rows degrade one by one: fresh (from the cache or the store), else stale (from the cache, past its time, since
the store failed), else the view's defaults. A stale one says both that it is old, and why nothing newer came.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence, Set
from itertools import accumulate
from typing import Final

from tailrace.batch import Degraded, Provenance
from tailrace.features.cache import CacheLimits, Entry, HotCache, refresh_of, row_of
from tailrace.features.events import Events
from tailrace.features.flights import Flight, Flights
from tailrace.features.keys import EntityId
from tailrace.features.retrieval import LATE_NS_MIN, Retrieval, reason_of
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewSpec


def ttl_ns_of(spec: ViewSpec, limits: CacheLimits) -> int:
    """Return how old a row of a view may be that is kept; 0 where none may be."""
    return limits.ttl_ns if spec.kept_ns_max is None else min(limits.ttl_ns, spec.kept_ns_max)


class CachedRetrieval(Retrieval):
    """Reads the views of one pipeline, from its cache first. `read` suspends only where a row must be waited for.

    retrieval: the one whose place it takes, before traffic: its codecs, store, breaker and last failure. beside: of
    another hop of the same pipeline, whose cache and flights it shares.
    """

    def __init__(self, retrieval: Retrieval, limits: CacheLimits, *, beside: CachedRetrieval | None = None) -> None:
        super().__init__(retrieval.codecs, retrieval.store, retrieval.clock, retrieval.fair_ns, retrieval.health)
        self.cache: Final[HotCache] = HotCache(limits) if beside is None else beside.cache
        self._ttls_ns = [ttl_ns_of(codec.spec, limits) for codec in self.codecs]
        self._flights: Flights = (
            Flights(self.store.fetch, self.clock, self._land) if beside is None else beside._flights
        )

    async def read(
        self, ids: Sequence[Sequence[EntityId]], deadline_ns: int, current: Sequence[Events | None] = ()
    ) -> list[ViewRows]:
        """Return the values of each view; see `Retrieval.read`."""
        keys: list[bytes] = []
        for codec, codec_ids in zip(self.codecs, ids, strict=True):
            keys += codec.keys(codec_ids)
        if not keys:
            return self._unpack(ids, [], current)
        entries = list(map(self.cache.get, keys))
        if None not in entries and min(map(refresh_of, entries)) > self._now_ns():
            self.cache.hits += len(keys)
            return self._unpack(ids, list(map(row_of, entries)), current)
        return await self._read_due(ids, keys, entries, deadline_ns, current)

    async def _read_due(
        self,
        ids: Sequence[Sequence[EntityId]],
        keys: list[bytes],
        entries: list[Entry | None],
        deadline_ns: int,
        current: Sequence[Events | None],
    ) -> list[ViewRows]:
        """Have read what is due; wait for what is not there, or has expired."""
        now_ns = self._now_ns()
        due = [place for place, entry in enumerate(entries) if entry is None or entry.refresh_ns <= now_ns]
        missing = [place for place in due if (entry := entries[place]) is None or entry.expires_ns <= now_ns]
        ends = list(accumulate(map(len, ids)))
        due_ttls_ns = {keys[place]: self._ttls_ns[bisect_right(ends, place)] for place in due}
        self._count(ids, sum(due_ttls_ns[keys[place]] > 0 for place in missing))
        flights, refusal = self._flights_of(due_ttls_ns, {keys[place] for place in missing}, deadline_ns)
        for flight in dict.fromkeys(flights[keys[place]] for place in missing if keys[place] in flights):
            await flight.wait(deadline_ns - self._now_ns())
            if not flight.is_over:
                self._note_slow(flight)
        rows = [None if entry is None else entry.row for entry in entries]
        stale: list[int] = []
        late: list[int] = []
        why, now_ns = Degraded(0), self._now_ns()
        for place in missing:
            landed = flights.get(keys[place])
            if landed is not None and landed.is_over and landed.error is None:
                rows[place] = landed.rows[keys[place]]
                continue
            why |= refusal if landed is None else _reason_without(landed)
            kept = entries[place]
            if kept is not None and self.cache.is_usable(kept, now_ns):
                stale.append(place)
            else:
                rows[place] = None
                late.append(place)
        found = self._unpack(ids, rows, current)
        _mark(found, stale, Provenance.STALE, why | Degraded.STALE_FEATURES)
        _mark(found, late, Provenance.TIMEOUT, why)
        return found

    def _flights_of(
        self, ttls_ns: Mapping[bytes, int], awaited: Set[bytes], deadline_ns: int
    ) -> tuple[dict[bytes, Flight], Degraded]:
        """Return the flight of each key: one under way, or one for all the others; and why that may not start.

        awaited: the keys whose rows the batch waits for; the others are read anew behind it. A row that may not be kept
        has none under way: that may have begun before the last event, and is not shared.
        """
        flights: dict[bytes, Flight] = {}
        own: dict[bytes, int] = {}
        for key, ttl_ns in ttls_ns.items():
            if (flight := self._flights.find(key, deadline_ns)) is not None:
                flights[key] = flight
            else:
                own[key] = ttl_ns
        if not own:
            return flights, Degraded(0)
        if not self._flights.has_room(is_awaited=not awaited.isdisjoint(own)):
            return flights, Degraded.STORE_TIMEOUT
        if self.breaker is not None and not self.breaker.allows():
            return flights, reason_of(self.failure)
        return flights | dict.fromkeys(own, self._flights.start(own, deadline_ns)), Degraded(0)

    def _count(self, ids: Sequence[Sequence[EntityId]], misses: int) -> None:
        """Count the rows of views that are kept: those that were there, and those that were not."""
        cache = self.cache
        cache.misses += misses
        cache.hits += sum(len(own) for own, ttl_ns in zip(ids, self._ttls_ns, strict=True) if ttl_ns) - misses

    def _note_slow(self, flight: Flight) -> None:
        """Note that a batch's time is over before its flight is."""
        now_ns = self._now_ns()
        self.failure = TimeoutError("the store did not answer in time")
        if self.breaker is not None and not flight.is_counted and now_ns - flight.began_ns >= self.fair_ns:
            flight.is_counted = True
            self.breaker.note(now_ns, is_failure=True)

    def _land(self, flight: Flight, keys: list[bytes]) -> None:
        """Keep what a flight has brought of some keys; note for the breaker, the metrics and the log how it went."""
        ended_ns, error = self._now_ns(), flight.error
        took_ns = ended_ns - flight.began_ns
        is_late = ended_ns > flight.due_ns and took_ns > LATE_NS_MIN
        if error is None or is_late:
            self.observe_fetch(took_ns, is_late)
        if error is not None:
            self.failure = error
        if self.breaker is not None and not flight.is_counted:
            self.breaker.note(ended_ns, is_failure=error is not None or took_ns > self.slow_ns)
        if error is None:
            put = self.cache.put
            for key in keys:
                put(key, flight.rows[key], flight.began_ns, flight.ttls_ns[key])


def _reason_without(flight: Flight) -> Degraded:
    """Return why a row was not read by its flight: that is late, or has failed."""
    return reason_of(flight.error) if flight.is_over else Degraded.STORE_TIMEOUT


def _mark(found: Sequence[ViewRows], places: Sequence[int], provenance: Provenance, why: Degraded) -> None:
    """Note for some of all views' rows where their values come from, and why."""
    if not places:
        return
    begin = 0
    for rows in found:
        end = begin + len(rows)
        own = [place - begin for place in places if begin <= place < end]
        if provenance is Provenance.STALE:  # a row that was refused is no stale one: it has the defaults
            before = rows.provenance
            own = [place for place in own if before[place] <= Provenance.STALE]
        if own:
            rows.mark(own, provenance, why)
        begin = end
