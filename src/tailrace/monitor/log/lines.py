"""The lines of one file of the log, whole or draft: its schema, the times that are in it, and its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tailrace.monitor.log.files import read_draft
from tailrace.monitor.log.listing import LogFile

TOGETHER_ROWS: Final = 16_384
"""Lines that are read at once."""


class Span(NamedTuple):
    """Lines that lie together. first: the place of the first one. begin_us, end_us: the times that are among them."""

    first: int
    rows: int
    begin_us: int
    end_us: int


class FileLines:
    """Reads one file. A file that is gone raises FileNotFoundError, here or later; one that is damaged ArrowException.

    A draft is read as far as it was written when it is read; one without a line has no columns.
    """

    def __init__(self, file: LogFile) -> None:
        self.file = file
        if file.is_draft:
            self.schema = _schema_of_draft(file)
            self._metadata: Any = None
        else:
            with pq.ParquetFile(file.path) as opened:
                self.schema = opened.schema_arrow
                self._metadata = opened.metadata

    @cached_property
    def spans(self) -> list[Span]:
        """What lies together: a row group, or what a draft was added at once."""
        return _spans_of_draft(self.file) if self.file.is_draft else _spans_of(self._metadata)

    def batches(
        self, columns: Sequence[str] | None = None, spans: Sequence[Span] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Give lines in their order. columns: those of them that there are; None for all. spans: only these."""
        names = self.schema.names if columns is None else [name for name in columns if name in self.schema.names]
        wanted = None if spans is None else {span.first for span in spans}
        if not self.file.is_draft:
            groups = None if wanted is None else [
                place for place, span in enumerate(self.spans) if span.first in wanted
            ]  # fmt: skip
            with pq.ParquetFile(self.file.path) as opened:
                yield from opened.iter_batches(TOGETHER_ROWS, row_groups=groups, columns=names)
            return
        first = 0
        for batch in read_draft(self.file.path):
            if wanted is None or first in wanted:
                yield batch.select(names)
            first += batch.num_rows


def _schema_of_draft(file: LogFile) -> pa.Schema:
    with file.path.open("rb") as opened:
        try:
            with pa.ipc.open_stream(opened) as reader:
                return reader.schema
        except (pa.ArrowInvalid, EOFError):  # its writer has just begun, or died then
            return pa.schema([])


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


def _spans_of_draft(file: LogFile) -> list[Span]:
    found, first = [], 0
    for batch in read_draft(file.path):
        times = batch.column("time").cast(pa.int64()).to_numpy(zero_copy_only=False)
        if len(times):
            found.append(Span(first, len(times), int(times.min()), int(times.max())))
        first += len(times)
    return found
