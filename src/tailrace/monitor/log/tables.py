"""Lines of the log as tables: small batches together, as many lines as are worth one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa


def tables_of(batches: Iterable[pa.RecordBatch], rows_min: int) -> Iterator[pa.Table]:
    """Give batches of one schema as tables of so many lines at least; the last may have fewer."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= rows_min:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if rows:
        yield pa.Table.from_batches(held)
