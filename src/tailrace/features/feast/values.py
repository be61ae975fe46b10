"""Values and times as Feast writes them: the protobuf messages `feast.types.Value` and `Timestamp`, read by hand.

A value has one field at most; none is null. What is not exactly so is refused: a value that is cut short would
otherwise be read as another one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tailrace.features.view_spec import STRING_BYTES_MAX

NS_PER_S: Final = 1_000_000_000

_STRING, _INT32, _INT64, _DOUBLE, _FLOAT, _BOOL, _TIME = 0x12, 0x18, 0x20, 0x29, 0x35, 0x38, 0x40
"""The first byte of a value: its field's number and how it is written."""
_NULL: Final = b"\x98\x01"
_NO_TIME: Final = bytes([_TIME, *[0x80] * 9, 0x01])
"""A time that is null is not left out, but is the least int64: NumPy's "not a time"."""
_WHOLE: Final = frozenset({_INT32, _INT64, _TIME})
_SECONDS, _NANOS = 0x08, 0x10
_TIME_NS_MAX: Final = 1 << 63
_unpack_double: Final = struct.Struct("<d").unpack_from
_unpack_float: Final = struct.Struct("<f").unpack_from

ReadValue = Callable[[bytes], Any]
"""Returns what a column holds, None for null. Raises ValueError for a value that the column cannot hold."""


def reader_of(dtype: np.dtype[Any]) -> ReadValue:
    """Return what reads the values of a column of a type."""
    return {"O": _read_text, "b": _read_bool, "f": _read_real}.get(dtype.kind, _read_whole)


def read_time(data: bytes) -> int:
    """Return a Timestamp in ns since the epoch. Raises ValueError for what is none."""
    parts = {_SECONDS: 0, _NANOS: 0}
    begin = 0
    while begin < len(data):
        if data[begin] not in parts:
            raise ValueError("not a timestamp of Feast")
        parts[data[begin]], begin = _signed_at(data, begin + 1)
    time_ns = parts[_SECONDS] * NS_PER_S + parts[_NANOS]
    if not -_TIME_NS_MAX < time_ns < _TIME_NS_MAX:
        raise ValueError(f"no time: {parts[_SECONDS]} s")
    return time_ns


def _read_real(data: bytes) -> float | None:
    length = len(data)
    if length == 9 and data[0] == _DOUBLE:
        return _unpack_double(data, 1)[0]  # type: ignore[no-any-return]
    if length == 5 and data[0] == _FLOAT:
        return _unpack_float(data, 1)[0]  # type: ignore[no-any-return]
    kind = _kind_of(data)
    if kind is None:
        return None
    whole = _whole(data, kind, _WHOLE)
    if int(real := float(whole)) != whole:
        raise ValueError(f"{whole} is no float")
    return real


def _read_whole(data: bytes) -> int | None:
    kind = _kind_of(data)
    return None if kind is None else _whole(data, kind, _WHOLE)


def _read_bool(data: bytes) -> bool | None:
    kind = _kind_of(data)
    return None if kind is None else bool(_whole(data, kind, frozenset({_BOOL})))


def _read_text(data: bytes) -> bytes | None:
    """Return a text in UTF-8."""
    kind = _kind_of(data)
    if kind is None:
        return None
    if kind != _STRING:
        raise ValueError("not a text")
    length, begin = _signed_at(data, 1)
    text = data[begin:]
    if len(text) != length or length > STRING_BYTES_MAX:
        raise ValueError(f"a text of {len(text)} bytes, where {length} were to be, {STRING_BYTES_MAX} at most")
    text.decode()
    return text


def _kind_of(data: bytes) -> int | None:
    """Return the first byte of a value; None for a null."""
    if not data or data == _NO_TIME:
        return None
    if data.startswith(_NULL):
        _whole(data[1:], 0, frozenset({0}))
        return None
    return data[0]


def _whole(data: bytes, kind: int, kinds: frozenset[int]) -> int:
    """Return the number that a value holds, which is of one of some kinds."""
    if kind not in kinds:
        raise ValueError("a value of another type")
    number, end = _signed_at(data, 1)
    if end != len(data):
        raise ValueError("more than one value")
    return number


def _signed_at(data: bytes, begin: int) -> tuple[int, int]:
    """Return the varint that begins somewhere, as an int64, and where it ends."""
    if begin < len(data) and data[begin] < 0x80:
        return data[begin], begin + 1
    number = 0
    for place in range(begin, min(begin + 10, len(data))):
        number |= (data[place] & 0x7F) << 7 * (place - begin)
        if data[place] < 0x80:
            number &= (1 << 64) - 1
            return number - (1 << 64) if number >> 63 else number, place + 1
    raise ValueError("a number that is cut short")
