"""How many fields a message of tensors has, counted before the library makes objects of them.

In 1 MiB there may be half a million, of two bytes each, which the library takes 26 ms to read, and this 4 to refuse.
"""

from __future__ import annotations

from typing import Final

from tailrace.codecs.proto_values import WireError, take_varint
from tailrace.errors import InvalidTensorError, MalformedBodyError
from tailrace.server.oip.asked import TENSORS_MAX

FIELDS_MAX: Final = 12 * TENSORS_MAX
"""Of the message and of its tensors, together: an input and an output of whom all is said have nine."""
COUNTED_BYTES_MIN: Final = 16_384
"""A shorter message is read at once, in a millisecond whatever it has."""
TENSORS: Final = frozenset({5 << 3 | 2, 6 << 3 | 2})
"""The tags of inputs and of outputs, whose fields are counted too."""
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


def check_extent(body: bytes) -> None:
    """Raise InvalidTensorError for a message of more fields than a call has, MalformedBodyError for what is none."""
    if len(body) <= COUNTED_BYTES_MIN:
        return
    try:
        _count(body, 0, len(body), 0, TENSORS)
    except (WireError, IndexError):
        raise MalformedBodyError("the message is no ModelInferRequest", next="see the protocol's .proto") from None


def _count(body: bytes, at: int, end: int, found: int, within: frozenset[int]) -> int:
    """Return how many fields there are with those found before. within: the tags of what is looked into."""
    while at < end:
        found += 1
        if found > FIELDS_MAX:
            raise InvalidTensorError(f"the message has over {FIELDS_MAX} fields", next="send fewer tensors a call")
        tag, at = take_varint(body, at, end)
        wire = tag & 7
        if wire == _LENGTH:
            length, at = take_varint(body, at, end)
            if tag in within:
                found = _count(body, at, min(at + length, end), found, frozenset())
            at += length
        elif wire == _VARINT:
            _, at = take_varint(body, at, end)
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        else:
            raise WireError("a group, which no message of the protocol has")
    return found
