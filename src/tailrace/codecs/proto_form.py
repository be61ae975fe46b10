"""Request and response types as messages of Protocol Buffers: what each field is there, without its number.

See https://protobuf.dev/programming-guides/proto3. A type that says what a message cannot is refused with its field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from msgspec import inspect as shape

from tailrace.errors import SetupError

ONE, MANY, MAP = "", "repeated ", "map<string, >"
"""How many values a field has: one at most, a list, or one for each text."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z]\w*", re.ASCII)
_WORD: Final = re.compile(r"(?:^|_)([A-Za-z0-9]?)")
_SCALARS: Final[tuple[tuple[Any, str], ...]] = (
    (shape.BoolType, "bool"),
    (shape.IntType, "int64"),
    (shape.FloatType, "double"),
    (shape.BytesType | shape.ByteArrayType | shape.MemoryViewType, "bytes"),
    (shape.DateTimeType, "timestamp"),
    (
        shape.StrType | shape.DateType | shape.TimeType | shape.TimeDeltaType | shape.UUIDType | shape.DecimalType,
        "string",
    ),
)


@dataclass(frozen=True, slots=True)
class FieldForm:
    """One field of a message.

    name: as callers write it. attribute: of the struct. kind: double, int64, bool, string, bytes, timestamp, enum or
    message. count: ONE, MANY or MAP. message: the name of that message. values: the texts of an enum. required: it has
    no default. nullable: None is allowed. naive: a time without a zone.
    """

    name: str
    attribute: str
    kind: str
    count: str
    message: str = ""
    values: tuple[str, ...] = ()
    required: bool = True
    nullable: bool = False
    naive: bool = False

    @property
    def type(self) -> str:
        """What the bytes of the field are by; with another, it is another field."""
        kind = f"message {self.message}" if self.kind == "message" else self.kind
        return f"map<string, {kind}>" if self.count == MAP else self.count + kind


@dataclass(frozen=True, slots=True)
class MessageForm:
    """One message. is_open: fields that it does not name are passed over, not refused."""

    name: str
    struct: type
    fields: tuple[FieldForm, ...]
    is_open: bool


def message_forms(*types: type) -> dict[str, MessageForm]:
    """Return the messages of struct types and of the structs within them, by name.

    Raises SetupError for a field that no message can have.
    """
    found: dict[str, MessageForm] = {}
    waiting = [_struct_info(shape.type_info(each)) for each in types]
    while waiting:
        info = waiting.pop(0)
        name = info.cls.__name__
        if name not in found:
            found[name] = MessageForm(
                name, info.cls, tuple(_fields_of(info, waiting)), is_open=not info.forbid_unknown_fields
            )
        elif found[name].struct is not info.cls:
            raise SetupError(f"two types are called {name}", where=name, next="rename one: a message goes by its name")
    for each in types:
        if (array := f"{each.__name__}Array") in found:
            raise SetupError(f"{array} is the message of many of {each.__name__}", where=array, next="rename the type")
    return found


def camel_of(name: str) -> str:
    """Return a field's name as a type's: `card_kind` is `CardKind`."""
    return _WORD.sub(lambda match: match[1].upper(), name)


def _struct_info(info: shape.Type) -> shape.StructType:
    assert isinstance(info, shape.StructType)
    return info


def _fields_of(info: shape.StructType, waiting: list[shape.StructType]) -> Iterator[FieldForm]:
    """Give the fields of a struct; add the structs within it to those that wait."""
    seen: dict[str, str] = {}
    for field in info.fields:
        where = f"{info.cls.__name__}.{field.name}"
        if not _IDENTIFIER.fullmatch(field.encode_name):
            raise SetupError(f"a message can have no field {field.encode_name!r}", where=where, next="rename it")
        if (other := seen.setdefault(camel_of(field.encode_name).lower(), field.name)) != field.name:
            raise SetupError(f"a message cannot tell it from {other!r}", where=where, next="rename one of them")
        yield _field_form(field, where, waiting)


def _field_form(field: shape.Field, where: str, waiting: list[shape.StructType]) -> FieldForm:
    info, nullable = _unwrapped(field.type, where)
    count = ONE
    if isinstance(info, shape.CollectionType):
        info, is_null = _unwrapped(info.item_type, where)
        count = MANY
    elif isinstance(info, shape.DictType):
        key, _ = _unwrapped(info.key_type, where)
        if not isinstance(key, shape.StrType):
            raise _no_form(key, where)
        info, is_null = _unwrapped(info.value_type, where)
        count = MAP
    else:
        is_null = False
    kind, message, values, has_null = _kind_of(info, where)
    if is_null or (has_null and count != ONE):
        raise SetupError("a message has no null within a list or a map", where=where, next="leave None out of its type")
    if isinstance(info, shape.StructType):
        waiting.append(info)
    return FieldForm(
        field.encode_name, field.name, kind, count, message, values, field.required, nullable or has_null,
        naive=isinstance(info, shape.DateTimeType) and info.tz is False,
    )  # fmt: skip


def _kind_of(info: shape.Type, where: str) -> tuple[str, str, tuple[str, ...], bool]:
    """Return the kind of one value, its message, the texts of an enum, and whether None is among them."""
    for kinds, name in _SCALARS:
        if isinstance(info, kinds):
            return name, "", (), False
    if isinstance(info, shape.StructType) and not info.array_like:
        return "message", info.cls.__name__, (), False
    if isinstance(info, shape.LiteralType | shape.EnumType):
        listed = info.values if isinstance(info, shape.LiteralType) else tuple(_values_of(info.cls))
        values: tuple[Any, ...] = tuple(value for value in listed if value is not None)
        kinds_of_values = {type(value) for value in values}
        if kinds_of_values == {str}:
            return "enum", "", values, len(values) < len(listed)
        if kinds_of_values == {int}:
            return "int64", "", (), len(values) < len(listed)
    raise _no_form(info, where)


def _values_of(cls: type[Enum]) -> Iterator[Any]:
    return (member.value for member in cls)


def _unwrapped(info: shape.Type, where: str) -> tuple[shape.Type, bool]:
    """Return a type without what is said about it and without None, and whether None was allowed."""
    while isinstance(info, shape.Metadata):
        info = info.type
    if isinstance(info, shape.UnionType):
        options = [each for each in info.types if not isinstance(each, shape.NoneType)]
        if len(options) != 1:
            raise _no_form(info, where)
        return _unwrapped(options[0], where)[0], info.includes_none
    return info, False


def _no_form(info: shape.Type, where: str) -> SetupError:
    name = type(info).__name__.removesuffix("Type").lower()
    return SetupError(
        f"a message has no field of this type ({name})", where=where,
        next="declare a bool, number, text, time, Literal, Enum or struct, a list of them, or a dict from str to them",
    )  # fmt: skip
