"""Derived ids: what the views of earlier hops have given, as the ids that the views of a later one are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Provenance
from tailrace.features.entity_ids import FieldIds
from tailrace.features.events import Events
from tailrace.features.keys import CompositeFormat, EntityId
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import ViewCodec


class KeyedRows(msgspec.Struct, frozen=True, eq=False):
    """The rows of a batch that have a key.

    ids: of those rows. known: which they are, None where all have one. lack: why a row has none, shape (all rows,),
    `Provenance.DEFAULT` or `TIMEOUT`, 0 for a row that has one; None where all have one.
    """

    ids: list[EntityId]
    known: NDArray[np.intp] | None = None
    lack: NDArray[np.uint8] | None = None

    def events(self, events: Events | None) -> Events | None:
        """Return the events that these rows are asked for, of those of all rows."""
        known = self.known
        if events is None or known is None:
            return events
        ids = None if events.ids is None else events.ids[known]
        return Events(events.times[known], ids, lambda name: events.field(name)[known])

    def spread(self, found: ViewRows, codec: ViewCodec) -> ViewRows:
        """Return all rows of a view from those that were asked for; the others are the view's defaults."""
        if self.known is None or self.lack is None:
            return found
        whole = codec.defaults(len(self.lack), Provenance.DEFAULT)
        whole.noted = self.lack.copy()
        whole.put(self.known, found)
        return whole


class KeyReader(Protocol):
    """Reads one part of a key: its value in each row of the view, and in which rows there is none, as `lack` has it."""

    def read(self, batch: Batch) -> tuple[list[Any], NDArray[np.uint8] | None]:
        """Return both; None where every row has a value."""
        ...


class FieldPart:
    """A part that is a field of the request. repeats: a value is for every row that its request makes."""

    def __init__(self, ids: FieldIds, *, repeats: bool) -> None:
        self._ids = ids
        self._repeats = repeats

    def read(self, batch: Batch) -> tuple[list[Any], None]:
        """Return its values."""
        values = self._ids.read(batch)
        if self._repeats:
            assert batch.row_request is not None
            values = list(map(values.__getitem__, batch.row_request.tolist()))
        return values, None


class ColumnPart:
    """A part that is a column of a view. view: its place among the batch's; column: its place among the view's."""

    def __init__(self, view: int, name: str, column: int, *, repeats: bool) -> None:
        self._view = view
        self._name = name
        self._column = column
        self._repeats = repeats

    def read(self, batch: Batch) -> tuple[list[Any], NDArray[np.uint8] | None]:
        """Return its values, and which are none: a default stands for an unknown category, and is no category's id."""
        rows: ViewRows = batch.view_rows[self._view]
        values, lack = rows.column(self._name), self._lack(rows)
        if self._repeats:
            values = values[batch.row_request]
            lack = None if lack is None else lack[batch.row_request]
        return values.tolist(), lack

    def _lack(self, rows: ViewRows) -> NDArray[np.uint8] | None:
        lack: NDArray[np.uint8] | None = None
        if rows.noted is not None:
            lack = np.where(rows.noted >= Provenance.DEFAULT, rows.noted, np.uint8(0))  # a stale value is one
        if rows.nulls is not None:
            nulls = rows.nulls[:, self._column] * np.uint8(Provenance.DEFAULT)
            lack = nulls if lack is None else np.maximum(lack, nulls)
        return lack if lack is not None and np.count_nonzero(lack) else None


class DerivedIds:
    """Reads the ids of one key of which a part is a column of a view. format: of several parts, None for one."""

    def __init__(self, parts: Sequence[KeyReader], format_: CompositeFormat | None) -> None:
        self._parts = tuple(parts)
        self._format = format_

    def read(self, batch: Batch, *, takes_defaults: bool = False) -> KeyedRows:
        """Return the ids, once the views that give them have been read. takes_defaults: see `Hop`."""
        columns, lacks = zip(*[part.read(batch) for part in self._parts], strict=True)
        ids: list[Any] = columns[0] if self._format is None else self._format.ids(columns)
        lacking = [each for each in lacks if each is not None]
        if not lacking or takes_defaults:
            return KeyedRows(ids)
        lack = np.maximum.reduce(lacking)
        known = np.flatnonzero(lack == 0)
        return KeyedRows([ids[place] for place in known.tolist()], known, lack)
