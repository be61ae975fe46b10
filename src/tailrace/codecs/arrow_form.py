"""Response types as columns of Arrow: the type of each field, and its values as that type takes them.

See https://arrow.apache.org/docs/format/Columnar.html. pyarrow is imported where it is used: most servers need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import msgspec
from msgspec import inspect as shape


def columns_of(response: type) -> dict[str, Any]:
    """Return the Arrow type of each field of a struct type, by attribute."""
    info = shape.type_info(response)
    assert isinstance(info, shape.StructType)
    return {each.name: arrow_type(each.type) for each in info.fields}


def arrow_type(info: shape.Type) -> Any:
    """Return the Arrow type of a value; what has none is JSON in a text."""
    import pyarrow as pa

    plain = {shape.FloatType: pa.float64(), shape.IntType: pa.int64(), shape.BoolType: pa.bool_(),
             shape.StrType: pa.string(), shape.BytesType: pa.binary(),
             shape.DateTimeType: pa.timestamp("us", tz="UTC")}  # fmt: skip
    match info:
        case shape.Metadata():
            return arrow_type(info.type)
        case shape.UnionType():
            others = [each for each in info.types if not isinstance(each, shape.NoneType)]
            return arrow_type(others[0]) if len(others) == 1 else pa.string()
        case shape.LiteralType() if all(isinstance(value, str) for value in info.values):
            return pa.string()
        case shape.CollectionType():
            return pa.list_(arrow_type(info.item_type))
    return plain.get(type(info), pa.string())


def plain_value(value: Any, kind: Any) -> Any:
    """Return a value as Arrow takes it."""
    import pyarrow as pa

    if pa.types.is_string(kind) and value is not None and not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return value


def column_of(values: Sequence[Any], kind: Any) -> Any:
    """Return the values of a field as a column; a number that is not finite is null, as in JSON."""
    import pyarrow as pa

    if pa.types.is_floating(kind):
        values = [None if value is None or not isfinite(value) else value for value in values]
    elif pa.types.is_string(kind):
        values = [plain_value(value, kind) for value in values]
    return pa.array(values, kind)
