"""Retrieval: all views of all entities of a batch, in one fetch. Without a store in time, it answers defaults."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.batch import Degraded, Provenance
from tailrace.deadline import Clock
from tailrace.errors import StoreError
from tailrace.features.breaker import Breaker
from tailrace.features.keys import EntityId, entity_checks
from tailrace.features.rows import RowCodec
from tailrace.features.stores.protocol import OnlineStore
from tailrace.features.view_rows import ViewRows


class Retrieval:
    """Reads the views of one pipeline. With an embedded store, `read` never suspends.

    breaker: made for a network store (one whose `network` is true), None for an embedded one, whose failures cost
    no time. failure: the last failure of the store, for the log and the status. fair_ns: with less time than this a
    store that is late is not held for broken: one caller in a hurry would open the breaker for all.
    """

    def __init__(self, codecs: Sequence[RowCodec], store: OnlineStore, clock: Clock, fair_ns: int = 0) -> None:
        self._codecs = tuple(codecs)
        self._fetch = store.fetch
        self._fair_ns = fair_ns
        self._now_ns = clock.now_ns
        self._wall_ns = clock.wall_ns
        self.network = store.network
        self.breaker = Breaker(clock) if store.network else None
        self.failure: Exception | None = None

    async def read(self, ids: Sequence[Sequence[EntityId]], deadline_ns: int) -> list[ViewRows]:
        """Return the values of each view; `ids[i]` are the entities asked of `codecs[i]`.

        Two views of one entity may be given the same list, whose checks are then made once. deadline_ns: monotonic.
        A store that is late or gone gives defaults with the provenance TIMEOUT; nothing of the store's is raised.
        """
        codecs, breaker = self._codecs, self.breaker
        if not any(ids):
            return self._unpack(ids, [])
        if breaker is not None and not breaker.allows():
            return self._defaults(ids)
        keys: list[bytes] = []
        for codec, codec_ids in zip(codecs, ids, strict=True):
            keys += codec.keys(codec_ids)
        is_fair = breaker is not None and deadline_ns - self._now_ns() >= self._fair_ns
        try:
            rows = await self._fetch(keys, deadline_ns)
        except (TimeoutError, ConnectionError, StoreError) as error:
            self.failure = error
            if breaker is not None and (is_fair or not isinstance(error, TimeoutError)):
                breaker.failed()
            return self._defaults(ids)
        if breaker is not None:
            breaker.succeeded()
        return self._unpack(ids, rows)

    def _unpack(self, ids: Sequence[Sequence[EntityId]], rows: list[bytes | None]) -> list[ViewRows]:
        wall_ns = self._wall_ns()
        found = []
        begin, last, checks = 0, None, None
        for codec, codec_ids in zip(self._codecs, ids, strict=True):
            if codec_ids is not last:
                last, checks = codec_ids, entity_checks(codec_ids)
            end = begin + len(codec_ids)
            found.append(codec.unpack(codec_ids, rows[begin:end], wall_ns, checks))
            begin = end
        return found

    def _defaults(self, ids: Sequence[Sequence[EntityId]]) -> list[ViewRows]:
        """Answer for a store that did not."""
        why = Degraded.STORE_TIMEOUT if isinstance(self.failure, TimeoutError) else Degraded.STORE_ERROR
        pairs = zip(self._codecs, ids, strict=True)
        return [codec.defaults(len(codec_ids), Provenance.TIMEOUT, why) for codec, codec_ids in pairs]
