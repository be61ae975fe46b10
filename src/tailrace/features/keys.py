"""How an entity's row is named in the store, and the number by which the row itself tells whose it is.

    {customer:123}CustomerProfile       {customer:"c-123"}CustomerProfile

The braces keep all rows of an entity in one slot of a Redis Cluster. No two of (entity, id, view) share a key: an
entity's name has no colon, a view's name no brace, and only a text stands in quotes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from tailrace.types import EntityId

KEY_BYTES_MAX: Final = 511
"""LMDB's limit. A text id that would pass it stands in its key as a digest."""

_UINT64: Final = np.dtype("<u8")
_INT64: Final = np.dtype("<i8")


class KeyFormat:
    """The keys of one (entity, view)."""

    def __init__(self, entity: str, view: str) -> None:
        prefix = b"{%b:" % entity.encode()
        suffix = b"}%b" % view.encode()
        self._number = prefix.replace(b"%", b"%%") + b"%d" + suffix.replace(b"%", b"%%")
        self._text_begin, self._text_end = prefix + b'"', b'"' + suffix
        self._digest_begin, self._digest_end = prefix + b"#", suffix

    def key(self, entity_id: EntityId) -> bytes:
        """Return the key of one entity. Raises TypeError for an id that is neither int nor str."""
        if isinstance(entity_id, str):
            text = entity_id.encode("utf-8", "surrogatepass")
            key = self._text_begin + text + self._text_end
            if len(key) > KEY_BYTES_MAX:
                return self._digest_begin + hashlib.sha256(text).hexdigest().encode() + self._digest_end
            return key
        return self._number % entity_id

    def keys(self, ids: Sequence[EntityId]) -> list[bytes]:
        """Return the keys of many entities, in order."""
        if not ids:
            return []
        try:
            if type(ids[0]) is int:
                number = self._number
                return [number % entity_id for entity_id in ids]
            begin, end = self._text_begin, self._text_end
            keys = [begin + entity_id.encode() + end for entity_id in ids]  # type: ignore[union-attr]
        except (AttributeError, TypeError, UnicodeEncodeError):  # ints and texts mixed, or half a surrogate pair
            return [self.key(entity_id) for entity_id in ids]
        if max(map(len, keys)) > KEY_BYTES_MAX:
            return [self.key(entity_id) for entity_id in ids]
        return keys


def text_check(entity_id: str) -> int:
    """Return 64 bits of a text id.

    Both ways round, since a second CRC-32 of the same bytes would tell nothing new: the pair is a CRC of degree 64.
    """
    text = entity_id.encode("utf-8", "surrogatepass")
    return crc32(text) << 32 | crc32(text[::-1])


def entity_checks(ids: Sequence[EntityId]) -> NDArray[Any]:
    """Return the check of each id, uint64: an int64 id itself, 64 bits of a text id."""
    try:
        if type(ids[0]) is int:
            return np.array(ids, _INT64).view(_UINT64)
        return np.array([text_check(entity_id) for entity_id in ids], _UINT64)  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError, IndexError, OverflowError):  # mixed, none, or over 64 bits
        checks = [text_check(each) if isinstance(each, str) else each & 0xFFFF_FFFF_FFFF_FFFF for each in ids]
        return np.array(checks, _UINT64)
