"""One schema for files of the log that were written by several releases, or by an older version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from tailrace.monitor.log.names import VERSION_KEY, why_not_read


def why_not(schema: pa.Schema) -> str:
    """Return why a file cannot be read as one of the log; "" for none."""
    if why := why_not_read((schema.metadata or {}).get(VERSION_KEY, b"0")):
        return why
    return "" if {"time", "request_id"} <= set(schema.names) else "it has no lines of a log"


def united(schemas: Iterable[pa.Schema]) -> tuple[pa.Schema | None, list[int]]:
    """Return a schema that has the columns of all, and the places of those that do not go together with others.

    Fields of structs come together too; of two kinds of numbers the wider is taken. What comes first is held to.
    """
    found: pa.Schema | None = None
    apart = []
    seen: list[pa.Schema] = []
    for place, schema in enumerate(schemas):
        bare = schema.remove_metadata()
        if any(bare.equals(each) for each in seen):
            continue
        try:
            found = bare if found is None else pa.unify_schemas([found, bare], promote_options="permissive")
        except pa.ArrowException:
            apart.append(place)
        else:
            seen.append(bare)
    return found, apart


def differing(one: pa.Schema, other: pa.Schema) -> list[str]:
    """Return the columns of two schemas that do not go together, those of structs as STRUCT.NAME."""
    found = []
    for name in one.names:
        if other.get_field_index(name) >= 0:
            found += _differing(name, one.field(name).type, other.field(name).type)
    return found


def _differing(name: str, one: pa.DataType, other: pa.DataType) -> list[str]:
    with suppress(pa.ArrowException):
        pa.unify_schemas([pa.schema([("x", one)]), pa.schema([("x", other)])], promote_options="permissive")
        return []
    if not (pa.types.is_struct(one) and pa.types.is_struct(other)):
        return [name]
    return [
        each
        for field in one.fields
        if other.get_field_index(field.name) >= 0
        for each in _differing(f"{name}.{field.name}", field.type, other.field(field.name).type)
    ]


def conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return lines with the columns of a schema, of its types; what they do not have is null."""
    if batch.schema.remove_metadata().equals(schema):
        return batch
    names = batch.schema.names
    columns = [
        _cast(batch.column(field.name), field.type) if field.name in names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type.equals(kind):
        return column
    if not pa.types.is_struct(kind):
        return column.cast(kind)
    fields: Sequence[Any] = kind.fields
    has = {field.name for field in column.type.fields}
    parts = dict(zip([field.name for field in column.type.fields], column.flatten(), strict=True))
    arrays = [
        _cast(parts[field.name], field.type) if field.name in has else pa.nulls(len(column), field.type)
        for field in fields
    ]
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=column.is_null())
