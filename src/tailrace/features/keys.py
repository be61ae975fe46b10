"""How an entity's row is named in the store, and the number by which the row itself says whose it is.

    {customer:123}CustomerProfile:1a2b3c4d       {customer:"c-123"}CustomerProfile:1a2b3c4d

The number behind the view is its schema's id, so that a changed view is filled beside the old one. The braces keep all
rows of an entity in one slot of a Redis Cluster. No two of (entity, id, view, schema) share a key: an entity's name has
no colon, a view's name neither brace nor colon, and only a text has quotes.

An entity of several fields has one text as its id, a line of CSV: parts are joined by commas, whole numbers are bare,
texts stand in quotes, and a quote within a text is doubled (RFC 4180). So a comma within a text joins no parts, and 1
is not "1": the line can be read back in one way only. To everything else it is a text id like any other.

    (4021, 77)  4021,77        ("a,b", "c")  "a,b","c"        (1, "1")  1,"1"
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import repeat
from operator import index, itemgetter
from typing import Final
from zlib import crc32

EntityId = int | str
"""What identifies one entity: an int64 or a text."""

KeyFields = str | tuple[str, ...]
"""The field that an entity's id is in, or the fields that have its parts."""

KEY_BYTES_MAX: Final = 511
"""LMDB's limit. A text id that would pass it is a digest in its key."""

TOMBSTONE: Final = ":forgotten"
"""In place of a view in a key: the row that says that the entity is forgotten, for every view."""

_INT64_END: Final = 1 << 63
_INT64_MIN: Final = -_INT64_END
_SIGN32: Final = 1 << 31
_backwards: Final = itemgetter(slice(None, None, -1))


def fields_of(key: KeyFields) -> tuple[str, ...]:
    """Return the fields of a key, however many."""
    return (key,) if isinstance(key, str) else key


class CompositeFormat:
    """How the ids of an entity of several fields are spelled. types: of each field, int or str."""

    def __init__(self, types: Iterable[type]) -> None:
        self._are_texts = tuple(each is str for each in types)
        self._line = ",".join('"%s"' if is_text else "%d" for is_text in self._are_texts)

    def ids(self, columns: Iterable[Iterable[EntityId]]) -> list[str]:
        """Return the id of each row. columns: the parts, of each field in order; as long as each other."""
        parts = [
            map(str.replace, column, repeat('"'), repeat('""')) if is_text else column  # type: ignore[arg-type]
            for column, is_text in zip(columns, self._are_texts, strict=True)
        ]
        return list(map(self._line.__mod__, zip(*parts, strict=True)))


def composite_id(parts: Iterable[EntityId]) -> str:
    """Return the id that some parts make. Raises TypeError for a part that is neither int nor str."""
    plain = [part if isinstance(part, str) else index(part) for part in parts]
    (entity_id,) = CompositeFormat([str if isinstance(part, str) else int for part in plain]).ids([[p] for p in plain])
    return entity_id


def row_name(view: str, schema_id: int) -> str:
    """Return what a view's keys end with: its name and its schema's id."""
    return f"{view}:{schema_id:08x}"


class KeyFormat:
    """The keys of one kind of row of an entity. row: `row_name` of a view, or `TOMBSTONE`."""

    def __init__(self, entity: str, row: str) -> None:
        self.begin = prefix = b"{%b:" % entity.encode()
        self.end = suffix = b"}%b" % row.encode()
        self._number = prefix.replace(b"%", b"%%") + b"%d" + suffix.replace(b"%", b"%%")
        self._text = prefix.replace(b"%", b"%%") + b'"%b"' + suffix.replace(b"%", b"%%")
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
        return self._number % index(entity_id)

    def keys(self, ids: Sequence[EntityId]) -> list[bytes]:
        """Return the keys of many entities, in order."""
        if not ids:
            return []
        try:
            if type(ids[0]) is int:
                return list(map(self._number.__mod__, ids))
            keys = list(map(self._text.__mod__, map(str.encode, ids)))  # type: ignore[arg-type]
        except (AttributeError, TypeError, UnicodeEncodeError):  # ints and texts mixed, or half a surrogate pair
            return [self.key(entity_id) for entity_id in ids]
        if max(map(len, keys)) > KEY_BYTES_MAX:
            return [self.key(entity_id) for entity_id in ids]
        return keys


def entity_checks(ids: Sequence[EntityId]) -> list[int]:
    """Return the check of each id, an int64: an int64 id itself, 64 bits of any other."""
    try:
        if type(ids[0]) is int:
            if min(ids) >= _INT64_MIN and max(ids) < _INT64_END:  # type: ignore[operator]
                return list(ids)  # type: ignore[arg-type]
        else:
            texts = list(map(str.encode, ids))  # type: ignore[arg-type]
            pairs = zip(map(crc32, texts), map(crc32, map(_backwards, texts)), strict=True)
            return [(high ^ _SIGN32) - _SIGN32 << 32 | low for high, low in pairs]
    except (IndexError, TypeError, UnicodeEncodeError):  # none, ints and texts mixed, or half a surrogate pair
        pass
    return [_signed(_text_check(each) if isinstance(each, str) else each) for each in ids]


def _text_check(entity_id: str) -> int:
    """Return 64 bits of a text id.

    Both ways round, since a second CRC-32 of the same bytes would add nothing: the pair is a CRC of degree 64.
    """
    text = entity_id.encode("utf-8", "surrogatepass")
    return crc32(text) << 32 | crc32(text[::-1])


def _signed(number: int) -> int:
    """Return the lowest 64 bits of a number as an int64."""
    return (number + _INT64_END) % (2 * _INT64_END) - _INT64_END
