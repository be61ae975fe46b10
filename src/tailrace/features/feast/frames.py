"""What a store of Feast's values hands to their codec: one entity's values of one view, as one run of bytes.

    key | event time i64 ns | length of each value i32, -1 where there is none | the values, one after the other

The key stands in it so that the codec can tell whose values they are, whoever has kept them in between.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

_NO_TIME: Final = -(1 << 63)


class Frames:
    """The frames of one view. count: of its values."""

    def __init__(self, count: int) -> None:
        self._head = struct.Struct(f"<q{count}i")

    def pack(self, key: bytes, event_ns: int | None, values: Sequence[bytes | None]) -> bytes:
        """Return a frame. event_ns: None where the store's time cannot be read: then nobody will read the frame."""
        lengths = [-1 if value is None else len(value) for value in values]
        head = self._head.pack(_NO_TIME if event_ns is None else event_ns, *lengths)
        return b"".join((key, head, *filter(None, values)))

    def unpack(self, key: bytes, frame: bytes) -> tuple[int, list[bytes]]:
        """Return the event time and the values of a frame, b"" for none. Raises ValueError unless it is the key's."""
        begin = len(key) + self._head.size
        if not frame.startswith(key) or len(frame) < begin:
            raise ValueError("not the values of this entity")
        event_ns, *lengths = self._head.unpack_from(frame, len(key))
        values = []
        for length in lengths:
            end = begin + max(length, 0)
            values.append(frame[begin:end])
            begin = end
        if begin != len(frame) or event_ns == _NO_TIME:
            raise ValueError("not whole, or of no time")
        return event_ns, values
