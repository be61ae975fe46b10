"""Events from files: Parquet and CSV by columns, JSON Lines (.jsonl, .ndjson) by events. Read page by page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import SourceError
from tailrace.features.events import Events, event_ids, event_times
from tailrace.features.streams import Stream
from tailrace.ingest.decoded import DecodedEvents
from tailrace.request.schema import FieldSpec, bounded_type, field_specs

PAGE_EVENTS: Final = 4_096
LINE_BYTES_MAX: Final = 1 << 20
_LINES: Final = frozenset({".jsonl", ".ndjson"})
_FORMATS: Final = {".parquet": "parquet", ".csv": "csv"}


class EventPage(NamedTuple):
    """Some rows of a file. read: gives the events in them, without those that lack one of some fields: the views' keys.

    A row without a time or an id is no event either. Raises SourceError for a column that is not of its field's type.
    """

    rows: int
    read: Callable[[Collection[str]], Events]


class EventFile:
    """The events of one file, or of a folder of Parquet files.

    columns: the file's name of a field, where they differ. total: its rows; None where that is not known beforehand.
    Raises SourceError for a file that cannot be read, or lacks a field.
    """

    def __init__(self, path: Path, stream: Stream, columns: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._stream = stream
        self._fields = field_specs(stream.schema)
        self._names = {name: (columns or {}).get(name, name) for name in self._fields}
        self._format = "lines" if path.suffix in _LINES else _FORMATS.get(path.suffix, "parquet")
        if not path.exists():
            raise SourceError("there is no such file", where=str(path), next="name a file of events")
        self.total: int | None = None
        if self._format != "lines":
            self._dataset = self._open()
            self.total = self._dataset.count_rows()

    def pages(self) -> Iterator[EventPage]:
        """Yield the events, in the file's order."""
        yield from self._pages_of_lines() if self._format == "lines" else self._pages_of_columns()

    # -- columns ------------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        from pyarrow import ArrowException, dataset

        try:
            found = dataset.dataset(self._path, format=self._format)
        except (ArrowException, OSError) as error:
            raise SourceError(f"cannot be read: {error}", where=str(self._path), next="see the file") from None
        for name, spec in self._fields.items():
            if self._names[name] not in found.schema.names:
                if not spec.required and name not in (self._stream.time, self._stream.id):
                    del self._names[name]
                    continue
                raise SourceError(f"it has no column {self._names[name]!r}", where=str(self._path),
                                  next="name it in the stream's source: "
                                       f"columns={{{name!r}: …}}")  # fmt: skip
        return found

    def _pages_of_columns(self) -> Iterator[EventPage]:
        from pyarrow import ArrowException

        names = list(dict.fromkeys(self._names.values()))
        try:
            for batch in self._dataset.to_batches(columns=names, batch_size=PAGE_EVENTS):
                if batch.num_rows:
                    yield EventPage(batch.num_rows, partial(self._events, batch))
        except (ArrowException, OSError) as error:
            raise SourceError(f"cannot be read: {error}", where=str(self._path), next="see the file") from None

    def _events(self, batch: Any, keys: Collection[str]) -> Events:
        """Return the events of an Arrow batch. Rows are left out before anything is cast: a null has no number."""
        import pyarrow as pa
        import pyarrow.compute as pc

        arrow = {name: batch.column(own) for name, own in self._names.items()}
        is_good = pa.array(np.ones(batch.num_rows, np.bool_))
        for name in {self._stream.time, self._stream.id, *keys} & arrow.keys():
            is_good = pc.and_(is_good, pc.invert(pc.is_null(arrow[name], nan_is_null=True)))
        columns = {name: self._cast(name, column.filter(is_good)) for name, column in arrow.items()}
        times = event_times(columns[self._stream.time])
        return Events(times, event_ids(columns[self._stream.id]), columns.__getitem__)

    def _cast(self, name: str, column: Any) -> NDArray[Any]:
        """Return an Arrow column as its field's type. Raises SourceError where it is none."""
        import pyarrow as pa

        try:
            return _column(column, self._fields[name])
        except (pa.ArrowException, TypeError) as error:
            kind = self._fields[name].dtype.name if self._fields[name].dtype.kind != "O" else "text"
            reason = str(error).partition("\n")[0]
            what = f"the column {self._names[name]!r}, {column.type}, cannot be the field {name!r}, {kind}: {reason}"
            raise SourceError(what, where=str(self._path), next="cast it where the file is made") from None

    # -- lines --------------------------------------------------------------------------------------------------------

    def _pages_of_lines(self) -> Iterator[EventPage]:
        decode = msgspec.json.Decoder(bounded_type(self._stream.schema)).decode
        decoded: list[Any] = []
        rows = 0
        try:
            with open(self._path, "rb") as file:
                while line := file.readline(LINE_BYTES_MAX):
                    rows += 1
                    try:
                        decoded.append(decode(line))
                    except (msgspec.MsgspecError, UnicodeDecodeError):
                        if not line.strip():
                            rows -= 1
                    if rows >= PAGE_EVENTS:
                        yield self._page_of(decoded, rows)
                        decoded, rows = [], 0
        except OSError as error:
            raise SourceError(f"cannot be read: {error}", where=str(self._path), next="see the file") from None
        if rows:
            yield self._page_of(decoded, rows)

    def _page_of(self, decoded: list[Any], rows: int) -> EventPage:
        """Return a page of events whose type says already which fields they have."""
        return EventPage(rows, lambda _: DecodedEvents(self._stream).columns(decoded))


def _column(column: Any, spec: FieldSpec) -> NDArray[Any]:
    """Return an Arrow column as the stream's schema has it; a null of a number is NaN, of a time NaT, of a text "".

    Raises ArrowException or TypeError for values of another type.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if spec.many or pa.types.is_nested(column.type):
        return _objects(column)
    if spec.dtype.kind in "iO" and pa.types.is_floating(column.type):  # pandas makes floats of whole numbers with nulls
        column = pc.if_else(pc.is_nan(column), None, column).cast(pa.int64())
    if spec.dtype.kind == "O":
        return _objects(column.cast(pa.string()))
    if spec.dtype.kind == "M":
        return _times(column, spec)
    wanted = {"i": pa.int64(), "b": pa.bool_()}.get(spec.dtype.kind, pa.float64())
    cast = pc.cast(column, options=pc.CastOptions(wanted, allow_float_truncate=True))
    values: NDArray[Any] = cast.to_numpy(zero_copy_only=False)
    return values.astype(np.float64 if cast.null_count else spec.dtype)


def _objects(column: Any) -> NDArray[Any]:
    """Return an Arrow column as Python objects."""
    return np.fromiter(("" if each is None else each for each in column.to_pylist()), object, len(column))


def _times(column: Any, spec: FieldSpec) -> NDArray[Any]:
    """Return a column of times; those without a zone are UTC. A number says not of which unit it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not any(test(column.type) for test in (pa.types.is_temporal, pa.types.is_null, _is_text)):
        raise TypeError("a number says not of which unit it is; declare the field as float for seconds since the epoch")
    is_zoned = pa.types.is_timestamp(column.type) and column.type.tz is not None
    wanted = pa.timestamp("us", tz="UTC" if is_zoned else None)
    if _is_text(column.type):
        try:
            column = column.cast(pa.timestamp("us", tz="UTC"))
        except pa.ArrowInvalid:  # a text without a zone
            column = column.cast(wanted)
    cast = pc.cast(column, options=pc.CastOptions(wanted, allow_time_truncate=True))
    values: NDArray[Any] = cast.to_numpy(zero_copy_only=False)
    return values.astype(spec.dtype)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
