"""Tensors of the Open Inference Protocol: what a datatype is in bytes and in JSON. No pipeline is known here.

Elements are told in row-major order. Bytes are little-endian; a text has its length in four bytes in front.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from math import isfinite, prod
from typing import Any, Final

from tailrace.errors import InvalidTensorError

RANK_MAX: Final = 8
"""Dimensions of a shape that are read; a field has two at most."""
TEXTS_MAX: Final = 32_768
"""Texts in one tensor's bytes: each is found by the length of the one before it, at some 0.2 µs."""
TEXT: Final = "BYTES"
FORMATS: Final = {
    "BOOL": "?", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I",
    "UINT64": "Q", "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
"""The datatypes that are read beside BYTES, as `struct` names them."""
SIZES: Final = {datatype: struct.calcsize(f"<{code}") for datatype, code in FORMATS.items()}
WHOLE: Final = frozenset(name for name in FORMATS if "INT" in name)
FRACTIONS: Final = frozenset(name for name in FORMATS if name.startswith("FP"))
_LENGTH_BYTES: Final = 4


def _bounds_of(datatype: str) -> tuple[int, int]:
    """Return the least and the largest number of a datatype of whole ones."""
    bits = SIZES[datatype] * 8
    return (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_BOUNDS: Final = {datatype: _bounds_of(datatype) for datatype in WHOLE}
_KINDS: Final[Mapping[str, frozenset[type]]] = (
    dict.fromkeys(WHOLE, frozenset({int}))
    | dict.fromkeys(FRACTIONS, frozenset({int, float}))
    | {"BOOL": frozenset({bool}), TEXT: frozenset({str})}
)
"""What the elements of a datatype are in JSON."""
_NULLABLE: Final = {datatype: kinds | {type(None)} for datatype, kinds in _KINDS.items()}


def from_json(data: list[Any], datatype: str, shape: Sequence[int], *, nullable: bool) -> list[Any]:
    """Return the elements in an array of JSON, which is flat or nested as the shape says. nullable: null is an element.

    Raises InvalidTensorError where they do not fit the datatype or the shape.
    """
    if data and type(data[0]) is list:
        data = _flat(data, shape)
    _check_count(data, shape)
    kinds = (_NULLABLE if nullable else _KINDS)[datatype]
    if not kinds.issuperset(map(type, data)):
        place, wrong = next((place, each) for place, each in enumerate(data) if type(each) not in kinds)
        raise InvalidTensorError(f"the element {place} is {str(wrong)[:20]!r}, which is no {datatype}")
    if datatype in WHOLE:
        _check_bounds([each for each in data if each is not None] if nullable else data, datatype)
    return data


def from_bytes(data: bytes, datatype: str, shape: Sequence[int], *, nullable: bool) -> list[Any]:
    """Return the elements in the bytes of a tensor; of BYTES, the bytes of each. nullable: NaN is None.

    Raises InvalidTensorError where there are not just as many as the shape says, or one is no finite number.
    """
    count = prod(shape)
    if datatype == TEXT:
        return _texts(data, count)
    if len(data) != count * SIZES[datatype]:
        what = f"{len(data)} bytes are no tensor of {datatype} with the shape {list(shape)}"
        raise InvalidTensorError(what, next=f"send {count * SIZES[datatype]} bytes")
    values = list(struct.unpack(f"<{count}{FORMATS[datatype]}", data))
    return _finite(values, nullable=nullable) if datatype in FRACTIONS else values


def from_elements(values: list[Any], datatype: str, shape: Sequence[int], *, nullable: bool) -> list[Any]:
    """Return elements that are of a datatype's own type, all of them in their order; see `from_bytes`."""
    _check_count(values, shape)
    if datatype in WHOLE:
        _check_bounds(values, datatype)
    return _finite(values, nullable=nullable) if datatype in FRACTIONS else values


def to_bytes(values: Sequence[Any], datatype: str) -> bytes:
    """Return the bytes of some elements. None is NaN among numbers, and empty among texts or bytes."""
    if datatype == TEXT:
        pieces = [each.encode() if isinstance(each, str) else bytes(each or b"") for each in values]
        return b"".join([len(piece).to_bytes(_LENGTH_BYTES, "little") + piece for piece in pieces])
    if datatype in FRACTIONS and None in values:
        values = [float("nan") if value is None else value for value in values]
    return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)


def _texts(data: bytes, count: int) -> list[bytes]:
    """Return the bytes of each text."""
    end, at = len(data), 0
    if count > TEXTS_MAX or count * _LENGTH_BYTES > end:
        raise InvalidTensorError(f"{end} bytes are no {count} texts, or these are over {TEXTS_MAX}")
    found: list[bytes] = []
    for _ in range(count):
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(data[at:begin], "little")
        if at > end:
            raise InvalidTensorError(f"the text {len(found)} ends behind the {end} bytes of its tensor")
        found.append(data[begin:at])
    if at != end:
        raise InvalidTensorError(f"the texts of a tensor have {at} of its {end} bytes")
    return found


def _flat(values: list[Any], shape: Sequence[int]) -> list[Any]:
    """Return the elements of nested lists. Raises InvalidTensorError where these are not as long as the shape says."""
    level: list[Any] = [values]
    for size in shape:
        if not all(type(each) is list and len(each) == size for each in level):
            raise InvalidTensorError(f"its lists are not of the shape {list(shape)}")
        level = list(chain.from_iterable(level))
    return level


def _check_count(values: Sequence[Any], shape: Sequence[int]) -> None:
    if len(values) != prod(shape):
        raise InvalidTensorError(f"{len(values)} elements are no tensor with the shape {list(shape)}")


def _check_bounds(numbers: Sequence[int], datatype: str) -> None:
    least, most = _BOUNDS[datatype]
    if numbers and (min(numbers) < least or max(numbers) > most):
        raise InvalidTensorError(f"{datatype} goes from {least} to {most}")


def _finite(values: list[float], *, nullable: bool) -> list[Any]:
    """Return numbers, None for NaN where that may be. Raises InvalidTensorError where one is not finite."""
    if _are_finite(values):
        return values
    if not nullable or not _are_finite([value for value in values if value == value]):  # noqa: PLR0124 - NaN is not
        raise InvalidTensorError("it has a number that is not finite", next="send finite numbers")
    return [value if value == value else None for value in values]  # noqa: PLR0124


def _are_finite(values: Sequence[float]) -> bool:
    """Say whether no number is infinite or none. A sum is, unless one of them is not or all together are too many."""
    return isfinite(sum(values)) or all(map(isfinite, values))
