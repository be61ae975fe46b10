"""Sealing: a draft of the log becomes a Parquet file, which is there whole or not at all."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tailrace.monitor.log.draft_lines import DraftLines
from tailrace.monitor.log.names import DAMAGED, SEALED
from tailrace.monitor.log.tables import tables_of

_UNNAMED: Final = ".part"
GROUP_ROWS: Final = 65_536
"""Of a row group: what sealing holds in memory at once."""
ZSTD_LEVEL: Final = 3
BLOOM_FALSE_SHARE: Final = 0.01
"""Of the row groups without an id that a reader looks into; it costs two bytes a line."""
_DISTINCT: Final = {"time", "request_id", "trace", "request"}
"""Hardly two values are alike: a dictionary of them takes 4% of the file, and a third of the time that sealing does."""
_HAS_BLOOM_FILTERS: Final = "bloom_filter_options" in inspect.signature(pq.ParquetWriter.__init__).parameters


def seal_draft(path: Path, *, is_ours: bool = False) -> bool:
    """Make a Parquet file of a draft, and remove the draft; return whether it could be read to its end.

    One without a whole line is only removed. What is damaged, and not only cut short, is put aside. is_ours: who calls
    has written it, so that its values need not be looked through.
    """
    part = path.with_suffix(_UNNAMED)
    writer: Any = None
    try:
        with path.open("rb") as file:
            lines = DraftLines(file, is_checked=not is_ours)
            for table in tables_of(lines, GROUP_ROWS):
                if writer is None:
                    ids, traces = (table.num_rows - table.column(name).null_count for name in ("request_id", "trace"))
                    writer = sealed_writer(part, table.schema, ids, traces)
                writer.write_table(table, row_group_size=GROUP_ROWS)
        if writer is not None:
            writer.close()
            _flush(part)
            part.rename(path.with_suffix(SEALED))
            _flush(path.parent)
    finally:
        if writer is not None and writer.is_open:
            with suppress(OSError):
                writer.close()
        with suppress(FileNotFoundError):
            part.unlink()
    if lines.is_whole:
        path.unlink()
    else:
        path.rename(path.with_suffix(DAMAGED))
    return lines.is_whole


def sealed_writer(path: Path, schema: pa.Schema, ids: int, traces: int = 0) -> Any:
    """Return pyarrow's writer of a whole file. ids, traces: about how many of them a row group has.

    By a Bloom filter of each, DuckDB finds a request without reading what is not of it.
    """
    counts = {"request_id": ids, "trace": traces}
    filters = {name: {"ndv": count, "fpp": BLOOM_FALSE_SHARE} for name, count in counts.items() if count}
    return pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=ZSTD_LEVEL,
        use_dictionary=[leaf for field in schema if field.name not in _DISTINCT for leaf in _leaves(field)],
        column_encoding={"time": "DELTA_BINARY_PACKED"},
        **({"bloom_filter_options": filters} if filters and _HAS_BLOOM_FILTERS else {}),
    )  # fmt: skip


def _leaves(field: pa.Field, prefix: str = "") -> Iterator[str]:
    """Give the columns that Parquet has of a field."""
    path, kind = f"{prefix}{field.name}", field.type
    if pa.types.is_struct(kind):
        for place in range(kind.num_fields):
            yield from _leaves(kind.field(place), f"{path}.")
    else:
        yield f"{path}.list.element" if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) else path


def _flush(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk; the latter where its file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
