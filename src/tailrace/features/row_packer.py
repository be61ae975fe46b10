"""Packs one row at a time from Python's own values: for values of others, which come row by row. See `row_layout`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from tailrace.features.row_layout import FLAG_NULLS, row_layout
from tailrace.features.view_spec import ViewSpec

_FORMATS: Final = {
    "f8": "d", "f4": "f", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u2": "H", "u1": "B",
    "b1": "?",
}  # fmt: skip
"""How `struct` calls NumPy's types."""


class RowPacker:
    """Packs the rows of one view."""

    def __init__(self, spec: ViewSpec) -> None:
        layout = row_layout(spec)
        places = {column.name: place for place, column in enumerate(spec.columns)}
        self._numbers = [
            (places[name], spec.columns[places[name]].default) for block in layout.blocks for name in block.columns
        ]
        self._texts = [places[column.name] for column in layout.texts]
        self._bitmap_bytes = max(1, -(-len(spec.columns) // 8))
        columns = "".join(_FORMATS[block.dtype.str[1:]] * len(block.columns) for block in layout.blocks)
        columns += "x" * (struct.calcsize(f"<{columns}") % 2)
        packed = f"<Qqqq{columns}{len(self._texts)}H{self._bitmap_bytes}s"
        self._struct = struct.Struct(f"{packed}{layout.dtype.itemsize - struct.calcsize(packed)}x")
        self._stamp = layout.stamp

    def pack(self, check: int, event_ns: int, values: Sequence[Any]) -> bytes:
        """Return the packed row of an entity; it counts as written at its event time.

        check: of the entity. values: in declared order, a text in UTF-8, None for null. Raises struct.error or
        OverflowError for a number that its column cannot hold.
        """
        nulls = sum(1 << place for place, value in enumerate(values) if value is None)
        texts = [values[place] or b"" for place in self._texts]
        numbers = [default if values[place] is None else values[place] for place, default in self._numbers]
        stamp = self._stamp | (FLAG_NULLS << 8 if nulls else 0)
        bitmap = nulls.to_bytes(self._bitmap_bytes, "little")
        fixed = self._struct.pack(stamp, check, event_ns, event_ns, *numbers, *map(len, texts), bitmap)
        return b"".join((fixed, *texts))
