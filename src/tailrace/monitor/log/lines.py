"""The lines of one file of the log, whole or draft: its schema, the times that are in it, and its columns."""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tailrace.monitor.log.draft_lines import is_valid
from tailrace.monitor.log.listing import LogFile

DAMAGE: Final = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What reading a file raises that is damaged, or gone; the last one, where the name of a column is no text."""
TOGETHER_ROWS: Final = 16_384
"""Lines that are read at once."""
_SCHEMA_BYTES_MAX: Final = 1 << 20


class Span(NamedTuple):
    """Lines that lie together. first: the place of the first one. begin_us, end_us: the times that are among them."""

    first: int
    rows: int
    begin_us: int
    end_us: int


class FileLines:
    """Reads one file. One that is gone raises FileNotFoundError, here or later; one that is damaged ArrowException.

    A draft stays open, so that it can be read though it is swept, or becomes a whole file; it is read as far as it was
    written when it is read. One without a line has no columns.
    """

    def __init__(self, file: LogFile) -> None:
        self.file = file
        if file.is_draft:
            self._descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor)
            self.schema = self._schema_of_draft()
        else:
            with pq.ParquetFile(file.path) as opened:
                self.schema = opened.schema_arrow
                self._metadata: Any = opened.metadata

    @cached_property
    def spans(self) -> list[Span]:
        """What lies together: a row group, or what a draft was added at once."""
        return self._spans_of_draft() if self.file.is_draft else _spans_of(self._metadata)

    def batches(
        self, columns: Sequence[str] | None = None, spans: Sequence[Span] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Give lines in their order. columns: those of them that there are; None for all. spans: only these."""
        names = self.schema.names if columns is None else [name for name in columns if name in self.schema.names]
        wanted = None if spans is None else {span.first for span in spans}
        if self.file.is_draft:
            yield from self._batches_of_draft(names, wanted)
            return
        groups = None
        if wanted is not None:
            groups = [place for place, span in enumerate(self.spans) if span.first in wanted]
        with pq.ParquetFile(self.file.path) as opened:
            yield from opened.iter_batches(TOGETHER_ROWS, row_groups=groups, columns=names)

    def _batches_of_draft(self, names: Sequence[str], wanted: Collection[int] | None) -> Iterator[pa.RecordBatch]:
        first = 0
        for batch in self._draft():
            if wanted is None or first in wanted:
                yield batch.select(names)
            first += batch.num_rows

    def _spans_of_draft(self) -> list[Span]:
        found, first = [], 0
        for batch in self._draft():
            times = batch.column("time").cast(pa.int64()).to_numpy(zero_copy_only=False)
            if len(times):
                found.append(Span(first, len(times), int(times.min()), int(times.max())))
            first += len(times)
        return found

    def _schema_of_draft(self) -> pa.Schema:
        try:
            with pa.ipc.open_stream(self._bytes(_SCHEMA_BYTES_MAX)) as reader:
                return reader.schema
        except (pa.ArrowException, EOFError, OSError):  # its writer has just begun, or died then
            return pa.schema([])

    def _draft(self) -> Iterator[pa.RecordBatch]:
        """Give the lines of a draft up to where it is cut, or damaged."""
        try:
            with pa.ipc.open_stream(self._bytes(os.fstat(self._descriptor).st_size)) as reader:
                for batch in reader:
                    if not is_valid(batch):
                        return
                    yield batch
        except (pa.ArrowException, EOFError, OSError):
            return

    def _bytes(self, size: int) -> pa.Buffer:
        """Return what a draft begins with. It is not mapped: its writer may cut it shorter."""
        parts, at = [], 0
        while at < size and (part := os.pread(self._descriptor, size - at, at)):
            parts.append(part)
            at += len(part)
        return pa.py_buffer(parts[0] if len(parts) == 1 else b"".join(parts))


def _spans_of(metadata: Any) -> list[Span]:
    place = metadata.schema.to_arrow_schema().get_field_index("time")  # it is the first column: none before is a struct
    found, first = [], 0
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        facts = about.column(place).statistics
        told = facts is not None and facts.has_min_max
        begin_us, end_us = (_us(facts.min), _us(facts.max)) if told else (0, np.iinfo(np.int64).max)
        found.append(Span(first, about.num_rows, begin_us, int(end_us)))
        first += about.num_rows
    return found


def _us(moment: Any) -> int:
    return int(pa.scalar(moment, pa.timestamp("us", tz="UTC")).value)
