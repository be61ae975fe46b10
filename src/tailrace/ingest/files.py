"""Events from files: Parquet and CSV by columns, JSON Lines (.jsonl, .ndjson) by events. Read page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import SourceError
from tailrace.features.events import Events, event_ids, event_times
from tailrace.features.streams import Stream
from tailrace.ingest.decoded import DecodedEvents
from tailrace.request.schema import FieldSpec, field_specs

PAGE_EVENTS: Final = 4_096
LINE_BYTES_MAX: Final = 1 << 20
_LINES: Final = frozenset({".jsonl", ".ndjson"})
_FORMATS: Final = {".parquet": "parquet", ".csv": "csv"}


class EventPage(NamedTuple):
    """Some events of a file. rows: how many rows of the file that were; bad: of them, which are no events."""

    events: Events
    rows: int
    bad: int


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
                    yield self._page(batch)
        except (ArrowException, OSError) as error:
            raise SourceError(f"cannot be read: {error}", where=str(self._path), next="see the file") from None

    def _page(self, batch: Any) -> EventPage:
        """Return a page of an Arrow batch."""
        columns = {name: _column(batch.column(own), self._fields[name]) for name, own in self._names.items()}
        is_good = np.ones(batch.num_rows, np.bool_)
        for name in {self._stream.time, self._stream.id}:
            is_good &= ~np.asarray(batch.column(self._names[name]).is_null())
        places = np.flatnonzero(is_good)
        chosen = {name: column[places] for name, column in columns.items()}
        times = event_times(chosen[self._stream.time])
        events = Events(times, event_ids(chosen[self._stream.id]), chosen.__getitem__)
        return EventPage(events, batch.num_rows, batch.num_rows - len(places))

    # -- lines --------------------------------------------------------------------------------------------------------

    def _pages_of_lines(self) -> Iterator[EventPage]:
        decode = msgspec.json.Decoder(self._stream.schema).decode
        columns = DecodedEvents(self._stream).columns
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
                        yield EventPage(columns(decoded), rows, rows - len(decoded))
                        decoded, rows = [], 0
        except OSError as error:
            raise SourceError(f"cannot be read: {error}", where=str(self._path), next="see the file") from None
        if rows:
            yield EventPage(columns(decoded), rows, rows - len(decoded))


def _column(column: Any, spec: FieldSpec) -> NDArray[Any]:
    """Return an Arrow column as the stream's schema has it; a null of a number is NaN, of a text ""."""
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    if spec.dtype.kind == "O":
        return np.array(["" if each is None else str(each) for each in values.tolist()], object)
    if spec.dtype.kind == "M":
        return values.astype("datetime64[ns]")
    if values.dtype.kind == "f" and spec.dtype.kind == "i":
        return values.astype(np.float64)
    return values.astype(spec.dtype) if values.dtype.kind != "O" else values.astype(np.float64)
