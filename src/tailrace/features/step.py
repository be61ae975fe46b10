"""Layer 2 of a batch: all views in one round trip, then the on-demand features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, LazyColumn, Reader
from tailrace.deadline import LayerLimit
from tailrace.features.retrieval import Retrieval
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewSpec


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
    """One view of a pipeline: the key field its ids are read from, and the class of its columns.

    expands: whether the key is the list that makes the rows, so that a row of the view is a row of the batch.
    """

    def __init__(self, key: str, columns: type[ViewColumns], *, expands: bool) -> None:
        self.key = key
        self.columns = columns
        self.expands = expands


class EntityIds:
    """Reads the entity ids of a batch from one key field: one a request, or one a row where it is a list."""

    def __init__(self, key: str, *, expands: bool) -> None:
        self.key = key
        self._read = attrgetter(key)
        self._expands = expands

    def read(self, batch: Batch) -> list[Any]:
        """Return the ids."""
        read = self._read
        if self._expands:
            return [item for request in batch.requests for item in read(request)]
        return list(map(read, batch.requests))


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

    in_flight_max: how many batches may wait for the store at once.
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
        self.suspends = bool(views) and retrieval.network
        self.in_flight_max = 2 if self.suspends else 1
        self._limit = limit
        keys = {view.key: view.expands for view in views}
        self._ids = tuple(EntityIds(key, expands=expands) for key, expands in keys.items())
        self._key_places = None if len(keys) == len(views) else [list(keys).index(view.key) for view in views]

    async def run(self, batch: Batch) -> None:
        """Fill `view_rows`, `views` and `on_demand`; note in `degraded` what is stale or could not be read."""
        if self.views:
            self.take_views(batch, await self.retrieval.read(self.ids(batch), self._limit.at_ns(batch.deadline_ns)))
        for feature in self.on_demand:
            batch.on_demand[feature.name] = feature.column(batch)

    def ids(self, batch: Batch) -> list[list[Any]]:
        """Return the entity ids that each view is asked for; views of one key share a list."""
        found = [ids.read(batch) for ids in self._ids]
        return found if self._key_places is None else [found[place] for place in self._key_places]

    def take_views(self, batch: Batch, found: list[ViewRows]) -> None:
        """Open the columns of the views, and note why rows are degraded: values stale, or a store late or gone."""
        batch.view_rows = found
        for rows, view in zip(found, self.views, strict=True):
            row_request = None if view.expands else batch.row_request
            batch.views.append(view.columns(rows, row_request))
            if rows.degraded is not None:
                batch.add_degraded(rows.degraded.copy() if row_request is None else rows.degraded[row_request])
