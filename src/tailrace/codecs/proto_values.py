"""The values within a message: taken out of its bytes one by one, strictly. See `proto_reader`."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, NoReturn

VARINT_BYTES_MAX: Final = 10

_double = struct.Struct("<d")


class WireError(Exception):
    """What is wrong with a body. malformed: it is no message at all. path: to the fault, from within outwards."""

    def __init__(self, what: str, *, malformed: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.malformed = malformed
        self.path: list[str] = []


def take_varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a whole number of 64 bits without a sign, and the place behind it."""
    value = body[at]
    at += 1
    if value < 128:
        return value, at
    value &= 127
    for shift in range(7, 7 * VARINT_BYTES_MAX, 7):
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >> 64:
                break
            return value, at
    raise WireError("a number has more than 64 bits", malformed=True)


def take_int(body: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a whole number."""
    value, at = take_varint(body, at, end)
    return value if value < 1 << 63 else value - (1 << 64), at


def take_bool(body: bytes, at: int, end: int) -> tuple[bool, int]:
    """Return a truth; any other number is none."""
    value, at = take_varint(body, at, end)
    if value > 1:
        raise WireError(f"Expected `bool`, got `{value}`")
    return value == 1, at


def take_double(body: bytes, at: int, end: int) -> tuple[float, int]:
    """Return a number that is finite."""
    (value,) = _double.unpack_from(body, at)
    if not isfinite(value):
        raise WireError("Expected a finite number")
    return value, at + 8


def take_bytes(body: bytes, at: int, end: int) -> tuple[bytes, int]:
    """Return what is behind a length. Nothing is reserved for what a length promises."""
    length, at = take_varint(body, at, end)
    if length > end - at:
        raise WireError("a field is longer than what it is in", malformed=True)
    return body[at : at + length], at + length


def take_text(body: bytes, at: int, end: int) -> tuple[str, int]:
    """Return a text. Raises UnicodeDecodeError where it is none."""
    found, at = take_bytes(body, at, end)
    return str(found, "utf-8"), at


class Spent:
    """Counts the fields that are read of one body, so that a small body of many keeps nobody waiting for long.

    most: of them; some more are read before that is seen.
    """

    def __init__(self, most: int) -> None:
        self.fields = 0
        self.most = most
        self.turns = range(most + 2)

    def refuse(self) -> NoReturn:
        """Refuse a body of too many. Raises WireError."""
        raise WireError(f"Expected at most {self.most} fields in one body")


class TakeEnum:
    """Takes the text of an enum's number; a number that has none stays one, which no type takes for a text."""

    def __init__(self, values: Mapping[str, int]) -> None:
        self._texts = {number: text for text, number in values.items()}

    def take(self, body: bytes, at: int, end: int) -> tuple[Any, int]:
        """See `Take`."""
        number, at = take_varint(body, at, end)
        return self._texts.get(number, number), at


def varint_of(value: int) -> bytes:
    """Return the bytes of a whole number of 64 bits without a sign."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
