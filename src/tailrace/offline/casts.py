"""Casts of a source's values to the types that are declared, in Ibis: null where a value is none of its type."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tailrace.features.view_spec import Column

_IBIS_TYPES: Final = {"float64": "float64", "float32": "float32", "bool": "boolean", "object": "string"}
_MICROSECONDS: Final = 1e6


def cast_column(raw: Any, column: Column) -> Any:
    """Return the values of a column as its type, null where a value is none of that type."""
    name = column.dtype.name
    if column.width:
        return raw.try_cast("array<float64>" if name == "float64" else "array<float32>")
    if column.dtype.kind in "iu":
        return cast_whole(raw, name)
    cast = raw.try_cast(_IBIS_TYPES[name])
    if column.dtype.kind == "b" and raw.type().is_numeric():  # a cast alone would take 2 and 0.5 for true
        return raw.isin([0, 1]).ifelse(cast, None)
    return cast


def fits_vector(cast: Any, column: Column) -> Any:
    """Return whether a vector has its length, and in each place a number that its type holds."""
    largest = float(np.finfo(column.dtype).max)
    numbers = cast.filter(lambda each: each.abs() <= largest)  # neither null nor NaN, which DuckDB takes as larger
    return (cast.length() == column.width) & (numbers.length() == column.width)


def cast_text_key(key: Any) -> Any:
    """Return ids as text. Whole numbers are written without a point: pandas makes floats of integers with nulls."""
    kind = key.type()
    return (cast_whole(key, "int64") if kind.is_floating() or kind.is_decimal() else key).cast("string")


def cast_whole(raw: Any, name: str) -> Any:
    """Return integers, null where a value is none: a cast alone would round 1.5 to 2."""
    cast = raw.try_cast(name)
    if raw.type().is_integer() or raw.type().is_boolean():
        return cast
    number = raw.try_cast("float64")
    return (number % 1 == 0).ifelse(cast, None)


def cast_time(ibis: Any, raw: Any, *, takes_seconds: bool) -> Any:
    """Return times in UTC. takes_seconds: whether a number, or a text that is one, is seconds since the epoch."""
    if not takes_seconds or not (raw.type().is_numeric() or raw.type().is_string()):
        return raw.try_cast("timestamp('UTC')")
    micros = (raw.try_cast("float64") * _MICROSECONDS).round().try_cast("int64")
    from_seconds = _from_micros(ibis)(micros).cast("timestamp('UTC')")
    return from_seconds if raw.type().is_numeric() else ibis.coalesce(raw.try_cast("timestamp('UTC')"), from_seconds)


def text_bytes(ibis: Any) -> Any:
    """Return DuckDB's function for the bytes of a text."""

    def strlen(text: str) -> int:  # type: ignore[empty-body]
        ...

    strlen.__annotations__ = {"text": str, "return": int}
    return ibis.udf.scalar.builtin(strlen)


def _from_micros(ibis: Any) -> Any:
    """Return DuckDB's function for the time of so many microseconds since the epoch."""

    def make_timestamp(micros: int) -> Any: ...

    make_timestamp.__annotations__ = {"micros": int, "return": ibis.dtype("timestamp(6)")}
    return ibis.udf.scalar.builtin(make_timestamp)
