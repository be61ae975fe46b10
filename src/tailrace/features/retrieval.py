"""Retrieval: all views of all entities of a batch, in one fetch. Without a store in time, it answers defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tailrace.batch import Degraded, Provenance
from tailrace.breaker import Breaker
from tailrace.deadline import NS_PER_MS, Clock
from tailrace.errors import StoreError
from tailrace.features.events import Events
from tailrace.features.keys import EntityId, entity_checks
from tailrace.features.late import LateError
from tailrace.features.stores.protocol import Fetch, OnlineStore
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewCodec

LATE_NS_MIN: Final = 1 * NS_PER_MS
"""A fetch that took less than this was not late, however late its batch came to it."""
PROBE_SLACK_NS: Final = 100 * NS_PER_MS
"""A probe of the breaker that has taken so much longer than a fetch may take is lost."""
_NO_LIMIT_NS: Final = 1 << 62


class StoreHealth:
    """How a store has answered one pipeline, for all that read it. failure: its last one."""

    def __init__(self, breaker: Breaker | None) -> None:
        self.breaker = breaker
        self.failure: Exception | None = None


class Retrieval:
    """Reads the views of one pipeline that are read together. With an embedded store, `read` never suspends.

    breaker: made for a network store (one whose `network` is true), None for an embedded one: that leaves itself alone
    when it is late, and its other failures cost no time. health: of another retrieval from the same store, to share its
    breaker and last failure. fair_ns: with less time than this a store that is late does not count as broken: one
    caller in a hurry would open the breaker for all; it is half of what a fetch may take, or 0 where that is not
    limited. slow_ns: from there on a fetch counts as failed, whatever it gave. observe_fetch: is called for each fetch
    with how long it took, and whether it was late.
    """

    def __init__(
        self,
        codecs: Sequence[ViewCodec],
        store: OnlineStore,
        clock: Clock,
        fair_ns: int = 0,
        health: StoreHealth | None = None,
    ) -> None:
        self.codecs = tuple(codecs)
        self._no_events = (None,) * len(self.codecs)
        self._fetch: Fetch = store.fetch
        self.store = store
        self.clock = clock
        self.fair_ns = fair_ns
        self.slow_ns = 2 * fair_ns or _NO_LIMIT_NS
        self._now_ns = clock.now_ns
        self._wall_ns = clock.wall_ns
        self.network = store.network
        if health is None:
            health = StoreHealth(Breaker(clock, lost_ns=2 * fair_ns + PROBE_SLACK_NS) if store.network else None)
        self.health = health
        self.breaker = health.breaker
        self.observe_fetch: Callable[[int, bool], None] = _observe_nothing

    @property
    def failure(self) -> Exception | None:
        """The last failure of the store, for the log and the status."""
        return self.health.failure

    @failure.setter
    def failure(self, error: Exception | None) -> None:
        self.health.failure = error

    async def read(
        self, ids: Sequence[Sequence[EntityId]], deadline_ns: int, current: Sequence[Events | None] = ()
    ) -> list[ViewRows]:
        """Return the values of each view; `ids[i]` are the entities asked of `codecs[i]`.

        Two views of one entity may be given the same list, whose checks are then made once. deadline_ns: monotonic.
        current: for each view, the events that its rows are asked for; none where no view looks back from one.
        A store that is late or gone gives defaults with the provenance TIMEOUT; nothing of the store's is raised.
        """
        codecs, breaker = self.codecs, self.breaker
        if not any(ids):
            return self._unpack(ids, [], current)
        if breaker is not None and not breaker.allows():
            return self._defaults(ids, reason_of(self.failure))
        keys: list[bytes] = []
        for codec, codec_ids in zip(codecs, ids, strict=True):
            keys += codec.keys(codec_ids)
        began_ns = self._now_ns()
        try:
            rows = await self._fetch(keys, deadline_ns)
        except (TimeoutError, ConnectionError, StoreError) as error:
            self._note_failure(error, began_ns, deadline_ns)
            if isinstance(error, LateError) and error.rows:
                return self._unpack_some(ids, error.rows, current)
            return self._defaults(ids, reason_of(error))
        ended_ns = self._now_ns()
        if breaker is not None:
            breaker.note(ended_ns, is_failure=ended_ns - began_ns > self.slow_ns)
        self.observe_fetch(ended_ns - began_ns, ended_ns > deadline_ns and ended_ns - began_ns > LATE_NS_MIN)
        return self._unpack(ids, rows, current)

    def _note_failure(self, error: Exception, began_ns: int, deadline_ns: int) -> None:
        """Note a fetch that failed, for the breaker, the metrics and the log."""
        ended_ns, breaker = self._now_ns(), self.breaker
        if ended_ns > deadline_ns and ended_ns - began_ns > LATE_NS_MIN:
            self.observe_fetch(ended_ns - began_ns, True)
        is_fair = deadline_ns - began_ns >= self.fair_ns
        if breaker is not None and (is_fair or not isinstance(error, TimeoutError)):
            breaker.note(ended_ns, is_failure=True)
        if not (isinstance(error, LateError) and error.is_cold):
            self.failure = error

    def _unpack(
        self, ids: Sequence[Sequence[EntityId]], rows: Sequence[bytes | None], current: Sequence[Events | None]
    ) -> list[ViewRows]:
        wall_ns = self._wall_ns()
        found = []
        begin, last, checks = 0, None, None
        for codec, codec_ids, events in zip(self.codecs, ids, current or self._no_events, strict=True):
            if codec_ids is not last:
                last, checks = codec_ids, entity_checks(codec_ids)
            end = begin + len(codec_ids)
            found.append(codec.unpack(codec_ids, rows[begin:end], wall_ns, checks, events))
            begin = end
        return found

    def _unpack_some(
        self, ids: Sequence[Sequence[EntityId]], rows: list[bytes | None], current: Sequence[Events | None]
    ) -> list[ViewRows]:
        """Return the values of the first keys, which were read in time, and defaults for the others."""
        in_time = len(rows)
        found = self._unpack(ids, rows + [None] * (sum(map(len, ids)) - in_time), current)
        for view_rows in found:
            if in_time < len(view_rows):
                view_rows.mark_late(in_time)
            in_time = max(in_time - len(view_rows), 0)
        return found

    def _defaults(self, ids: Sequence[Sequence[EntityId]], why: Degraded) -> list[ViewRows]:
        """Answer for a store that did not."""
        pairs = zip(self.codecs, ids, strict=True)
        return [codec.defaults(len(codec_ids), Provenance.TIMEOUT, why) for codec, codec_ids in pairs]


def reason_of(failure: Exception | None) -> Degraded:
    """Return why a store's failure degrades an answer."""
    return Degraded.STORE_TIMEOUT if isinstance(failure, TimeoutError) else Degraded.STORE_ERROR


def _observe_nothing(took_ns: int, is_late: bool) -> None:
    """Take the place of an observer where nobody counts."""
