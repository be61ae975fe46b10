"""Messages in the encoding of Protocol Buffers, walked through without the types that they are of.

Source: https://protobuf.dev/programming-guides/encoding. What is read here must be what the library reads. Parsers
differ on numbers that are longer than their type: one cuts them off, so that an unknown field becomes a weight, another
refuses the file. No writer makes such, and none passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
EIGHT: Final = 1
BYTES: Final = 2
FOUR: Final = 5
"""Types of fields: a number, eight bytes, so many as it says, four."""
_TAG_BITS, _SIZE_BITS, _NUMBER_BITS = 32, 31, 64

Field = tuple[int, int, int, int]
"""Number, wire type, and where its value is: from, to; for a number of it the number, and where it ends."""


class MessageReader:
    """Bytes with messages in them. Its methods raise ValueError for what is none, IndexError where the bytes end."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def _texts(self, start: int, end: int, number: int) -> list[bytes]:
        """Return the texts in a message's field."""
        return [self._content[first:last] for first, last in self._messages(start, end, (number,))]

    def _messages(self, start: int, end: int, numbers: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Give where the values of a message's fields are, of those that hold bytes."""
        return (
            (first, last) for number, wire, first, last in self._fields(start, end)
            if wire == BYTES and number in numbers
        )  # fmt: skip

    def _fields(self, start: int, end: int) -> Iterator[Field]:
        """Give the fields of a message. Raises ValueError for one that goes on behind it."""
        at = start
        while at < end:
            tag, at = self._varint(at)
            number, wire = tag >> 3, tag & 7
            if not number or tag >> _TAG_BITS:
                raise ValueError(f"byte {at} ends the number of a field that is none")
            first, last = at, at
            if wire == VARINT:
                first, at = self._varint(at)
            elif wire == BYTES:
                size, first = self._varint(at)
                if size >> _SIZE_BITS:
                    raise ValueError(f"byte {at} begins a field of {size} bytes, more than an ONNX file may have")
                at = last = first + size
            elif wire in (FOUR, EIGHT):
                at = last = at + (4 if wire == FOUR else 8)
            else:
                raise ValueError(f"byte {at} begins no field of an ONNX file")
            if at > end:
                raise ValueError("it is cut short, or no ONNX file")
            yield number, wire, first, last

    def _packed(self, start: int, end: int) -> Iterator[int]:
        """Give the numbers that follow each other in a field."""
        at = start
        while at < end:
            value, at = self._varint(at)
            yield value

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self._content[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80 and not value >> _NUMBER_BITS:
                return value, at
            if shift > _NUMBER_BITS:
                raise ValueError(f"byte {at} belongs to no number")
