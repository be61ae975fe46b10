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
from tailrace.features.view_spec import Column, ViewCodec


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

    def for_samples(self) -> KeyReader:
        """Return what reads a value in each row of a batch of samples, whose entities nobody knows."""
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

    def for_samples(self) -> FieldPart:
        """Return itself: a sample has its fields as any request."""
        return self


class ColumnPart:
    """A part that is a column of a view.

    view: its place among the batch's; place: the column's among the view's. expands: whether the view has a row for
    each row of the batch, and not for each request.
    """

    def __init__(self, view: int, place: int, column: Column, *, expands: bool, repeats: bool) -> None:
        self._view = view
        self._place = place
        self._column = column
        self._expands = expands
        self._repeats = repeats

    def read(self, batch: Batch) -> tuple[list[Any], NDArray[np.uint8] | None]:
        """Return its values, and which are none: a default stands for an unknown category, and is no category's id."""
        rows: ViewRows = batch.view_rows[self._view]
        values, lack = rows.column(self._column.name), self._lack(rows)
        if self._repeats:
            values = values[batch.row_request]
            lack = None if lack is None else lack[batch.row_request]
        return values.tolist(), lack

    def for_samples(self) -> NumberedPart:
        """Return what numbers the rows in place of the column."""
        return NumberedPart(self._column, expands=self._expands, repeats=self._repeats)

    def _lack(self, rows: ViewRows) -> NDArray[np.uint8] | None:
        lack: NDArray[np.uint8] | None = None
        if rows.noted is not None:
            lack = np.where(rows.noted >= Provenance.DEFAULT, rows.noted, np.uint8(0))  # a stale value is one
        if rows.nulls is not None:
            nulls = rows.nulls[:, self._place] * np.uint8(Provenance.DEFAULT)
            lack = nulls if lack is None else np.maximum(lack, nulls)
        return lack if lack is not None and np.count_nonzero(lack) else None


class NumberedPart:
    """In place of a column, numbers of its type: every row of the column's view has another one, and so another key.

    That is the most that a batch can ask for. Real ids of the same number would be found by as many reads.
    """

    def __init__(self, column: Column, *, expands: bool, repeats: bool) -> None:
        self._column = column
        self._expands = expands
        self._repeats = repeats

    def read(self, batch: Batch) -> tuple[list[Any], None]:
        """Return a number for each row of the batch, or of its requests."""
        numbers = np.arange(batch.rows if self._expands else len(batch.requests))
        if self._repeats:
            numbers = numbers[batch.row_request]
        if self._column.is_text:
            return list(map(str, numbers.tolist())), None
        return numbers.astype(self._column.dtype).tolist(), None

    def for_samples(self) -> NumberedPart:
        """Return itself."""
        return self


class DerivedIds:
    """Reads the ids of one key of which a part is a column of a view. format: of several parts, None for one."""

    def __init__(self, parts: Sequence[KeyReader], format_: CompositeFormat | None) -> None:
        self._parts = tuple(parts)
        self._format = format_

    def read(self, batch: Batch) -> KeyedRows:
        """Return the ids, once the views that give them have been read."""
        columns, lacks = zip(*[part.read(batch) for part in self._parts], strict=True)
        ids: list[Any] = columns[0] if self._format is None else self._format.ids(columns)
        lacking = [each for each in lacks if each is not None]
        if not lacking:
            return KeyedRows(ids)
        lack = np.maximum.reduce(lacking)
        known = np.flatnonzero(lack == 0)
        return KeyedRows([ids[place] for place in known.tolist()], known, lack)

    def for_samples(self) -> DerivedIds:
        """Return what reads an id in each row of a batch of samples, whatever has been read of their entities."""
        return DerivedIds([part.for_samples() for part in self._parts], self._format)
