"""Tensors of the Open Inference Protocol: what a datatype is in bytes and in JSON. No pipeline is known here.

Elements are told in row-major order. Bytes are little-endian; a text has its length in four bytes in front.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from math import isfinite, prod
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidTensorError

RANK_MAX: Final = 8
"""Dimensions of a shape that are read; a field has two at most."""
TEXTS_MAX: Final = 32_768
"""Texts in one call's bytes: each is found by the length of the one before it, at some 0.2 µs."""
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


def _element_of(datatype: str) -> Any:
    """Return the type of an element in JSON."""
    if datatype in WHOLE:
        bits = SIZES[datatype] * 8
        least, most = (0, 2**bits) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        # An integer of 64 bits without a sign is whole anyway: msgspec's bounds have 63.
        return int if most > 2**63 else Annotated[int, Meta(ge=least, le=most - 1)]
    return {"BOOL": bool, TEXT: str}.get(datatype, float)


_ELEMENTS: Final = {datatype: _element_of(datatype) for datatype in (*FORMATS, TEXT)}
_LISTS: Final[dict[tuple[str, bool], Any]] = {
    (datatype, nullable): list[element | None] if nullable else list[element]  # type: ignore[valid-type]
    for datatype, element in _ELEMENTS.items()
    for nullable in (False, True)
}
_DECODERS: Final = {key: msgspec.json.Decoder(kind).decode for key, kind in _LISTS.items()}
_decode_any: Final = msgspec.json.Decoder().decode


def from_json(data: msgspec.Raw, datatype: str, shape: Sequence[int], *, nullable: bool) -> list[Any]:
    """Return the elements in a JSON array, which is flat or nested as the shape says. nullable: null is an element.

    Raises InvalidTensorError where they do not fit the datatype or the shape, and msgspec's errors.
    """
    try:
        values = _DECODERS[datatype, nullable](data)
    except msgspec.ValidationError:
        nested = _decode_any(data)
        if not (len(shape) > 1 and type(nested) is list and nested and type(nested[0]) is list):
            raise
        values = msgspec.convert(_flat(nested, shape), _LISTS[datatype, nullable])
    _check_count(len(values), shape)
    return values  # type: ignore[no-any-return]


def from_bytes(data: bytes, datatype: str, shape: Sequence[int]) -> list[Any]:
    """Return the elements in the bytes of a tensor; of BYTES, the bytes of each.

    Raises InvalidTensorError where there are not just as many as the shape says.
    """
    count = prod(shape)
    if datatype == TEXT:
        return _texts(data, count)
    if len(data) != count * SIZES[datatype]:
        what = f"{len(data)} bytes are no tensor of {datatype} with the shape {list(shape)}"
        raise InvalidTensorError(what, next=f"send {count * SIZES[datatype]} bytes")
    return list(struct.unpack(f"<{count}{FORMATS[datatype]}", data))


def to_bytes(values: Sequence[Any], datatype: str) -> bytes:
    """Return the bytes of some elements. None is NaN among numbers, and empty among texts or bytes."""
    if datatype == TEXT:
        pieces = [each.encode() if isinstance(each, str) else bytes(each or b"") for each in values]
        return b"".join([len(piece).to_bytes(_LENGTH_BYTES, "little") + piece for piece in pieces])
    if datatype in FRACTIONS and None in values:
        values = [float("nan") if value is None else value for value in values]
    return struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)


def are_finite(values: Sequence[float]) -> bool:
    """Say whether no number is infinite or none. A sum is, unless one of them is not or all together are too many."""
    return isfinite(sum(values)) or all(map(isfinite, values))


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


def _check_count(count: int, shape: Sequence[int]) -> None:
    if count != prod(shape):
        raise InvalidTensorError(f"{count} elements are no tensor with the shape {list(shape)}")
