"""The columns of views at the time of each request, from their sources' history.

Of a batch view: the latest row of its source that is not after the request's time. Of a stream view: its windows, which
`features/windows.py` computes here as it does while serving. What is not known is the declared default, as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import SetupError
from tailrace.features.batch_views import BatchViewSpec
from tailrace.features.events import EventIds, Events, event_ids
from tailrace.features.keys import KeyFields, fields_of
from tailrace.features.ranges import Places, Searcher
from tailrace.features.sources import Source
from tailrace.features.streams import Stream, StreamViewSpec
from tailrace.features.view_spec import Column, ViewSpec
from tailrace.features.windows import Entries
from tailrace.offline.arrow_columns import text_array, to_array, vector_array
from tailrace.offline.database import MEMORY_MB_MIN, DatabaseLimits
from tailrace.offline.history import PART_ROWS, History, HistoryPart
from tailrace.offline.page_entities import PageEntities
from tailrace.offline.request_pages import RequestPage
from tailrace.offline.source_keys import key_type_of
from tailrace.request.schema import FieldSpec, field_specs

ROWS_TOGETHER: Final = 65_536
"""Rows of requests whose windows are computed together."""

Values = dict[str, NDArray[Any]]
"""The columns of a view by name, (rows,)."""


class ViewHistory(Protocol):
    """Gives one view's columns."""

    history: History

    def columns(self, page: RequestPage, entities: PageEntities) -> Values:
        """Return the value of each column for each request of a page; defaults for one that asks for no entity.

        entities: that the requests ask for.
        """
        ...


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """How histories are read. key_types: of the ids in each field of the request.

    limits: of sorting, one after the other; kept_mb: what may stay in memory of each afterwards.
    """

    base_dir: Path
    key_types: Mapping[str, type]
    limits: DatabaseLimits
    kept_mb: int = MEMORY_MB_MIN
    part_rows: int = PART_ROWS


class BatchHistory:
    """A batch view's. One whose source has no time column has the same rows whenever it is asked.

    keys: the columns that are in keys of other views. A further column of `columns` says for each of them in which rows
    it has a value, bool, by the name that `known_of` gives: its default is no key.
    """

    def __init__(self, spec: BatchViewSpec, settings: HistorySettings, keys: Sequence[Column] = ()) -> None:
        self._spec = spec
        self._keys = tuple(keys)
        self._has_times = spec.source.time is not None
        key_type = key_type_of(settings.key_types, spec.entity)
        self.history = History(
            spec, settings.base_dir, key_type, settings.limits, part_rows=settings.part_rows, kept_mb=settings.kept_mb
        )

    def columns(self, page: RequestPage, entities: PageEntities) -> Values:
        """Return the value of each column for each request of a page; see `ViewHistory`."""
        found, is_known = _empty(self._spec, page.rows), np.zeros(page.rows, np.bool_)
        found |= {known_of(column): np.zeros(page.rows, np.bool_) for column in self._keys}
        for part, rows, places in _matches(self.history, entities):
            begins, ends = part.begins[places], part.ends[places]
            if self._has_times:
                ends = Searcher(part.times, begins, ends).places(page.times_ns[rows] + 1)
            known = ends > begins
            rows, latest = rows[known], ends[known] - 1  # noqa: PLW2901
            is_known[rows] = True
            for column in self._spec.columns:
                found[column.name][rows] = _values(part.column(column.name), column)[latest]
            for column in self._keys:
                found[known_of(column)][rows] = _is_there(part.column(column.name))[latest]
        _put_defaults(self._spec, found, ~is_known)
        return found


class StreamHistory:
    """A stream view's. event_id: the field of the request's own id, None where it is no event of the stream.

    Raises SetupError where the stream has no history.
    """

    def __init__(
        self, spec: StreamViewSpec, settings: HistorySettings, event_id: str | None, source: Source | None
    ) -> None:
        stream = spec.stream
        source = source or stream.source
        if source is None:
            raise SetupError(f"the stream {stream.name!r} has no history", where=f"streams.{stream.name}.source",
                             next='name it: tr.Stream(…, source=tr.Parquet("events.parquet"))')  # fmt: skip
        self._spec = spec
        self._windows = spec.windows
        self._event_id = event_id
        self.fields = _fields_read(spec)
        self.history = History(
            _events_spec(spec, source, self.fields),
            settings.base_dir,
            key_type_of(settings.key_types, spec.entity),
            settings.limits,
            required=[name for name, field in self.fields.items() if name == stream.id or not field.nullable],
            unique=stream.id,
            part_rows=settings.part_rows,
            kept_mb=settings.kept_mb,
        )

    def columns(self, page: RequestPage, entities: PageEntities) -> Values:
        """Return the value of each column for each request of a page; see `ViewHistory`."""
        found = _empty(self._spec, page.rows)
        ids = None if self._event_id is None else event_ids(getattr(page.columns, self._event_id))
        has_events = np.zeros(page.rows, np.bool_)
        for part, rows, places in _matches(self.history, entities):
            entries = self._entries(part)
            has_events[rows] = True
            self._put(found, page, ids, entries, rows, places)
        if any(feature.include_current for feature in self._windows.features):
            asks = True if entities.asks is None else entities.asks
            rows = np.flatnonzero(~has_events & asks)
            self._put(found, page, ids, self._no_entries(), rows, np.zeros(len(rows), np.intp))
            has_events[rows] = True
        _put_defaults(self._spec, found, ~has_events)
        return found

    def _entries(self, part: HistoryPart) -> Entries:
        """Return the events of a part, an entry each."""
        fields = {name: to_array(part.column(name), field) for name, field in self.fields.items()}
        ids = event_ids(fields[self._spec.stream.id])
        lanes = self._windows.prepare(Events(part.times, ids, fields.__getitem__))
        return Entries(part.begins, part.ends, part.times, ids, lanes)

    def _no_entries(self) -> Entries:
        """Return the entries of an entity without events."""
        none, nowhere = np.zeros(0, np.int64), np.zeros(1, np.intp)
        lanes = [
            [np.zeros(0, dtype) for dtype in use.lane.fields] for use in self._windows.lanes
        ]  # of the types that are stored, as a lane's columns are
        return Entries(nowhere, nowhere, none, None, lanes)

    def _put(
        self, found: Values, page: RequestPage, ids: EventIds | None, entries: Entries, rows: Places, places: Places
    ) -> None:
        """Put the values of some rows, which ask for the entities at some places, into the columns."""
        for begin in range(0, len(rows), ROWS_TOGETHER):
            own, at = rows[begin : begin + ROWS_TOGETHER], places[begin : begin + ROWS_TOGETHER]
            now_ns = page.times_ns[own]
            current = Events(now_ns, None if ids is None else ids[own], _Picked(page.columns, own).column)
            asked = Entries(entries.begins[at], entries.ends[at], entries.at, entries.ids, entries.lanes)
            for name, values in self._windows.values([asked], now_ns, current.ids, current).items():
                found[name][own] = values


class _Picked:
    """Some rows of columns."""

    def __init__(self, columns: Any, rows: Places) -> None:
        self._columns = columns
        self._rows = rows

    def column(self, name: str) -> NDArray[Any]:
        """Return one column."""
        column: NDArray[Any] = getattr(self._columns, name)[self._rows]
        return column


def known_of(column: Column) -> str:
    """Return the name under which a history says in which rows a column has a value; no column has one like it."""
    return f"$known:{column.name}"


def _is_there(column: Any) -> NDArray[np.bool_]:
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False))


def _matches(history: History, entities: PageEntities) -> Iterator[tuple[HistoryPart, Places, Places]]:
    """Give each part of a history that is asked for: with the rows that ask, and which entity each asks for."""
    for part in history.parts():
        rows, places = entities.rows_of(part.entities)
        if len(rows):
            yield part, rows, places


def _empty(spec: ViewSpec, rows: int) -> Values:
    return {
        column.name: np.empty((rows, column.width) if column.width else rows, column.dtype) for column in spec.columns
    }


def _put_defaults(spec: ViewSpec, values: Values, rows: NDArray[np.bool_]) -> None:
    if rows.any():
        for column in spec.columns:
            values[column.name][rows] = column.default


def _values(column: Any, declared: Column) -> NDArray[Any]:
    """Return a column of a history as its type, its default where it is null."""
    if declared.is_text:
        return text_array(column.fill_null(declared.default))
    if declared.width:
        return vector_array(column, declared.width, declared.dtype, declared.default)
    filled = column.fill_null(np.asarray(declared.default, declared.dtype).item()) if column.null_count else column
    return np.asarray(filled.to_numpy()).astype(declared.dtype, copy=False)


def _fields_read(spec: StreamViewSpec) -> dict[str, FieldSpec]:
    """Return the fields of an event that the view reads, its id first."""
    uses = spec.windows.lanes
    names = [name for use in uses for each in (use.value, use.where) if each is not None for name in each.fields]
    fields = field_specs(spec.stream.schema)
    return {name: fields[name] for name in dict.fromkeys([spec.stream.id, *names])}


def _events_spec(spec: StreamViewSpec, source: Source, fields: Mapping[str, FieldSpec]) -> BatchViewSpec:
    """Return the events of a stream as if they were the rows of a view, which are read in the same way."""
    stream: Stream = spec.stream
    key: KeyFields = tuple(map(source.column, fields_of(spec.key)))
    key = key if len(key) > 1 else key[0]
    source = replace(source, time=source.time or source.column(stream.time), key=source.key or key)
    columns = []
    for name, each in fields.items():
        if each.many or each.width or each.dtype.kind not in "fibO":
            raise SetupError(f"an expression reads {name!r}, {each.dtype.name}, of which no history can be read",
                             where=f"features.{spec.name}", next="use fields of numbers and texts")  # fmt: skip
        columns.append(Column(name, each.dtype, "" if each.dtype.kind == "O" else each.dtype.type(0).item()))
    return BatchViewSpec(
        name=spec.name, entity=spec.entity, columns=tuple(columns), max_staleness_ns=None, source=source, refresh_ns=0
    )
