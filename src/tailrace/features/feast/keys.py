"""How Feast writes an entity's key: its serialisation, versions 2 and 3.

    version 3   count u32 | type of the name u32 | its length u32 | name … | type of the id u32 | its length u32 | id …
    version 2               type of the name u32 |                  name … | type of the id u32 | its length u32 | id …

All names come first, sorted, then the ids in the same order. Little-endian; from Feast's
`key_encoding_utils.serialize_entity_key`. Before it stands the number of the view in the store that reads it, u16: it
is no part of what Feast wrote.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Final

from tailrace.features.feast.declaration import FeastView
from tailrace.features.keys import EntityId

KEY_VERSIONS: Final = (2, 3)
NUMBER_BYTES: Final = 2

_STRING, _INT32, _INT64 = 2, 3, 4
_PART: Final = re.compile(r'"((?:[^"]|"")*)"|(-?[0-9]+)')
"""Of the id of an entity of several fields, as `CompositeFormat` spells it."""
_INT32_ID: Final = struct.Struct("<IIi")
_INT64_ID: Final = struct.Struct("<IIq")


class FeastKeys:
    """The keys of one view of Feast. number: of the view in its store. version: of Feast's serialisation."""

    def __init__(self, view: FeastView, number: int, version: int) -> None:
        join_keys = view.join_keys
        self._order = sorted(range(len(join_keys)), key=join_keys.__getitem__)
        self._types = [join_keys[place][1] for place in self._order]
        names = [join_keys[place][0].encode() for place in self._order]
        head = struct.pack("<I", len(names)) if version > 2 else b""
        for name in names:
            head += struct.pack("<II", _STRING, len(name)) if version > 2 else struct.pack("<I", _STRING)
            head += name
        self._begin = number.to_bytes(NUMBER_BYTES, "little") + head

    def keys(self, ids: Sequence[EntityId]) -> list[bytes]:
        """Return the keys of many entities, in order. An id that its type in Feast cannot hold has a key of no row."""
        begin = self._begin
        if len(self._order) > 1:
            return [begin + self._composite_end(str(each)) for each in ids]
        (key_type,) = self._types
        return [begin + _packed_id(each, key_type) for each in ids]

    def _composite_end(self, entity_id: str) -> bytes:
        parts: list[EntityId] = [
            found[1].replace('""', '"') if found[2] is None else int(found[2]) for found in _PART.finditer(entity_id)
        ]
        if len(parts) != len(self._order):
            return b""
        pairs = zip(self._order, self._types, strict=True)
        return b"".join([_packed_id(parts[place], key_type) for place, key_type in pairs])


def _packed_id(entity_id: EntityId, key_type: str) -> bytes:
    """Return type, length and bytes of an id."""
    if isinstance(entity_id, str) or key_type == "string":
        text = str(entity_id).encode("utf-8", "surrogatepass")
        return struct.pack("<II", _STRING, len(text)) + text
    if key_type == "int32" and -(1 << 31) <= entity_id < 1 << 31:
        return _INT32_ID.pack(_INT32, 4, entity_id)
    try:
        return _INT64_ID.pack(_INT64, 8, entity_id)
    except struct.error:
        return b""
