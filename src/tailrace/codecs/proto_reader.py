"""From the bytes of a message to what a request is made from, strictly: what others may read otherwise is refused.

A field that comes twice, of another wire type, cut short, or a number that is not finite, is a fault with its path.
Fields of eight bytes, one after the other, are read at once (`Run`), where they come in the order of their numbers, as
every writer known to us sends them. See https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any, Final

from tailrace.codecs.proto_values import (
    Spent,
    WireError,
    take_bytes,
    take_double,
    take_int,
    take_text,
    take_varint,
    varint_of,
)

VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5
"""Wire types."""
WIRE_TYPES: Final = {"double": EIGHT, "int64": VARINT, "bool": VARINT, "enum": VARINT}
"""Of the kinds that are not behind a length."""
EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
NANOS_MAX: Final = 999_999_999
TAG_OF_TWO_BYTES_MAX: Final = (1 << 14) - 1
KEY_TAG: Final = 1 << 3 | LENGTH
"""Of the key of a map's entry."""
ENTRY_BYTES_MIN: Final = 4
"""Of an entry with its key and its value: their tags, the key's length, and one of the value."""
FIELDS_OF_ENTRY: Final = 5
"""What an entry of a map counts for beside itself, by what it takes."""

Take = Callable[[bytes, int, int], tuple[Any, int]]
"""Takes one value out of the bytes from a place, which end before another; returns it and the place behind it."""


class TakeTime:
    """Takes a google.protobuf.Timestamp. naive: as a time without a zone."""

    def __init__(self, spent: Spent, *, naive: bool) -> None:
        self._naive = naive
        self._parts = MessageReader(spent)
        self._parts.add(1 << 3 | VARINT, One("seconds", take_int).read)
        self._parts.add(2 << 3 | VARINT, One("nanos", take_int).read)

    def take(self, body: bytes, at: int, end: int) -> tuple[dt.datetime, int]:
        """See `Take`."""
        parts, at = self._parts.take(body, at, end)
        nanos = parts.get("nanos", 0)
        if not 0 <= nanos <= NANOS_MAX:
            raise WireError("Expected a Timestamp")
        try:
            time = EPOCH + dt.timedelta(seconds=parts.get("seconds", 0), microseconds=nanos // 1000)
        except OverflowError:
            raise WireError("Expected a Timestamp between the years 1 and 9999") from None
        return time.replace(tzinfo=None) if self._naive else time, at


class One:
    """Reads a field that comes once."""

    def __init__(self, name: str, take: Take) -> None:
        self._name = name
        self._take = take

    def read(self, values: dict[str, Any], body: bytes, at: int, end: int) -> int:
        """Add the field to the values; return the place behind it."""
        name = self._name
        if name in values:
            raise WireError(f"the field `{name}` is there twice", malformed=True)
        try:
            values[name], at = self._take(body, at, end)
        except WireError as fault:
            fault.path.append(f".{name}")
            raise
        return at


class Many:
    """Reads an element of a list, or many of them packed."""

    def __init__(self, name: str, take: Take, spent: Spent) -> None:
        self._name = name
        self._spent = spent
        self._take = take

    def read(self, values: dict[str, Any], body: bytes, at: int, end: int) -> int:
        """Add an element to the list; return the place behind it."""
        found = values.setdefault(self._name, [])
        try:
            value, at = self._take(body, at, end)
        except WireError as fault:
            fault.path.append(f".{self._name}[{len(found)}]")
            raise
        found.append(value)
        return at

    def read_packed(self, values: dict[str, Any], body: bytes, at: int, end: int) -> int:
        """Add the elements behind a length to the list; return the place behind them."""
        packed, at = take_bytes(body, at, end)
        found = values.setdefault(self._name, [])
        try:
            found.extend(self._elements(packed))
        except WireError as fault:
            fault.path.append(f".{self._name}")
            raise
        return at

    def _elements(self, packed: bytes) -> Iterable[Any]:
        if self._take is take_double:
            numbers = struct.unpack(f"<{len(packed) // 8}d", packed)
            if not isfinite(sum(numbers)) and not all(map(isfinite, numbers)):
                raise WireError("Expected finite numbers")
            return numbers
        if self._take is take_int and packed.isascii():  # each in a byte
            return packed
        found: list[Any] = []
        at, end = 0, len(packed)
        while at < end and len(found) <= self._spent.most:
            value, at = self._take(packed, at, end)
            found.append(value)
        self._spent.fields += len(found)
        if self._spent.fields > self._spent.most:
            self._spent.refuse()
        return found


class OneText(One):
    """Reads a text that comes once; a short one, as most are, without asking anybody."""

    def read(self, values: dict[str, Any], body: bytes, at: int, end: int) -> int:
        """Add the field to the values; return the place behind it."""
        begin = at + 1
        behind = begin + body[at]
        if behind - begin > 127 or behind > end or self._name in values:
            return super().read(values, body, at, end)
        values[self._name] = str(body[begin:behind], "utf-8")
        return behind


class OneInt(One):
    """Reads a whole number that comes once; one of up to three bytes, as most are, without asking anybody."""

    def read(self, values: dict[str, Any], body: bytes, at: int, end: int) -> int:
        """Add the field to the values; return the place behind it."""
        value, behind = body[at], at + 1
        if value > 127:
            value += (body[behind] << 7) - 128
            behind += 1
            if value > 16_383:
                value += (body[behind] << 14) - 16_384
                behind += 1
        if value > 2_097_151 or behind > end or self._name in values:
            return super().read(values, body, at, end)
        values[self._name] = value
        return behind


class Entry:
    """Reads an entry of a map; one whose key is short and before its value, as most are, without asking anybody."""

    def __init__(self, name: str, tag: int, take: Take, make: Callable[[], Any], spent: Spent) -> None:
        self._name = name
        self._tag = tag
        self._take = take
        self._spent = spent
        self._parts = MessageReader(spent)
        self._parts.add_empty("key", str)
        self._parts.add_empty("value", make)
        self._parts.add(KEY_TAG, One("key", take_text).read)
        self._parts.add(tag, One("value", take).read)

    def read(self, values: dict[str, Any], body: bytes, at: int, end: int) -> int:
        """Add the entry to the map; return the place behind it. One without a key or a value has the empty one."""
        found = values.setdefault(self._name, {})
        self._spent.fields += FIELDS_OF_ENTRY
        try:
            if self._spent.fields > self._spent.most:
                self._spent.refuse()
            key, value, at = self._usual(body, at, end) or self._any(body, at, end)
            if key in found:
                raise WireError(f"the key {key!r} is there twice", malformed=True)
        except WireError as fault:
            fault.path.append(f".{self._name}[...]")
            raise
        found[key] = value
        return at

    def _usual(self, body: bytes, at: int, end: int) -> tuple[str, Any, int] | None:
        """Return the key, the value and the place behind an entry that is as most are; else None."""
        length, begin = body[at], at + 3
        behind = at + 1 + length
        if not ENTRY_BYTES_MIN <= length <= 127 or behind > end or body[at + 1] != KEY_TAG:
            return None
        middle = begin + body[at + 2]
        if middle >= behind or body[middle] != self._tag:
            return None
        try:
            value, at = self._take(body, middle + 1, behind)
        except WireError as fault:
            fault.path.append(".value")
            raise
        return (str(body[begin:middle], "utf-8"), value, at) if at == behind else None

    def _any(self, body: bytes, at: int, end: int) -> tuple[str, Any, int]:
        parts, at = self._parts.take(body, at, end)
        return parts["key"], parts["value"], at


class Run:
    """Reads doubles that stand one after the other at once; where they do not, leaves the place to what reads fewer.

    Their tags are of one byte below number 16, of two from there on: each is so many bytes before the next.
    """

    def __init__(self, fields: Sequence[tuple[str, int]], fewer: One | Run) -> None:
        names, numbers = zip(*fields, strict=True)
        tags = [varint_of(number << 3 | EIGHT) for number in numbers]
        self._names: tuple[str, ...] = names
        self._empty = dict.fromkeys(names, 0.0)
        self._unpack = struct.Struct("<" + "".join(f"{len(tag)}xd" for tag in tags)).unpack_from
        self._back = len(tags[0])
        self._short = sum(len(tag) + 8 for tag in tags if len(tag) == 1)
        self._length = sum(len(tag) + 8 for tag in tags)
        self._tags = b"".join(tag for tag in tags if len(tag) == 1)
        self._tags_low, self._tags_high = (bytes(tag[i] for tag in tags if len(tag) == 2) for i in (0, 1))
        self._fewer = fewer.read

    def read(self, values: dict[str, Any], body: bytes, at: int, end: int) -> int:
        """Add the fields to the values; return the place behind them."""
        begin = at - self._back
        behind, long = begin + self._length, begin + self._short
        if (
            behind <= end
            and body[begin:long:9] == self._tags
            and body[long:behind:10] == self._tags_low
            and body[long + 1 : behind : 10] == self._tags_high
            and isfinite(sum(numbers := self._unpack(body, begin)))
        ):
            wanted = len(values) + len(numbers)
            if not values:
                values.update(self._empty)  # so that it does not grow number by number
            values.update(zip(self._names, numbers))  # noqa: B905 - as many, and this is dearer when asked
            if len(values) != wanted:
                raise WireError("a field is there twice", malformed=True)
            return behind
        return self._fewer(values, body, at, end)


class MessageReader:
    """Reads the messages of one type. is_open: fields that it does not name are passed over."""

    def __init__(self, spent: Spent, *, is_open: bool = False) -> None:
        self._spent = spent
        self._is_open = is_open
        self._by_tag: dict[int, Callable[[dict[str, Any], bytes, int, int], int]] = {}
        self._empties: list[tuple[str, Callable[[], Any]]] = []
        self._numbers: set[int] = set()

    def add(self, tag: int, read: Callable[[dict[str, Any], bytes, int, int], int]) -> None:
        """Add what reads a field."""
        self._by_tag[tag] = read
        self._numbers.add(tag >> 3)

    def add_empty(self, name: str, make: Callable[[], Any]) -> None:
        """Add what a required field is where it is not there: no message can say an empty list, or None."""
        self._empties.append((name, make))

    def take(self, body: bytes, at: int, end: int) -> tuple[dict[str, Any], int]:
        """See `Take`; a message behind its length."""
        length, at = take_varint(body, at, end)
        if length > end - at:
            raise WireError("a message is longer than what it is in", malformed=True)
        return self.read(body, at, at + length), at + length

    def read(self, body: bytes, at: int, end: int) -> dict[str, Any]:
        """Return the fields between two places, by name. Raises WireError, IndexError or struct.error."""
        values: dict[str, Any] = {}
        by_tag, spent, fields = self._by_tag, self._spent, 0
        for fields in spent.turns:  # noqa: B007 - it is read behind the loop
            if at >= end:
                break
            tag = body[at]
            at += 1
            if tag > 127:
                tag += (body[at] << 7) - 128
                at += 1
                if tag > TAG_OF_TWO_BYTES_MAX:
                    tag, at = take_varint(body, at - 2, end)
            read = by_tag.get(tag)
            at = read(values, body, at, end) if read is not None else self._pass_over(values, tag, body, at, end)
        spent.fields += fields
        if spent.fields > spent.most:
            spent.refuse()
        if at != end:
            raise WireError("a field is longer than what it is in", malformed=True)
        for name, make in self._empties:
            if name not in values:
                values[name] = make()
        return values

    def _pass_over(self, values: dict[str, Any], tag: int, body: bytes, at: int, end: int) -> int:
        """Pass over a field that the type does not name; where it is refused for it, add it under its number."""
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29 or wire not in {VARINT, EIGHT, LENGTH, FOUR}:
            raise WireError("it is not Protocol Buffers", malformed=True)
        if number in self._numbers:
            raise WireError(f"the field {number} is of another wire type ({wire})")
        if not self._is_open:
            raise WireError(f"Object contains unknown field `{number}`")
        if wire == VARINT:
            return take_varint(body, at, end)[1]
        return take_bytes(body, at, end)[1] if wire == LENGTH else at + (8 if wire == EIGHT else 4)
