"""Layer 2 of a batch whose views give each other's keys: one fetch a hop, all within the one deadline.

A pipeline without derived keys has none of this: its step is `FeaturesStep`, and its one fetch is as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from tailrace.batch import Batch, Degraded
from tailrace.deadline import LayerLimit
from tailrace.features.cache import CacheLimits
from tailrace.features.cached_retrieval import CachedRetrieval
from tailrace.features.derived_ids import DerivedIds, KeyedRows
from tailrace.features.events import Events
from tailrace.features.keys import EntityId
from tailrace.features.late import LateError
from tailrace.features.retrieval import Retrieval
from tailrace.features.step import FeaturesStep, OnDemandFeature, ViewRead
from tailrace.features.stores.protocol import Fetch
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewCodec


class DistinctFetch:
    """Fetches each key once: many items are of one category."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> Sequence[bytes | None]:
        """Return the value of each key, in order. Raises what the store's fetch does."""
        distinct = list(dict.fromkeys(keys))
        if len(distinct) == len(keys):
            return await self._fetch(keys, deadline_ns)
        try:
            found = await self._fetch(distinct, deadline_ns)
        except LateError as error:
            read = dict(zip(distinct, error.rows, strict=False))
            rows = list(map(read.__getitem__, takewhile(read.__contains__, keys)))
            raise LateError(str(error), rows, is_cold=error.is_cold) from None
        return list(map(dict(zip(distinct, found, strict=True)).__getitem__, keys))


class HopRetrieval(Retrieval):
    """Reads the views of a later hop: from the store of the first one, with its breaker."""

    def __init__(self, codecs: Sequence[ViewCodec], first: Retrieval) -> None:
        super().__init__(codecs, first.store, first.clock, first.fair_ns, first.health)
        self._fetch = DistinctFetch(first.store.fetch).fetch

    async def read(
        self, ids: Sequence[Sequence[EntityId]], deadline_ns: int, current: Sequence[Events | None] = ()
    ) -> list[ViewRows]:
        """Return the values of each view; see `Retrieval.read`.

        Where the hops before have used the time up, a network store is not asked: its answer would come too late, and
        a breaker that is half open would lose one of its probes. An embedded store answers from memory all the same.
        """
        if self.network and any(ids) and self._now_ns() >= deadline_ns:
            return self._defaults(ids, Degraded.STORE_TIMEOUT)
        return await super().read(ids, deadline_ns, current)


class Hop:
    """Views that are read together, by keys that views of the hops before have given.

    views: which of the batch's they are. keys: of each; one for all views of one key.
    """

    def __init__(self, retrieval: Retrieval, views: slice, keys: Sequence[DerivedIds]) -> None:
        self.retrieval = retrieval
        self._views = views
        self._keys = tuple(dict.fromkeys(keys))
        self._places = [self._keys.index(key) for key in keys]

    def asked(self, batch: Batch) -> list[KeyedRows]:
        """Return which rows of each view are asked for by which ids; views of one key share them."""
        found = [key.read(batch) for key in self._keys]
        return [found[place] for place in self._places]

    async def read(self, batch: Batch, limit_ns: int, current: Sequence[Events | None]) -> list[ViewRows]:
        """Return the rows of each view. current: for each view of the batch, or none."""
        asked = self.asked(batch)
        events = [rows.events(each) for rows, each in zip(asked, current[self._views], strict=True)] if current else ()
        found = await self.retrieval.read([rows.ids for rows in asked], limit_ns, events)
        codecs = self.retrieval.codecs
        return [rows.spread(each, codec) for rows, each, codec in zip(asked, found, codecs, strict=True)]

    def for_samples(self) -> Hop:
        """Return a hop that reads the same views for samples; see `FeaturesStep.for_samples`."""
        keys = [key.for_samples() for key in self._keys]
        return Hop(self.retrieval, self._views, [keys[place] for place in self._places])


class FeaturesInHops(FeaturesStep):
    """Reads the views of a batch hop by hop, and computes its on-demand features.

    retrieval: of the first hop, whose views come first. hops: the later ones, in order.
    """

    def __init__(
        self,
        retrieval: Retrieval,
        views: Sequence[ViewRead],
        on_demand: Sequence[OnDemandFeature],
        limit: LayerLimit,
        hops: Sequence[Hop],
    ) -> None:
        super().__init__(retrieval, views, on_demand, limit)
        self.hops = tuple(hops)

    @property
    def retrievals(self) -> tuple[Retrieval, ...]:
        """What reads each hop, in order. They share the breaker, the last failure and the cache."""
        return (self.retrieval, *(hop.retrieval for hop in self.hops))

    async def run(self, batch: Batch) -> None:
        """Fill `view_rows`, `views` and `on_demand`; note in `degraded` what is stale or could not be read."""
        limit_ns = self._limit.at_ns(batch.deadline_ns)
        current: Sequence[Events | None] = ()
        if self._looks_back:
            current = await self._current(batch, limit_ns)
        first = len(self.retrieval.codecs)
        batch.view_rows = found = await self.retrieval.read(self.ids(batch), limit_ns, current[:first])
        for hop in self.hops:
            found += await hop.read(batch, limit_ns, current)  # the keys of the next hop are read from them
        self.take_views(batch, found)
        for feature in self.on_demand:
            batch.on_demand[feature.name] = feature.column(batch)

    def for_samples(self) -> FeaturesInHops:
        """Return a step that reads every hop, whoever is known; see `FeaturesStep.for_samples`."""
        hops = [hop.for_samples() for hop in self.hops]
        return FeaturesInHops(self.retrieval, self.views, self.on_demand, self._limit, hops)

    def keep_rows(self, limits: CacheLimits) -> None:
        """Keep what is read from now on in memory, in one cache for all hops; see `FeaturesStep.keep_rows`."""
        if self._may_keep(limits):
            self.retrieval = first = CachedRetrieval(self.retrieval, limits)
            for hop in self.hops:
                hop.retrieval = CachedRetrieval(hop.retrieval, limits, beside=first)
