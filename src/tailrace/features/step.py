"""Layer 2 of a batch: all views in one round trip, then the on-demand features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Degraded, LazyColumn
from tailrace.deadline import LayerLimit
from tailrace.features.cache import CacheLimits
from tailrace.features.cached_retrieval import CachedRetrieval, ttl_ns_of
from tailrace.features.current import CurrentEvents, EventSink
from tailrace.features.entity_ids import IdReader
from tailrace.features.events import Events
from tailrace.features.retrieval import Retrieval
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewCodec, ViewSpec
from tailrace.readers import Reader


class ViewColumns(msgspec.Struct, frozen=True, dict=True, eq=False):
    """The columns of a view in a batch: `profile.avg_amount_90d` is an array, shape (rows,), made when first asked.

    A subclass made by `view_columns_type` has a property for every column. row_request: the request of each row, where
    the rows of the batch are not the view's own. Frozen, as the columns of the request are.
    """

    _rows: ViewRows
    _row_request: NDArray[np.intp] | None

    def __getattr__(self, name: str) -> NDArray[Any]:
        raise AttributeError(f"the view has no column {name!r}")


def view_columns_type(spec: ViewSpec) -> type[ViewColumns]:
    """Return the columns class of a view."""
    columns = {column.name: _view_column(column.name) for column in spec.columns}
    return type(f"{spec.name}Columns", (ViewColumns,), columns)


def _view_column(name: str) -> LazyColumn:
    def make(columns: ViewColumns) -> NDArray[Any]:
        column = columns._rows.column(name)
        return column if columns._row_request is None else column[columns._row_request]

    return LazyColumn(name, make)


class ViewRead:
    """One view of a pipeline: what reads its ids, and the class of its columns.

    ids: one for all views of one key; None where another view gives the key (hops.py). expands: whether a row of the
    view is a row of the batch, and not a request. current: reads the events that its rows are asked for; None for a
    view that looks back from none.
    """

    def __init__(
        self, ids: IdReader | None, columns: type[ViewColumns], *, expands: bool, current: CurrentEvents | None = None
    ) -> None:
        self.ids = ids
        self.columns = columns
        self.expands = expands
        self.current = current


class OnDemandFeature:
    """One on-demand feature, bound: the user's function and what reads its arguments from a batch."""

    def __init__(self, name: str, function: Callable[..., Any], arguments: Sequence[Reader]) -> None:
        self.name = name
        self.function = function
        self.arguments = tuple(arguments)
        self._reads = [reader.read for reader in arguments]

    def column(self, batch: Batch) -> NDArray[Any]:
        """Return its column, (rows,), read-only. Raises ValueError for another shape: NumPy would stretch it."""
        column = self.function(*[read(batch) for read in self._reads])
        if type(column) is not np.ndarray or column.shape != (batch.rows,):
            column = np.asarray(column)
            if column.shape not in ((), (batch.rows,)):
                raise ValueError(f"@on_demand {self.name} gives shape {column.shape} for {batch.rows} rows")
            return np.broadcast_to(column, (batch.rows,))
        column.flags.writeable = False
        return column


class FeaturesStep:
    """Reads the views of a batch and computes its on-demand features. Waits only where the store does.

    retrieval: of the views whose ids the requests carry. in_flight_max: how many batches may wait for the store at
    once. events: takes the requests as events before the views are read, so that each is seen by all that come later;
    None where they are none.
    """

    def __init__(
        self,
        retrieval: Retrieval,
        views: Sequence[ViewRead],
        on_demand: Sequence[OnDemandFeature],
        limit: LayerLimit,
    ) -> None:
        self.retrieval = retrieval
        self.views = tuple(views)
        self.on_demand = tuple(on_demand)
        self.events: EventSink | None = None
        self.suspends = bool(views) and retrieval.network
        self.in_flight_max = 2 if self.suspends else 1
        self._limit = limit
        self._readers = tuple(dict.fromkeys(view.current for view in views if view.current is not None))
        self._reader_places = [-1 if view.current is None else self._readers.index(view.current) for view in views]
        self._looks_back = bool(self._readers)
        readers = [view.ids for view in views if view.ids is not None]
        self._ids = tuple(dict.fromkeys(readers))
        are_own = len(self._ids) == len(readers)
        self._key_places = None if are_own else [self._ids.index(reader) for reader in readers]

    @property
    def retrievals(self) -> tuple[Retrieval, ...]:
        """What reads the views, a hop each."""
        return (self.retrieval,)

    @property
    def codecs(self) -> list[ViewCodec]:
        """The codec of each view."""
        return [codec for retrieval in self.retrievals for codec in retrieval.codecs]

    def for_samples(self) -> FeaturesStep:
        """Return a step that reads as much for samples, whose entities nobody knows, as this one for any requests.

        Of a later hop each row asks for a key of its own; what was read in the hops before stays as it was found. Here
        every batch reads all views.
        """
        return self

    def record_to(self, events: EventSink) -> None:
        """Have requests counted as events from now on: what was sent to warm up was none."""
        self.events = events
        self.suspends = self.suspends or events.suspends
        self.in_flight_max = 2 if self.suspends else 1

    async def run(self, batch: Batch) -> None:
        """Fill `view_rows`, `views` and `on_demand`; note in `degraded` what is stale or could not be read."""
        if self.views:
            limit_ns = self._limit.at_ns(batch.deadline_ns)
            current: Sequence[Events | None] = ()
            if self._looks_back:
                current = await self._current(batch, limit_ns)
            self.take_views(batch, await self.retrieval.read(self.ids(batch), limit_ns, current))
        for feature in self.on_demand:
            batch.on_demand[feature.name] = feature.column(batch)

    def keep_rows(self, limits: CacheLimits) -> None:
        """Keep what is read from now on in memory; before traffic.

        Nothing is kept of an embedded store, nor of a stream view that does not say how stale it may be.
        """
        if self._may_keep(limits):
            self.retrieval = CachedRetrieval(self.retrieval, limits)

    def _may_keep(self, limits: CacheLimits) -> bool:
        return self.retrieval.network and any(ttl_ns_of(codec.spec, limits) for codec in self.codecs)

    def ids(self, batch: Batch) -> list[list[Any]]:
        """Return the entity ids that each view is asked for by the request; views of one key share a list."""
        found = [ids.read(batch) for ids in self._ids]
        return found if self._key_places is None else [found[place] for place in self._key_places]

    async def _current(self, batch: Batch, limit_ns: int) -> Sequence[Events | None]:
        """Return the events that the rows of each view are asked for; counted first, where requests are events."""
        if self.events is not None:
            await self._record(self.events, batch, limit_ns)
        found = [*(reader.read(batch) for reader in self._readers), None]
        return [found[place] for place in self._reader_places]

    async def _record(self, events: EventSink, batch: Batch, limit_ns: int) -> None:
        """Have the requests counted as events; note for which that is not known."""
        lost = await events.record(batch.requests, limit_ns)
        if lost is not None:
            rows = lost if batch.row_request is None else lost[batch.row_request]
            batch.add_degraded(rows * np.uint8(Degraded.EVENT_LOST))

    def take_views(self, batch: Batch, found: list[ViewRows]) -> None:
        """Open the columns of the views, and note why rows are degraded: values stale, or a store late or gone."""
        batch.view_rows = found
        for rows, view in zip(found, self.views, strict=True):
            row_request = None if view.expands else batch.row_request
            batch.views.append(view.columns(rows, row_request))
            if rows.degraded is not None:
                batch.add_degraded(rows.degraded.copy() if row_request is None else rows.degraded[row_request])
