"""A Parquet file that is written a table at a time, and is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailrace.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa


def make_folder(out: Path) -> None:
    """Make the folder of a file, before anything is computed for it."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise SourceError(what, where=str(out), next="give --out a folder that may be written") from None


def write_tables(tables: Iterator[pa.Table], out: Path) -> int:
    """Write tables of one schema to one file, beside its place first; return their rows. There is one at least."""
    from pyarrow import parquet

    rows = 0
    writer = None
    draft = ""
    pending: Future[None] | None = None
    thread = ThreadPoolExecutor(1, "write")
    try:
        for table in tables:
            with _telling_of(out):
                if writer is None:
                    descriptor, draft = tempfile.mkstemp(prefix=f".{out.name}-", dir=out.parent)
                    os.close(descriptor)
                    writer = parquet.ParquetWriter(draft, table.schema, use_dictionary=_repeating(table.schema))
                if pending is not None:
                    pending.result()
            pending = thread.submit(writer.write_table, table)  # while the next page is computed
            rows += table.num_rows
        assert pending is not None  # of no rows there is an error before
        assert writer is not None
        with _telling_of(out):
            pending.result()
            writer.close()
            Path(draft).chmod(0o644)
            Path(draft).replace(out)
    finally:
        thread.shutdown()
        if writer is not None:
            with suppress(Exception):
                writer.close()
        if draft:
            Path(draft).unlink(missing_ok=True)
    return rows


@contextmanager
def _telling_of(out: Path) -> Iterator[None]:
    """Make errors of writing a file ones that say so; those of what makes the tables are none, and stay outside."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"cannot be written: {reason}", where=str(out), next="give --out a place with room") from None


def _repeating(schema: Any) -> list[str]:
    """Return the columns whose values repeat, so that a dictionary of them pays: floats, mostly, are all different."""
    import pyarrow as pa

    return [each.name for each in schema if not pa.types.is_floating(each.type)]
