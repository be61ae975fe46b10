"""The lines of the prediction log as JSON, one a row, for those who read them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailrace.server.forwarding.sinks import Line

_encode = msgspec.json.Encoder().encode


def json_lines(pipeline: str, batch: pa.RecordBatch) -> Iterator[Line]:
    """Give lines, with their columns by name and the pipeline's. What is null is left out; `request` is as sent."""
    columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    names = list(columns)
    for values in zip(*columns.values(), strict=True):
        line: dict[str, Any] = {"pipeline": pipeline}
        line.update((name, value) for name, value in zip(names, values, strict=True) if value is not None)
        if (request := line.get("request")) is not None:
            line["request"] = msgspec.Raw(request.encode())
        yield Line(line.get("request_id", "").encode(), _encode(line))


def _values(column: pa.Array) -> list[Any]:
    """Return a column's values, column by column: Arrow takes long over a struct row by row."""
    kind = column.type
    if pa.types.is_struct(kind):
        names = [kind.field(place).name for place in range(kind.num_fields)]
        parts = [_values(column.field(place)) for place in range(kind.num_fields)]
        return [dict(zip(names, values, strict=True)) for values in zip(*parts, strict=True)]
    if pa.types.is_timestamp(kind):
        naive = column.cast(pa.timestamp("us"))  # with a zone Arrow asks for a database of them
        column = pc.strftime(naive, format="%Y-%m-%dT%H:%M:%SZ")
    return column.to_pylist()  # type: ignore[no-any-return]
