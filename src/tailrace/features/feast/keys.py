"""How Feast writes an entity's key: its serialisation, versions 2 and 3, of one join key.

    version 3   count u32 | type of the name u32 | its length u32 | name | type of the id u32 | its length u32 | id
    version 2               type of the name u32 |                  name | type of the id u32 | its length u32 | id

Little-endian; from Feast's `key_encoding_utils.serialize_entity_key`. Before it stands the number of the view in the
store that reads it, u16: it is no part of what Feast wrote.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from tailrace.features.feast.declaration import FeastView
from tailrace.features.keys import EntityId

KEY_VERSIONS: Final = (2, 3)
NUMBER_BYTES: Final = 2

_STRING, _INT32, _INT64 = 2, 3, 4
_INT32_ID: Final = struct.Struct("<IIi")
_INT64_ID: Final = struct.Struct("<IIq")


class FeastKeys:
    """The keys of one view of Feast. number: of the view in its store. version: of Feast's serialisation."""

    def __init__(self, view: FeastView, number: int, version: int) -> None:
        name = view.join_key.encode()
        head = struct.pack("<III", 1, _STRING, len(name)) if version > 2 else struct.pack("<I", _STRING)
        self._begin = number.to_bytes(NUMBER_BYTES, "little") + head + name
        self._is_text = view.key_type == "string"
        self._is_short = view.key_type == "int32"

    def keys(self, ids: Sequence[EntityId]) -> list[bytes]:
        """Return the keys of many entities, in order. An id that its type in Feast cannot hold has a key of no row."""
        begin, end = self._begin, self._end
        return [begin + end(each) for each in ids]

    def _end(self, entity_id: EntityId) -> bytes:
        if isinstance(entity_id, str) or self._is_text:
            text = str(entity_id).encode("utf-8", "surrogatepass")
            return struct.pack("<II", _STRING, len(text)) + text
        if self._is_short and -(1 << 31) <= entity_id < 1 << 31:
            return _INT32_ID.pack(_INT32, 4, entity_id)
        try:
            return _INT64_ID.pack(_INT64, 8, entity_id)
        except struct.error:
            return b""
