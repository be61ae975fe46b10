"""What the log says, written for programs: JSON lines and CSV as they come, or a Parquet file that is there whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.errors import SourceError
from tailrace.offline.parquet_file import make_folder, write_tables

if TYPE_CHECKING:
    import pyarrow as pa


def json_lines(batch: pa.RecordBatch) -> bytes:
    """Return lines as JSON, one a line; a number that is none is null."""
    encode = msgspec.json.Encoder(enc_hook=_odd, decimal_format="number").encode
    return b"".join(b"%b\n" % encode(line) for line in batch.to_pylist())


def csv_header(schema: pa.Schema) -> bytes:
    """Return the names of the columns as a line of CSV."""
    import pyarrow as pa
    from pyarrow import csv

    names = pa.table({name: pa.array([], pa.string()) for name in schema.names})
    sink = pa.BufferOutputStream()
    csv.write_csv(names, sink)
    return bytes(sink.getvalue())


def csv_lines(batch: pa.RecordBatch) -> bytes:
    """Return lines as CSV. Lists and structs are JSON in it."""
    import pyarrow as pa
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    flat = pa.table([_flat(column) for column in batch.columns], names=batch.schema.names)
    csv.write_csv(flat, sink, csv.WriteOptions(include_header=False))
    return bytes(sink.getvalue())


def write_parquet(batches: Iterator[pa.RecordBatch], out: Path, on_rows: Callable[[int], None]) -> int:
    """Write lines to a file, and return how many. Raises SourceError where there are none, or the file cannot be."""
    import pyarrow as pa

    make_folder(out)

    def tables() -> Iterator[pa.Table]:
        rows = 0
        for batch in batches:
            rows += batch.num_rows
            yield pa.Table.from_batches([batch])
            on_rows(rows)

    found = tables()
    first = next(found, None)
    if first is None:
        raise SourceError("no line is found", where=str(out), next="ask for others: no file is written")

    def all_tables() -> Iterator[pa.Table]:
        yield first
        yield from found

    return write_tables(all_tables(), out)


def _flat(column: Any) -> Any:
    import pyarrow as pa

    if not pa.types.is_nested(column.type):
        return column
    encode = msgspec.json.Encoder(enc_hook=_odd, decimal_format="number").encode
    return pa.array([None if value is None else encode(value).decode() for value in column.to_pylist()], pa.string())


def _odd(value: Any) -> Any:
    """Return what JSON has for a value of SQL that it has no kind for."""
    return list(value) if isinstance(value, set | frozenset) else str(value)
