"""The request type: what a caller sends. A frozen msgspec struct whose class attributes name its fields."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, cast, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta as Field

__all__ = ["REDACTED", "Field", "FieldSpec", "Request", "bounded_type", "field_specs", "listed_values"]

REDACTED: Final = Field(extra_json_schema={"x-redact": True})
"""Marks a field whose values no recording keeps: `Annotated[str, tr.REDACTED]`. The API's document says so too."""

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """Base of request types. Fields are annotated; `Annotated[float, tr.Field(gt=0)]` bounds one.

    Unknown fields are refused; `class Payment(tr.Request, forbid_unknown_fields=False)` ignores them instead.
    `Payment.amount`, on the class, names the field where a pipeline lists its features.
    """


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of a request type, as the layers see it.

    dtype: of its column. many: the field is a list, one element a row. nullable: None is allowed (NaN in a column of
    numbers, "" in one of text, NaT in one of times). enum: its values are members of an Enum; its column holds
    their values. width: how many numbers it has where it is a vector, a list of floats of one length; its column is
    (rows, width). 0 for any other field.
    """

    name: str
    dtype: np.dtype[Any]
    many: bool
    nullable: bool
    required: bool
    enum: bool = False
    width: int = 0


_DTYPES: Mapping[type, str] = {
    bool: "bool",
    int: "int64",
    float: "float64",
    str: "object",
    dt.datetime: "datetime64[us]",
    dt.date: "datetime64[D]",
}
_NUMBERS = (bool, int, float)


def _strip(annotation: Any) -> tuple[Any, bool]:
    """Return the type without Annotated and None, and whether None was allowed."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    options = [option for option in get_args(annotation) if option is not type(None)]
    if type(None) in get_args(annotation) and len(options) == 1:
        return _strip(options[0])[0], True
    return annotation, False


def _base_of(values: Sequence[Any]) -> tuple[type, bool]:
    """Return the one type of a Literal's or an Enum's values (else object), and whether None is among them."""
    types = {type(value) for value in values} - {type(None)}
    return types.pop() if len(types) == 1 else object, None in values


def field_specs(request_type: type[Request]) -> dict[str, FieldSpec]:
    """Return the fields of a request type by name, in order. A type without a column of its own has dtype object."""
    specs = {}
    for field in msgspec.structs.fields(request_type):
        base, nullable = _strip(field.type)
        width = vector_width(field.type)
        many = get_origin(base) is list and not width
        if many or width:
            base, _ = _strip(get_args(base)[0])
        enum = isinstance(base, type) and issubclass(base, Enum)
        if enum or get_origin(base) is Literal:
            base, has_null = _base_of([item.value for item in base] if enum else get_args(base))
            nullable |= has_null
        name = "float64" if nullable and base in _NUMBERS else _DTYPES.get(base, "object")
        specs[field.name] = FieldSpec(
            name=field.encode_name,
            dtype=np.dtype(name),
            many=many,
            nullable=nullable,
            required=field.required,
            enum=enum,
            width=width,
        )
    return specs


def vector_width(annotation: Any) -> int:
    """Return the length of a vector: `Annotated[list[float], tr.Field(min_length=8, max_length=8)]`; else 0."""
    for option in (annotation, *get_args(annotation)):  # a vector that may be None is a union
        base, *metas = get_args(option) if get_origin(option) is Annotated else (option,)
        if get_origin(base) is not list or _strip(get_args(base)[0]) != (float, False):
            continue
        for meta in metas:
            if isinstance(meta, Field) and meta.min_length is not None and meta.min_length == meta.max_length:
                return meta.min_length if meta.min_length > 1 else 0
    return 0


def _bounded(annotation: Any) -> Any:
    """Return the annotation with every int held to 64 bits, so that a column of it never overflows."""
    origin = get_origin(annotation)
    if annotation is int:
        return Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)]
    if origin is Annotated:
        base, *metas = get_args(annotation)
        if base is int:
            lower = any(meta.ge is not None or meta.gt is not None for meta in metas if isinstance(meta, Field))
            upper = any(meta.le is not None or meta.lt is not None for meta in metas if isinstance(meta, Field))
            metas.append(Field(ge=None if lower else INT64_MIN, le=None if upper else INT64_MAX))
            return Annotated[int, *metas]
        return Annotated[_bounded(base), *metas]
    if origin is list:
        return list[_bounded(get_args(annotation)[0])]  # type: ignore[misc]
    if origin is not None and type(None) in get_args(annotation):
        options = [_bounded(option) for option in get_args(annotation) if option is not type(None)]
        return options[0] | None if len(options) == 1 else annotation
    return annotation


def bounded_type(
    request_type: type[Request], factories: Mapping[str, Callable[[], Any]] = MappingProxyType({})
) -> type[Request]:
    """Return a subclass of the request type that decodes the same JSON, with its integers held to 64 bits.

    factories: of the fields whose default is to come from there; it must be the same.
    """
    fields: list[Any] = []
    for field in msgspec.structs.fields(request_type):
        factory = factories.get(field.name, field.default_factory)
        default = msgspec.NODEFAULT if field.name in factories else field.default
        made = msgspec.field(  # type: ignore[call-overload]
            default=default, default_factory=factory, name=field.encode_name
        )
        fields.append((field.name, _bounded(field.type), made))
    config = request_type.__struct_config__
    bounded = msgspec.defstruct(
        request_type.__name__,
        fields,
        bases=(request_type,),
        module=request_type.__module__,
        kw_only=True,
        frozen=True,
        gc=False,
        forbid_unknown_fields=config.forbid_unknown_fields,
    )
    return cast(type[Request], bounded)


def listed_values(request_type: type[Request], name: str) -> tuple[Any, ...] | None:
    """Return the values that a field's column can have, where its type lists them (a Literal, an Enum); else None."""
    base, nullable = _strip(get_type_hints(request_type)[name])
    if isinstance(base, type) and issubclass(base, Enum):
        values = tuple(item.value for item in base)
    elif get_origin(base) is Literal:
        values = get_args(base)
    else:
        return None
    return None if nullable or None in values else values
