"""Valid requests made up from a request type, to warm a plan up and to measure it before the first caller comes."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from typing import Any

import msgspec
from msgspec import inspect as shape

from tailrace.errors import SetupError
from tailrace.request.schema import Request


def sample_body(request_type: type[Request], *, seed: int = 1, list_length: int = 1) -> bytes:
    """Return the JSON of one valid request. seed: varies ids and numbers. list_length: of list-valued fields.

    Raises SetupError for a type whose constraints (a pattern, say) it cannot meet, or whose own code raises.
    """
    body = msgspec.json.encode(_value(shape.type_info(request_type), seed, list_length))
    try:
        msgspec.json.decode(body, type=request_type)
    except Exception as error:  # a ValidationError, or whatever a __post_init__ raises
        told = "" if isinstance(error, msgspec.ValidationError) else f"{type(error).__name__}: "
        raise SetupError(
            f"no sample request could be made up for {request_type.__name__}: {told}{error}",
            where=f"request {request_type.__name__}",
            next="give the class an example: `example: ClassVar[dict] = {...}`",
        ) from None
    return body


def sample_value(kind: Any, *, seed: int = 1, list_length: int = 1) -> Any:
    """Return one value of any type, as JSON knows it; nothing says that it meets a pattern. See `sample_body`."""
    return _value(shape.type_info(kind), seed, list_length)


def _value(info: shape.Type, seed: int, length: int) -> Any:  # noqa: C901, PLR0911, PLR0912 - one case a type
    """Return one value of a type, as JSON knows it."""
    match info:
        case shape.StructType():
            if isinstance(example := getattr(info.cls, "example", None), dict):
                return example
            tag = {} if info.tag_field is None else {info.tag_field: info.tag}
            return tag | {
                field.encode_name: _value(field.type, seed + i, length) for i, field in enumerate(info.fields)
            }
        case shape.Metadata():  # what a description, or a mark, is said of
            return _value(info.type, seed, length)
        case shape.IntType() | shape.FloatType():
            return _number(info, seed)
        case shape.DecimalType():
            return str(seed)
        case shape.StrType():
            text = f"{'sample' if info.max_length is None else ''}{seed}".ljust(info.min_length or 0, "x")
            return text[: info.max_length]
        case shape.BytesType():
            return bytes(info.min_length or 0)
        case shape.UUIDType():
            return str(uuid.UUID(int=seed))
        case shape.BoolType():
            return seed % 2 == 0
        case shape.DateTimeType():
            return dt.datetime(2026, 1, 1, seed % 24, tzinfo=None if info.tz is False else dt.UTC)
        case shape.DateType():
            return dt.date(2026, 1, 1 + seed % 28)
        case shape.TimeType():
            return dt.time(seed % 24, tzinfo=dt.UTC if info.tz else None)
        case shape.TimeDeltaType():
            return dt.timedelta(seconds=seed)
        case shape.LiteralType():
            return info.values[seed % len(info.values)]
        case shape.EnumType():
            members = list(info.cls)
            return members[seed % len(members)].value
        case shape.TupleType():
            return [_value(item, seed + i, length) for i, item in enumerate(info.item_types)]
        case shape.CollectionType():
            count = min(max(length, info.min_length or 0), length if info.max_length is None else info.max_length)
            return [_value(info.item_type, seed + i, length) for i in range(count)]
        case shape.UnionType():
            return _value(next(t for t in info.types if not isinstance(t, shape.NoneType)), seed, length)
        case shape.DictType():
            items = range(info.min_length or 0)
            return {str(_value(info.key_type, seed + i, 1)): _value(info.value_type, seed + i, 1) for i in items}
    return None


def _number(info: shape.IntType | shape.FloatType, seed: int) -> int | float:
    """Return a number inside the declared bounds, if `multiple_of` leaves one."""
    if isinstance(info, shape.IntType):
        low = info.ge if info.ge is not None else None if info.gt is None else info.gt + 1
        high = info.le if info.le is not None else None if info.lt is None else info.lt - 1
        return _between(low, high, info.multiple_of or 1, seed)
    least = info.ge if info.ge is not None else None if info.gt is None else math.nextafter(info.gt, math.inf)
    most = info.le if info.le is not None else None if info.lt is None else math.nextafter(info.lt, -math.inf)
    if info.multiple_of is not None:
        return _between(least, most, info.multiple_of, seed)
    if least is not None and most is not None:
        return least + min((most - least) / 16, 0.5) * (seed % 16)
    return _between(least, most, 0.5, seed)


def _between(low: float | None, high: float | None, step: float, seed: int) -> int | float:
    """Return a multiple of `step` near the bound there is, or near zero."""
    first = 0 if low is None else math.ceil(low / step) if isinstance(step, float) else -(-low // step)
    last = None if high is None else math.floor(high / step) if isinstance(step, float) else high // step
    if low is None:
        return (seed if last is None or seed <= last else last - seed % 16) * step
    return (first + seed % (16 if last is None else max(1, min(16, int(last - first) + 1)))) * step
