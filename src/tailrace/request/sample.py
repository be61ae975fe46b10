"""Valid requests made up from a request type, to warm a plan up and to measure it before the first caller comes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from msgspec import inspect as shape

from tailrace.errors import SetupError
from tailrace.request.schema import Request


def sample_body(request_type: type[Request], *, seed: int = 1, list_length: int = 1) -> bytes:
    """Return the JSON of one valid request. seed: varies ids and numbers. list_length: of list-valued fields.

    Raises SetupError for a type whose constraints (a pattern, say) it cannot meet.
    """
    info = shape.type_info(request_type)
    body = msgspec.json.encode(_value(info, seed, list_length))
    try:
        msgspec.json.decode(body, type=request_type)
    except msgspec.ValidationError as error:
        raise SetupError(
            f"no sample request could be made up for {request_type.__name__}: {error}",
            where=f"request {request_type.__name__}",
            next="give the class an example: `example: ClassVar[dict] = {...}`",
        ) from None
    return body


def _value(info: shape.Type, seed: int, length: int) -> Any:  # noqa: C901, PLR0911 - one case a type
    """Return one value of a type, as JSON knows it."""
    match info:
        case shape.StructType():
            if (example := getattr(info.cls, "example", None)) is not None:
                return example
            return {field.encode_name: _value(field.type, seed + i, length) for i, field in enumerate(info.fields)}
        case shape.IntType() | shape.FloatType():
            return _number(info, seed)
        case shape.StrType():
            return f"{'sample' if info.max_length is None else ''}{seed}".ljust(info.min_length or 0, "x")[
                : info.max_length
            ]
        case shape.BoolType():
            return seed % 2 == 0
        case shape.DateTimeType():
            return dt.datetime(2026, 1, 1, seed % 24, tzinfo=None if info.tz is False else dt.UTC)
        case shape.DateType():
            return dt.date(2026, 1, 1 + seed % 28)
        case shape.LiteralType():
            return info.values[seed % len(info.values)]
        case shape.EnumType():
            return next(iter(info.cls)).value
        case shape.ListType() | shape.CollectionType():
            count = min(max(length, info.min_length or 0), info.max_length or length)
            return [_value(info.item_type, seed + i, length) for i in range(count)]
        case shape.UnionType():
            return _value(next(t for t in info.types if not isinstance(t, shape.NoneType)), seed, length)
        case shape.DictType():
            return {}
    return None


def _number(info: shape.IntType | shape.FloatType, seed: int) -> int | float:
    """Return a number inside the declared bounds."""
    step = 1 if isinstance(info, shape.IntType) else 0.5
    low = info.ge if info.ge is not None else info.gt + step if info.gt is not None else None
    high = info.le if info.le is not None else info.lt - step if info.lt is not None else None
    value = seed * step if low is None else low + (seed % 16) * step
    if high is not None and value > high:
        value = high if low is None or low <= high else (info.gt + info.lt) / 2  # type: ignore[operator]
    return value
