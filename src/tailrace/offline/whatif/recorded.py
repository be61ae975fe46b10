"""Features as they were served, in the place of what a store has now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Degraded, Provenance
from tailrace.compile.wiring import Origin, Wire, Wiring
from tailrace.features.step import FeaturesStep
from tailrace.features.view_rows import ViewRows
from tailrace.monitor.samples import StoredSample

_PROVENANCES: Final = {each.name.lower(): int(each) for each in Provenance}


class RecordedFeatures:
    """Puts what samples have recorded into a batch that layer 2 has filled.

    on_demand: whether features that are computed are taken as recorded, too; else they are computed again from what is.
    """

    def __init__(self, wiring: Wiring, *, on_demand: bool) -> None:
        self._wiring = wiring
        self._takes_on_demand = on_demand
        self._columns = [
            {column.name: f"{view.__name__}.{column.name}" for column in view.spec.columns} for view in wiring.views
        ]
        self._columns = [
            {column: name for column, name in columns.items() if name in wiring.features} for columns in self._columns
        ]
        self._on_demand = [name for name, each in wiring.features.items() if each.origin is Origin.ON_DEMAND]

    @property
    def needs_store(self) -> bool:
        """Whether something is read from a view that samples do not have: by a rule, a stage or a computed feature."""
        return any(
            wire.origin is Origin.VIEW and not self._has(wire)
            for wires in (*self._wiring.rules, list(self._wiring.chosen_by.values()), *self._computed())
            for wire in wires
        )

    @property
    def needed(self) -> frozenset[str]:
        """The features that a sample must have."""
        views = {name for columns in self._columns for name in columns.values()}
        return frozenset(views | set(self._on_demand if self._takes_on_demand else ()))

    def apply(self, features: FeaturesStep, batch: Batch, samples: Sequence[StoredSample]) -> None:
        """Take the values of samples, one a request, after the step has run.

        Raises ValueError, TypeError for what its column cannot hold.
        """
        batch.views, batch.degraded = [], None
        found = [self._rows(place, rows, batch, samples) for place, rows in enumerate(batch.view_rows)]
        features.take_views(batch, found)
        for feature in features.on_demand:
            computed = batch.on_demand[feature.name] = feature.column(batch)
            if self._takes_on_demand and feature.name in self._wiring.features:
                values = _by_row(batch, [each.features[feature.name] for each in samples])
                batch.on_demand[feature.name] = _array(values, computed.dtype)

    def _has(self, wire: Wire) -> bool:
        """Return whether samples have all that a wire reads of a view."""
        columns = {column.name for column in self._wiring.views[wire.view].spec.columns}
        return ({wire.name} if wire.name else columns) <= self._columns[wire.view].keys()

    def _computed(self) -> Iterator[list[Wire]]:
        """Give what features read that are computed again."""
        for name, (_, wires) in self._wiring.on_demand.items():
            if not self._takes_on_demand or name not in self._wiring.features:
                yield wires

    def _rows(self, place: int, rows: ViewRows, batch: Batch, samples: Sequence[StoredSample]) -> ViewRows:
        """Return the rows of a view as samples have them."""
        view, expands = self._wiring.views[place].__name__, self._wiring.expands(place)

        def column(values: list[Any]) -> list[Any]:
            if batch.row_bounds is None:
                return values
            return _by_row(batch, values) if expands else [each[0] if each else None for each in values]

        data, strings = rows.data.copy(), dict(rows.strings)
        for name, feature in self._columns[place].items():
            values = column([each.features[feature] for each in samples])
            if name in strings:
                strings[name] = ["" if each is None else str(each) for each in values]
            else:
                data[name] = _array(values, data.dtype[name].base)
        told = column([each.provenance.get(view, "fresh") for each in samples])
        noted = np.array([_PROVENANCES.get(each or "fresh", 0) for each in told], np.uint8)
        degraded = np.where(noted == Provenance.STALE, Degraded.STALE_FEATURES, 0)
        degraded = np.where(noted == Provenance.TIMEOUT, Degraded.STORE_TIMEOUT, degraded).astype(np.uint8)
        return ViewRows(data, strings, noted, None, degraded if degraded.any() else None)


def _by_row(batch: Batch, values: list[Any]) -> list[Any]:
    """Return a value for each row: where requests make many rows, each sample has a list."""
    if batch.row_bounds is None:
        return values
    for each, (begin, end) in zip(values, pairwise(batch.row_bounds.tolist()), strict=True):
        if len(each) != end - begin:
            raise ValueError(f"{len(each)} values are recorded for {end - begin} rows")
    return [item for each in values for item in each]


def _array(values: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a column; JSON has null for a number that is none."""
    if dtype.kind == "f":
        values = [np.nan if each is None else each for each in values]
    if dtype.kind == "O":
        found = np.empty(len(values), object)
        found[:] = values
        return found
    return np.array(values, dtype)
