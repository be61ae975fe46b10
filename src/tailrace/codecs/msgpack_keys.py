"""The keys of MessagePack's maps, seen in the bytes: of a key that is there twice a decoder keeps the last alone."""

from __future__ import annotations

from typing import Any, Final

import msgspec

_FIXED: Final = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3,
                 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}  # fmt: skip
"""The bytes of a value, by its first one."""
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4}
"""The bytes of a value's length, by its first one: of bytes, text and extensions, of which these have a byte more."""
_EXTENSIONS: Final = (0xC7, 0xC8, 0xC9)


def keys_of_map(body: bytes) -> int:
    """Return how many keys the map has that a body begins with; -1 where it is none."""
    first = body[0] if body else 0
    if 0x80 <= first <= 0x8F:
        return first & 0x0F
    if first in (0xDE, 0xDF):
        return int.from_bytes(body[1 : 3 if first == 0xDE else 5], "big")
    return -1


def head_of_map(keys: int) -> bytes:
    """Return how a map of so many keys begins, where it is written as short as can be."""
    if keys < 0x10:
        return bytes([0x80 | keys])
    return b"\xde" + keys.to_bytes(2, "big") if keys < 1 << 16 else b"\xdf" + keys.to_bytes(4, "big")


def find_key_twice(body: bytes) -> str | None:
    """Return a key that a map in a body has twice, None where none has. body: what a decoder has taken."""
    open_maps: list[_Open] = [_Open(1, None)]
    at = 0
    while open_maps:
        top = open_maps[-1]
        if not top.left:
            open_maps.pop()
            continue
        top.left -= 1
        first = body[at]
        keys = keys_of_map(body[at : at + 5])
        parts = keys if keys >= 0 else _parts_of_array(body, at)
        if parts >= 0:
            at += 1 if first < 0xA0 else 3 if first in (0xDC, 0xDE) else 5
            open_maps.append(_Open(2 * parts if keys >= 0 else parts, set() if keys >= 0 else None))
            continue
        begin, at = at, _end(body, at)
        if top.keys is not None and top.left % 2:  # a key: its value is left
            key = _key(body, begin, at)
            if key in top.keys:
                return str(key) if isinstance(key, int) else key.decode("utf-8", "replace")
            top.keys.add(key)
    return None


class _Open:
    """A map or an array that is not at its end: how many parts are left, and the keys that were met in a map."""

    __slots__ = ("keys", "left")

    def __init__(self, left: int, keys: set[Any] | None) -> None:
        self.left = left
        self.keys = keys


def _parts_of_array(body: bytes, at: int) -> int:
    first = body[at]
    if 0x90 <= first <= 0x9F:
        return first & 0x0F
    if first in (0xDC, 0xDD):
        return int.from_bytes(body[at + 1 : at + (3 if first == 0xDC else 5)], "big")
    return -1


def _end(body: bytes, at: int) -> int:
    """Return where a value ends that is neither a map nor an array."""
    first = body[at]
    if first < 0x80 or first >= 0xE0:
        return at + 1
    if 0xA0 <= first <= 0xBF:
        return at + 1 + (first & 0x1F)
    if first in _SIZED:
        width = _SIZED[first]
        return at + 1 + width + int.from_bytes(body[at + 1 : at + 1 + width], "big") + (first in _EXTENSIONS)
    return at + _FIXED[first]


def _key(body: bytes, begin: int, end: int) -> bytes | int:
    """Return a key: a number, or the bytes of a text without what says how long it is; both have several forms."""
    first = body[begin]
    if first < 0x80 or first >= 0xE0 or 0xCC <= first <= 0xD3:
        return int(msgspec.msgpack.decode(body[begin:end]))
    width = _SIZED.get(first, 0) if first not in _EXTENSIONS else 0
    return body[begin + 1 + width : end] if 0xA0 <= first <= 0xBF or width else body[begin:end]
