"""From answers to the bytes of messages. What is None, or a number without an end, is not there."""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from math import isfinite
from operator import attrgetter
from typing import Any, Final

import msgspec

from tailrace.codecs.proto_form import MANY, ONE, FieldForm, MessageForm
from tailrace.codecs.proto_lock import Lock, LockedField
from tailrace.codecs.proto_reader import EPOCH, LENGTH, WIRE_TYPES
from tailrace.codecs.proto_values import varint_of
from tailrace.request.schema import INT64_MAX, INT64_MIN

_MASK: Final = 2**64 - 1
_MICROSECOND: Final = dt.timedelta(microseconds=1)

Put = Callable[[Any], bytes]
"""Returns the bytes of one value, with its length where its kind has one."""

_double = struct.Struct("<d").pack


def put_int(value: Any) -> bytes:
    """Return a whole number, which may have come as a float."""
    return varint_of(int(value) & _MASK)


def put_bytes(value: bytes) -> bytes:
    """Return bytes behind their length."""
    return varint_of(len(value)) + value


def put_text(value: Any) -> bytes:
    """Return a text, or what is written as one."""
    return put_bytes((value if type(value) is str else str(msgspec.to_builtins(value))).encode())


def put_time(value: dt.datetime) -> bytes:
    """Return a google.protobuf.Timestamp. A time without a zone is UTC."""
    since = (value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)) - EPOCH
    seconds, microseconds = divmod(since // _MICROSECOND, 1_000_000)
    return put_bytes(b"\x08" + put_int(seconds) + b"\x10" + put_int(microseconds * 1000))


class PutEnum:
    """Writes the number of an enum's text; of a text without one, none: zero."""

    def __init__(self, values: Mapping[str, int]) -> None:
        self._numbers = {text: varint_of(number) for text, number in values.items()}

    def put(self, value: Any) -> bytes:
        """See `Put`."""
        return self._numbers.get(value.value if isinstance(value, Enum) else value, b"\0")


class FieldWriter:
    """Writes one field of a message."""

    def __init__(self, field: FieldForm, number: int, put: Put) -> None:
        wire = WIRE_TYPES.get(field.kind, LENGTH)
        self._tag = varint_of(number << 3 | wire)
        self._list_tag = varint_of(number << 3 | LENGTH)
        self._value_tag = bytes([2 << 3 | wire])
        self._put = put
        self._is_number = wire != LENGTH
        plain = self._one if not self._is_number else self._number
        self.write: Put = plain if field.count == ONE else self._many if field.count == MANY else self._map

    def _one(self, value: Any) -> bytes:
        return self._tag + self._put(value)

    def _number(self, value: Any) -> bytes:
        if type(value) is float and not isfinite(value):
            return b""
        return self._tag + self._put(value)

    def _many(self, values: Iterable[Any]) -> bytes:
        put = self._put
        if self._is_number:
            packed = b"".join(map(put, values))
            return self._list_tag + put_bytes(packed) if packed else b""
        return b"".join([self._tag + put(value) for value in values])

    def _map(self, values: Mapping[str, Any]) -> bytes:
        entries = (b"\x0a" + put_text(key) + self._value_tag + self._put(value) for key, value in values.items())
        return b"".join([self._list_tag + put_bytes(entry) for entry in entries])


class MessageWriter:
    """Writes the messages of one type."""

    def __init__(self) -> None:
        self._read: Callable[[Any], Any] = _nothing
        self._writes: list[Put] = []

    def have(self, fields: list[tuple[FieldForm, FieldWriter]]) -> None:
        """Have these fields, in the order in which they are written."""
        names = [field.attribute for field, _ in fields]
        self._writes = [writer.write for _, writer in fields]
        if len(names) > 1:
            self._read = attrgetter(*names)
        elif names:
            read = attrgetter(names[0])
            self._read = lambda value: (read(value),)

    def write(self, value: Any) -> bytes:
        """Return the bytes of one message."""
        found = self._read(value)
        return b"".join([write(each) for write, each in zip(self._writes, found, strict=True) if each is not None])

    def put(self, value: Any) -> bytes:
        """See `Put`."""
        return put_bytes(self.write(value))


def message_writers(forms: Mapping[str, MessageForm], lock: Lock) -> dict[str, MessageWriter]:
    """Return what writes each message, by its name."""
    writers = {name: MessageWriter() for name in forms}
    for name, form in forms.items():
        kept = lock.messages[name].fields
        fields = sorted(form.fields, key=lambda each: kept[each.name].number)
        writers[name].have(
            [
                (field, FieldWriter(field, kept[field.name].number, _put_of(field, kept[field.name], writers)))
                for field in fields
            ]
        )
    return writers


def _nothing(value: Any) -> tuple[()]:
    return ()


def _put_of(field: FieldForm, kept: LockedField, writers: Mapping[str, MessageWriter]) -> Put:
    match field.kind:
        case "message":
            return writers[field.message].put
        case "enum":
            return PutEnum(kept.values).put
    plain: dict[str, Put] = {
        "double": _double, "int64": _put_whole, "bool": put_int, "string": put_text, "bytes": put_bytes,
        "timestamp": put_time,
    }  # fmt: skip
    return plain[field.kind]


def _put_whole(value: Any) -> bytes:
    """Return a number, or an Enum's. Raises OverflowError for one that the message would say another for."""
    whole = int(value.value if isinstance(value, Enum) else value)
    if not INT64_MIN <= whole <= INT64_MAX:
        raise OverflowError("a whole number of a message has 64 bits")
    return varint_of(whole & _MASK)
